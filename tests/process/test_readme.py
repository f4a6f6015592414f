"""The README says what is so: its commands are run, and its answers are compared.

A fenced ``sh`` block is commands. One that begins with ``make`` or with Docker is looked at without
being run; every other one is followed by a ``text`` block, which is what it prints. In there

- ``…`` stands for anything within its line,
- a time may be any time,
- a number of ten digits or more is a booking's id: the first time it is shown it may be any, and
  from then on, in commands too, it stands for the one that came.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from api.problems import PROBLEMS
from bench.drill.faults import FAULTS
from engine.settings import Settings
from tests.world import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOUND_S = 60.0

_BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"`([a-z-]+)`")
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_VARIES = re.compile(rf"(?P<any>…)|(?P<time>{_TIME})|(?P<id>\d{{10,}})")


class Block(NamedTuple):
    """Commands of the README and what it says they print."""

    commands: str
    answer: str

    @property
    def is_run(self) -> bool:
        """Whether the commands belong to the walk."""
        return not self.commands.startswith(("make ", "docker ", "cp "))


BLOCKS = [Block(*found.groups(default="")) for found in _BLOCK.finditer(README)]


class Walk:
    """Somebody who types what the README says, in the folder of a fresh clone."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._ids: dict[str, str] = {}

    def follow(self, block: Block) -> None:
        """Run a block's commands, and see that they print what the README says."""
        commands = block.commands.replace("localhost:8000", self._address)
        for shown, real in self._ids.items():
            commands = commands.replace(shown, real)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self._folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stderr}"
        self._compare(block.answer, done.stdout, commands)

    def _compare(self, answer: str, printed: str, commands: str) -> None:
        shown, came = _lines(answer), _lines(printed)
        for expected, line in zip(shown, came, strict=False):
            names: dict[str, str] = {}
            match = re.fullmatch(self._pattern(expected, names), line)
            assert match, f"{commands}\nthe README: {expected}\nit printed: {line}"
            self._ids |= {shown_id: match[name] for shown_id, name in names.items()}
        assert len(came) == len(shown), f"{commands}\nit printed: {printed}"

    def _pattern(self, expected: str, names: dict[str, str]) -> str:
        """A line of the README as a regular expression; ``names`` gets the groups of new ids."""

        def varying(found: re.Match[str]) -> str:
            text = found[0]
            if found["any"]:
                return ".*"
            if found["time"]:
                return _TIME
            if text in self._ids:
                return self._ids[text]
            if text in names:
                return f"(?P={names[text]})"
            names[text] = f"id{len(self._ids) + len(names)}"
            return rf"(?P<{names[text]}>\d+)"

        pattern, at = "", 0
        for found in _VARIES.finditer(expected):
            pattern += re.escape(expected[at : found.start()]) + varying(found)
            at = found.end()
        return pattern + re.escape(expected[at:])


def _lines(text: str) -> list[str]:
    """The lines, without the blanks that psql puts at their ends, and empty ones last."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    """A folder with ``.venv/bin/onsale``, and an ``onsale up`` with default settings in it."""
    script = tmp_path / ".venv/bin/onsale"
    script.parent.mkdir(parents=True)
    python = f"PYTHONPATH='{ROOT}' exec '{sys.executable}' -m engine.cli"
    script.write_text(f'#!/bin/sh\n{python} "$@"\n')
    script.chmod(0o755)
    log = tmp_path / "up.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [script, "up", "--json", "--port", "0"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as up,
    ):
        assert up.stdout is not None
        line = up.stdout.readline()
        assert line, log.read_text()
        port = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert port, line
        yield Walk(tmp_path, f"localhost:{port[1]}")
        up.terminate()


def test_the_walk_goes_as_the_readme_says(walk: Walk) -> None:
    """On a fresh system with default settings, every command prints what is shown below it."""
    blocks = [block for block in BLOCKS if block.is_run]
    assert len(blocks) == 7, "an event, and six scenarios"
    for block in blocks:
        assert block.answer, f"the README does not say what this prints: {block.commands}"
        walk.follow(block)


def test_the_make_commands_exist() -> None:
    """Each ``make`` command of the README names a target."""
    words = [block.commands.split() for block in BLOCKS if block.commands.startswith("make ")]
    assert ["make", "up"] in words
    assert ["make", "test"] in words
    for command in words:
        argv = [command[0], "-n", *command[1:]]
        assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_docker_commands_name_what_exists() -> None:
    """The files they read are there, and the services they name are in docker-compose.yml."""
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    services = re.findall(r"^  (\w+):$", compose.split("\nservices:\n")[1], re.MULTILINE)
    assert {"postgres", "redis", "migrate", "api", "worker"} <= set(services)
    assert (ROOT / ".env.example").exists()
    assert (ROOT / "Dockerfile").exists()
    for service in re.findall(r"docker compose exec (\w+)", README):
        assert service in services


def test_the_table_of_settings_is_whole() -> None:
    """Every setting, with its default; and nothing that is no setting."""
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`(.*?)`)? ?\|", README, re.MULTILINE))
    said = {name: default or "" for name, default in rows.items()}
    assert said == {
        name.upper(): str("" if field.default is None else field.default).replace("False", "false")
        for name, field in Settings.model_fields.items()
    }


def test_every_link_leads_somewhere() -> None:
    """The README and the pages in docs/ link to files that exist."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_what_the_guarantees_are_shown_by_exists() -> None:
    """Each test that is named is where the link leads, and each fault is one of the drill's."""
    page = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    tests = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)", page)
    assert len(tests) > 20
    for name, path in tests:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name
    table = page[page.index("## What fails") : page.index("## How we know")]
    named = {name for row in table.splitlines() for name in _NAME.findall(row.split("|")[-2:][0])}
    assert named == set(FAULTS)


def test_docs_name_every_code_metric_and_log_event() -> None:
    """What a caller or an operator may meet is in the docs, by its name."""
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for package in ("engine", "api", "worker")
        for path in (ROOT / package).rglob("*.py")
    )
    http = (ROOT / "docs/http.md").read_text(encoding="utf-8")
    operating = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    assert [each for each in PROBLEMS if f"`{each}`" not in http] == []
    metrics = re.findall(r'^[A-Z_]+ = (?:Counter|Gauge|Histogram)\(\s*"(\w+)"', code, re.MULTILINE)
    assert [each for each in metrics if f"`{each}" not in operating] == []
    said = r'\b(?:log\.(?:debug|info|warning|error|critical|exception)|say)\(\s*"(\w+)"'
    events = set(re.findall(said, code)) | {"listening"}
    assert len(events) > 10
    assert sorted(each for each in events if f"`{each}`" not in operating) == []
