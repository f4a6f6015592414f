"""The protocol between Redis and Postgres as a state machine: who can do what next.

One function a step, in the engine's own order and with the engine's own checks; a step that cannot
be taken is None. Whoever is under way may stop for ever after any step, which is what a crash is;
he may also begin again, which is what a lost answer or another process is.

Three things are wider here than in the engine, so that nothing hangs on luck: a recovery may begin
at any time and is stale at once, a lease may expire at any time, and whoever calls Redis uses any
epoch whose scripts are loaded.

A planted error is a name in ``Scope.planted``: one check left out, or two steps exchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.steps import callers, drain, faults, hydrate, reconcile, recovery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.model.state import Scope, World


def steps(world: World, scope: Scope) -> Iterator[tuple[str, World]]:
    """Everything that can happen next, with its name."""
    for name, after in _steps(world, scope):
        if after is not None and after != world:
            yield name, canonical(after)


def _steps(world: World, scope: Scope) -> Iterator[tuple[str, World | None]]:
    yield from callers.steps(world, scope)
    for i in range(len(world.drainers)):
        yield from drain.steps(world, scope, i)
    for i in range(len(world.recoverers)):
        yield from recovery.steps(world, scope, i)
    for i in range(len(world.hydrators)):
        yield from hydrate.steps(world, scope, i)
    for i in range(len(world.reconcilers)):
        yield from reconcile.steps(world, scope, i)
    yield from faults.steps(world, scope)


def canonical(world: World) -> World:
    """The same world with those in order who differ in nothing but their place."""
    drainers, recoverers = world.drainers, world.recoverers
    if len(drainers) > 1 and drainers[0] > drainers[1]:
        world = world._replace(drainers=drainers[::-1])
    if len(recoverers) > 1 and recoverers[0] > recoverers[1]:
        world = world._replace(recoverers=recoverers[::-1])
    return world
