"""Every mutant can be planted in the tree as it is, says what it is, and touches the product alone.

The drill is run on them by hand (``python -m bench.drill.mutants``): that takes most of an hour.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from bench.drill.faults import FAULTS
from bench.drill.mutants import MUTANTS, Mutant, plant, read

if TYPE_CHECKING:
    from pathlib import Path

PATCHES = sorted(MUTANTS.glob("*.patch"))
PRODUCT = ("engine/", "api/", "worker/", "lua/")


def _touched(patch: Path, side: str) -> set[str]:
    """The files that a patch names: ``-`` those it takes, ``+`` those it leaves."""
    text = patch.read_text(encoding="utf-8")
    return set(re.findall(rf"^{re.escape(side * 3)} (.+)$", text, re.MULTILINE))


@pytest.fixture(params=PATCHES, ids=lambda path: path.stem)
def mutant(request: pytest.FixtureRequest) -> Mutant:
    """Each in turn."""
    return read(request.param)


def test_there_are_enough() -> None:
    """Two or three would prove little."""
    assert len(PATCHES) >= 14


def test_it_can_be_planted(mutant: Mutant, tmp_path: Path) -> None:
    """The patch fits the tree, and what it makes of Python is still Python."""
    copy = tmp_path / "copy"
    plant(mutant, copy)
    for name in _touched(mutant.patch, "+"):
        text = (copy / name.removeprefix("b/")).read_text(encoding="utf-8")
        if name.endswith(".py"):
            ast.parse(text)


def test_it_touches_the_product_alone(mutant: Mutant) -> None:
    """A drill that was changed would prove nothing. No file is made, moved or removed."""
    taken = {name.removeprefix("a/") for name in _touched(mutant.patch, "-")}
    left = {name.removeprefix("b/") for name in _touched(mutant.patch, "+")}
    assert taken == left
    assert taken
    assert all(name.startswith(PRODUCT) for name in taken)


def test_it_says_what_it_is(mutant: Mutant) -> None:
    """Its name, one sentence on the error, which server it needs, and why it lives if it does."""
    assert mutant.name == mutant.patch.stem
    assert re.fullmatch(r"[A-Z].+\.", mutant.what)
    assert re.fullmatch(r"(redis \d+\.\d+)?", mutant.needs)
    assert re.fullmatch(r"([A-Z].+\.)?", mutant.survives)


def test_what_lives_is_killed_by_a_test(mutant: Mutant) -> None:
    """Where the drill does not see it, its header names the test that does."""
    if mutant.survives:
        test, path = re.findall(r" A test kills it: (\w+) \((tests/\S+)\)\.", mutant.survives)[0]
        text = (MUTANTS.parents[2] / path).read_text(encoding="utf-8")
        assert f"def {test}(" in text


def test_it_names_faults_of_the_drill(mutant: Mutant) -> None:
    """Each by its name, and none twice."""
    names = mutant.faults.split(",")
    assert set(names) <= set(FAULTS)
    assert len(set(names)) == len(names)
