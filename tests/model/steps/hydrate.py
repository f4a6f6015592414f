"""Hydration: see the event cold, wait for the mark, stage the rows, install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.state import NAMES, NOBODY, OPEN, Event, Hydrator, Redis, Scope, World, count, put
from tests.model.steps.redis import fenced, warm

if TYPE_CHECKING:
    from collections.abc import Iterator


def steps(world: World, scope: Scope, i: int) -> Iterator[tuple[str, World | None]]:
    """Whoever saw the event cold."""
    who, hydrator = f"hydration {i + 1}", world.hydrators[i]
    if world.redis.lease:
        yield "the lease expires", world._replace(redis=world.redis._replace(lease=0))
    for epoch in range(1, scope.epochs + 1):
        if not fenced(world.redis, epoch, scope) and world.redis.seq >= 0:
            yield f"{who} takes the lease in epoch {epoch}", lease(world, scope, i, epoch)
            if "seq_before_cold" in scope.planted and hydrator.at == "off":
                need = epoch * OPEN + world.redis.seq
                peeked = Hydrator("peeked", epoch, need)
                yield f"{who} reads the last number", _hydrator(world, i, peeked)
    match hydrator.at:
        case "leased":
            yield f"{who} sees the mark", wait(world, scope, i)
        case "ready" | "half":
            user = 0 if hydrator.at == "ready" else 1
            yield f"{who} stages {NAMES[user]}", stage(world, scope, i, user)
        case "staged":
            yield f"{who} reads the total", read_total(world, i)
        case "sized":
            yield f"{who} installs", install(world, scope, i)
        case _:
            pass


def _hydrator(world: World, i: int, hydrator: Hydrator) -> World:
    all_of_them = world.hydrators
    return world._replace(hydrators=(*all_of_them[:i], hydrator, *all_of_them[i + 1 :]))


def lease(world: World, scope: Scope, i: int, epoch: int) -> World | None:
    """See the event cold, take the lease, and read the last number: one script."""
    redis = world.redis
    if warm(redis, epoch) or redis.lease:
        return None
    need = epoch * OPEN + redis.seq
    if "seq_before_cold" in scope.planted:
        if world.hydrators[i].at != "peeked":
            return None
        need = world.hydrators[i].need
    world = world._replace(redis=redis._replace(lease=i + 1, staged=NOBODY))
    return _hydrator(world, i, Hydrator("leased", epoch, need))


def wait(world: World, scope: Scope, i: int) -> World | None:
    """Go on once the ledger has everything that was sold before the event was cold."""
    hydrator = world.hydrators[i]
    if world.ledger.mark < hydrator.need and "hydrate_without_wait" not in scope.planted:
        return None
    return _hydrator(world, i, hydrator._replace(at="ready"))


def stage(world: World, scope: Scope, i: int, user: int) -> World:
    """One page of the ledger's rows into the staging."""
    redis, hydrator = world.redis, world.hydrators[i]
    row = world.ledger.rows[user]
    if row:
        if fenced(redis, hydrator.epoch, scope) or not _leased(redis, i, scope):
            return _hydrator(world, i, Hydrator())
        world = world._replace(redis=redis._replace(staged=put(redis.staged, user, row)))
    at = "half" if user == 0 else "staged"
    return _hydrator(world, i, hydrator._replace(at=at, staged=hydrator.staged + bool(row)))


def _leased(redis: Redis, i: int, scope: Scope) -> bool:
    return redis.lease == i + 1 or "install_without_lease" in scope.planted


def read_total(world: World, i: int) -> World:
    """The event's row, last: whoever changes it from now on finds the lease."""
    hydrator = world.hydrators[i]._replace(at="sized", total=world.ledger.total)
    return _hydrator(world, i, hydrator)


def install(world: World, scope: Scope, i: int) -> World:
    """Open the event for sale, if epoch and lease hold and the staging is whole."""
    redis, hydrator = world.redis, world.hydrators[i]
    whole = count(redis.staged) == hydrator.staged
    if not fenced(redis, hydrator.epoch, scope) and _leased(redis, i, scope) and whole:
        event = Event(hydrator.epoch, hydrator.total, hydrator.total - hydrator.staged)
        redis = redis._replace(event=event, users=redis.staged, lease=0, staged=NOBODY)
    return _hydrator(world._replace(redis=redis), i, Hydrator())
