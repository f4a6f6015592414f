"""Rules for the Python sources. An exception stands here, with its reason."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from engine import errors
from engine.ledger import QUERY
from tests.tidy.sources import PYTHON, ROOT, TESTS, name_of, tree, where

if TYPE_CHECKING:
    from pathlib import Path

MAY_WRITE_SQL = {
    "engine/ledger.py: SELECT 1",  # sees whether a connection lives
    "engine/embedded.py: CREATE DATABASE onsale\n",  # initdb's database, before there is a ledger
    "engine/up.py",  # the example that `onsale up` prints for people
}

MAY_READ_THE_ENVIRONMENT = {
    "engine/embedded.py",  # passes its own on to the servers it starts
    "engine/up.py",  # passes its own on to the programs it starts
    "api/__main__.py",  # LISTEN_FD: handed over by whoever started this process
    "engine/metrics.py",  # PROMETHEUS_MULTIPROC_DIR: read by prometheus_client itself
}

MAY_SLEEP = {
    "tests/process/test_up.py": {"time.sleep"},  # between two looks for a fact of another process
}


def _names(path: Path) -> set[str]:
    """Every identifier that a module uses."""
    used = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.alias):
            used.update(node.name.split("."))
    return used


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_script_objects(path: Path) -> None:
    """redis-py's ``Script`` loads by itself what Redis lacks: that would undo the fence."""
    assert not _names(path) & {"register_script", "Script", "AsyncScript", "eval", "evalsha"}


def test_eval_is_sent_from_one_place() -> None:
    """``scripts.unfenced`` alone has a script's text sent, and of scripts that sell nothing."""
    sends = [
        (name_of(path), function.name)
        for path in PYTHON
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Constant) and node.value in ("EVAL", "EVAL_RO", "FCALL")
    ]
    assert sends == [("engine/scripts.py", "unfenced")]


def test_only_recovery_loads_scripts() -> None:
    """Whoever else loaded them would open a partition that was not recovered."""
    assert where(r"SCRIPT LOAD", PYTHON) == {("engine/scripts.py", "SCRIPT LOAD")}
    assert not [path for path in PYTHON if "script_load" in _names(path)]
    loading = [
        name_of(path)
        for path in PYTHON
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(".load")
        and "Scripts" in ast.unparse(node.func)
    ]
    assert loading == ["engine/recovery.py"]


def test_keys_are_spelled_in_one_file() -> None:
    """``engine/keys.py`` alone knows how a key looks."""
    spelled = where(r"(?<!/)\bonsale:[\w{]", PYTHON)
    assert {file for file, _ in spelled} == {"engine/keys.py"}
    assert ("engine/keys.py", "onsale:{") in spelled


def test_sql_is_in_sql_files() -> None:
    """No statement is written in Python, but for those that the top of this file explains."""
    statement = (
        r"^\s*(SELECT|INSERT|UPDATE|DELETE|TRUNCATE|CREATE|ALTER|DROP|WITH|LOCK|NOTIFY|LISTEN)\s"
    )
    found = {
        file if file in MAY_WRITE_SQL else f"{file}: {text}"
        for file, text in where(statement, PYTHON)
    }
    assert found == MAY_WRITE_SQL


def test_every_query_is_used() -> None:
    """Each name in ``queries.sql`` is asked for, and nothing else is."""
    text = (ROOT / "engine/sql/queries.sql").read_text(encoding="utf-8")
    named = re.findall(r"^-- name: (\w+)$", text, re.MULTILINE)
    source = "".join(path.read_text(encoding="utf-8") for path in PYTHON)
    asked = re.findall(r'(?:\bQUERY\[|_fetch(?:row)?\(\s*)"(\w+)"', source)
    assert len(named) == len(set(named))
    assert set(named) == set(asked)
    assert set(QUERY) == set(named)


def test_environment_is_read_in_one_file() -> None:
    """Settings are read once, and then passed."""
    readers = {name_of(path) for path in PYTHON if _names(path) & {"environ", "getenv"}}
    assert readers - {"engine/settings.py"} == MAY_READ_THE_ENVIRONMENT


def test_tree_of_errors_is_drawn_as_it_is() -> None:
    """The drawing at the top of ``errors.py`` has every class under its base."""
    drawn: dict[str, str | None] = {}
    line_above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+)( |$)", line)
        if match:
            depth = len(match[1]) // 4
            drawn[match[2]] = line_above[depth - 1] if depth else None
            line_above = [*line_above[:depth], match[2]]
    defined = {
        name: kind.__base__.__name__ if kind is not errors.OnsaleError else None
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.OnsaleError)
    }
    assert drawn == defined


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_empty_words(path: Path) -> None:
    """Names say what a thing is or does: none of those that could be anything's."""
    empty = r"(?i)(^|_)(managers?|utils?|helpers?|handle|handler|misc|stuff|process_data)(_|$)"
    defined = [path.stem] + [
        node.name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert not [name for name in defined if re.search(empty, name)]


@pytest.mark.parametrize("path", [*PYTHON, *TESTS], ids=name_of)
def test_nothing_is_left_for_later(path: Path) -> None:
    """What is not done is not in the code."""
    words = "TO" + "DO|FIX" + "ME|XX" + "X|HA" + "CK"
    assert not re.findall(rf"\b({words})\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_neither_skip_nor_sleep(path: Path) -> None:
    """A server that is missing is an error; a fact is waited for, never a duration."""
    calls = {
        ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)
    } | {ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    forbidden = {"time.sleep", "pytest.skip", "pytest.xfail", "pytest.importorskip"}
    forbidden |= {f"pytest.mark.{mark}" for mark in ("skip", "skipif", "xfail")}
    forbidden -= MAY_SLEEP.get(name_of(path), set())
    assert not calls & forbidden


def test_no_path_of_one_machine() -> None:
    """Nothing here knows where it was written."""
    assert not where(r"/wor" + r"k/", [*PYTHON, *TESTS])
