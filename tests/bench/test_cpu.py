"""CPU and memory are taken of the right processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from bench.speed import cpu
from bench.speed.ways import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

BURN = "import time\nwhile time.process_time() < {0}: pass\n"
# A child that burns 0.2 s and ends, one that burns 0.2 s and stays, and 0.2 s of its own.
FAMILY = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN.format(0.2)!r}])
stays = {BURN.format(0.2)!r} + "print('burnt', flush=True)\\ninput()\\n"
child = subprocess.Popen([sys.executable, "-c", stays], stdout=subprocess.PIPE)
child.stdout.readline()
import time
begun = time.process_time()
while time.process_time() - begun < 0.2: pass
print("burnt", flush=True)
input()
"""


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process with children, all of which have done their work."""
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"burnt\n"
        yield process
        process.stdin.close()


def test_a_tree_is_counted_whole(family: subprocess.Popen[bytes]) -> None:
    """Also children that have ended; starting three interpreters takes a little, too."""
    assert 0.6 - 4 * cpu.TICK_S <= cpu.seconds(family.pid) < 2.5
    assert len(cpu.tree(family.pid)) == 2


def test_between_two_looks_only_what_was_done_counts(family: subprocess.Popen[bytes]) -> None:
    """By role; ourselves as one that works, the family as one that waits."""
    pids = {"idle": family.pid, "busy": os.getpid()}
    before = cpu.taken(pids)
    begun = time.process_time()
    while time.process_time() - begun < 0.2:
        pass
    spent = cpu.since(before, pids)
    assert spent["idle"] <= cpu.TICK_S
    assert spent["busy"] >= 0.2 - 2 * cpu.TICK_S


def test_who_is_gone_takes_nothing() -> None:
    """A process may end between two looks."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert cpu.stat(gone.pid) == []
    assert cpu.resident_bytes(gone.pid) == 0
    assert cpu.resident_bytes(os.getpid()) > 1_000_000


def become(tree: list[int], states: set[str]) -> None:
    """Wait until all of them are in one of these states: a signal takes a moment to arrive."""
    until_s = time.monotonic() + 10
    while not {cpu.stat(pid)[0] for pid in tree} <= states:
        assert time.monotonic() < until_s


def test_a_tree_is_frozen_whole_and_goes_on(family: subprocess.Popen[bytes]) -> None:
    """T: stopped; S: asleep, as before."""
    tree = cpu.tree(family.pid)
    with frozen(family.pid):
        become(tree, {"T"})
    become(tree, {"S", "R"})
