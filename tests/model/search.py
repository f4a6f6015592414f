"""Searching the model: breadth first for the shortest way to a broken promise, and at random."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.model import promises, protocol
from tests.model.state import first

if TYPE_CHECKING:
    from tests.model.state import Scope, World

_DIGITS: Final = str.maketrans("", "", "0123456789")


class Found(NamedTuple):
    """What a search saw: how much, and the way to the first broken promise if there is one."""

    states: int
    transitions: int
    promise: str = ""
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Steps one a line, and what they break."""
        return "\n".join(("", *self.path, f"=> {self.promise}"))


class Judge:
    """Whether a world keeps every promise, also once it is left to heal."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._healed: dict[tuple[object, ...], str] = {}

    def broken(self, world: World) -> str:
        """The promise it breaks, or nothing."""
        promise = promises.broken(world)
        if promise:
            return promise
        alone = promises.condensed(world)
        if alone not in self._healed:
            self._healed[alone] = promises.broken_after_healing(world, self._scope)
        return self._healed[alone]


def breadth_first(scope: Scope) -> Found:
    """Every world that can be reached; ends at the first broken promise, by a shortest way."""
    start, judge = first(scope), Judge(scope)
    came: dict[World, tuple[World, str] | None] = {start: None}
    level, transitions = [start], 0
    while level:
        deeper = []
        for world in level:
            for name, after in protocol.steps(world, scope):
                transitions += 1
                if after in came:
                    continue
                came[after] = (world, name)
                promise = judge.broken(after)
                if promise:
                    return Found(len(came), transitions, promise, _way(came, after))
                deeper.append(after)
        level = deeper
    return Found(len(came), transitions)


def _way(came: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    names = []
    while step := came[world]:
        world, name = step
        names.append(name)
    return tuple(reversed(names))


def walk(scope: Scope, seed: int, *, walks: int, steps: int) -> Found:
    """Seeded random ways, each at most so many steps; ends at the first broken promise.

    Each way has a taste of its own: every kind of step is rare or frequent for all of it. With one
    taste for all, nearly every way would be spent on beginning anew.
    """
    chance, judge = random.Random(seed), Judge(scope)
    seen: set[World] = set()
    transitions = 0
    for _ in range(walks):
        world, names = first(scope), []
        taste: dict[str, float] = {}
        for _ in range(steps):
            choices = list(protocol.steps(world, scope))
            if not choices:
                break
            kinds = [name.translate(_DIGITS) for name, _ in choices]
            weights = [taste.setdefault(kind, 10 ** chance.uniform(-3, 0)) for kind in kinds]
            ((name, world),) = chance.choices(choices, weights)
            names.append(name)
            transitions += 1
            seen.add(world)
            promise = judge.broken(world)
            if promise:
                return Found(len(seen), transitions, promise, tuple(names))
    return Found(len(seen), transitions)
