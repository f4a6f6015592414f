"""Which faults strike in a round: by its seed alone, and only such as can strike at once."""

from __future__ import annotations

from itertools import combinations

from bench.drill.faults import FAULTS
from bench.drill.rounds import draw

NAMES = list(FAULTS)


def test_seed_decides() -> None:
    """The same seed draws the same faults; the seeds together draw them all."""
    drawn = [draw(seed, NAMES, alone=False) for seed in range(300)]
    assert drawn == [draw(seed, NAMES, alone=False) for seed in range(300)]
    assert {each.name for faults in drawn for each in faults} == set(NAMES)


def test_two_to_four_at_once() -> None:
    """No server is struck twice in a round; hands and the network may be."""
    for seed in range(300):
        faults = draw(seed, NAMES, alone=False)
        assert 2 <= len(faults) <= 4
        for one, other in combinations(faults, 2):
            assert one.place != other.place or one.place in ("hands", "network")


def test_alone_each_has_its_turn() -> None:
    """As many rounds as there are faults strike with each of them once."""
    drawn = [draw(seed, NAMES, alone=True) for seed in range(len(NAMES))]
    assert sorted(fault.name for (fault,) in drawn) == sorted(NAMES)
