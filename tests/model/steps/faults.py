"""What goes wrong: Redis loses state, and hands at work in both stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.model.state import (
    KEY_DELETED,
    LEDGER_EDITED,
    NAMES,
    NOBODY,
    OUTBOX_TRIMMED,
    USERS,
    Ledger,
    Redis,
    Scope,
    World,
    count,
    put,
)
from tests.model.steps.redis import beyond

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def steps(world: World, scope: Scope) -> Iterator[tuple[str, World | None]]:
    """What may still go wrong: each fault costs one, its consequences are free."""
    if world.faults:
        paid = world._replace(faults=world.faults - 1)
        for kind in sorted(scope.kinds):
            yield from FAULTS[kind](paid)
    if world.behind is not None:
        if "lose" in scope.kinds:
            yield "Redis restarts without its last writes", _restart(world, world.behind)
        if "promote" in scope.kinds:
            yield "the replica is promoted", _promoted(world, world.behind)
        if "resync" in scope.kinds:
            yield "the master is demoted, and promoted again", _resynced(world, world.behind)
    if world.old is not None:
        yield "the old master ends", world._replace(old=None)


def _restart(world: World, kept: Redis, *, old: Redis | None = None) -> World:
    """Without scripts; its connections are broken. What was in ``kept`` is there."""
    life, name = world.redis.life + 1, world.redis.name + 1
    redis = kept._replace(scripts=0, lost=True, life=life, name=name)
    return _excused(world._replace(redis=redis, behind=None, old=old))


def _promoted(world: World, replica: Redis) -> World:
    """Who is connected to the old master goes on there."""
    world = _restart(world, replica, old=world.redis)
    drainers = tuple(each._replace(old=each.at != "off") for each in world.drainers)
    recoverers = tuple(each._replace(old=each.at != "off") for each in world.recoverers)
    return world._replace(drainers=drainers, recoverers=recoverers)


def _resynced(world: World, replica: Redis) -> World:
    """It took over what the replica had; its scripts and its connections are still there."""
    was = world.redis
    redis = replica._replace(scripts=was.scripts, life=was.life, name=was.name + 1, lost=True)
    return _excused(world._replace(redis=redis, behind=None))


def _excused(world: World) -> World:
    """What was given out and is neither in the ledger nor in the outbox any more may be lost."""
    there = {item.number for item in beyond(world.redis, world.ledger.mark)}
    mark = world.ledger.mark
    facts = tuple(
        fact if fact.number <= mark or fact.number in there else fact._replace(excused=True)
        for fact in world.facts
    )
    return world._replace(facts=facts)


def _restarts(world: World) -> Iterator[tuple[str, World | None]]:
    yield "Redis restarts", _restart(world, world.redis)


def _lags(world: World) -> Iterator[tuple[str, World | None]]:
    if world.behind is None and world.old is None:
        yield "disk and replica lag from here on", world._replace(behind=world.redis)


def _flushes(world: World) -> Iterator[tuple[str, World | None]]:
    """FLUSHALL leaves the scripts and the connections."""
    redis = world.redis._replace(
        epoch=0, seq=-1, acked=-1, master=-1, stream=None, last=0, event=None, users=NOBODY,
        lease=0, staged=NOBODY, lost=True,
    )  # fmt: skip
    yield "Redis is flushed", _excused(world._replace(redis=redis))


def _by_hand(world: World, ledger: Ledger) -> World:
    return _touched(world._replace(ledger=ledger), LEDGER_EDITED)


def _touched(world: World, what: int) -> World:
    """A hand was at work; reconciliations under way may have read what was before."""
    stale = tuple(each._replace(fresh=False) for each in world.reconcilers)
    return world._replace(reconcilers=stale, hands=world.hands | what, unfollowed=True)


def _inserts(world: World) -> Iterator[tuple[str, World | None]]:
    ledger = world.ledger
    if ledger.locked or count(ledger.rows) >= ledger.total:
        return
    number = ledger.by_hand + 1
    for user in USERS:
        if not ledger.rows[user]:
            rows = put(ledger.rows, user, number)
            after = _by_hand(world, ledger._replace(rows=rows, by_hand=number))
            yield f"a hand inserts a row for {NAMES[user]}", after


def _deletes(world: World) -> Iterator[tuple[str, World | None]]:
    ledger = world.ledger
    if ledger.locked:
        return
    for user in USERS:
        gone = ledger.rows[user]
        if gone:
            facts = tuple(
                fact._replace(removed=True) if fact.number == gone else fact for fact in world.facts
            )
            after = _by_hand(world, ledger._replace(rows=put(ledger.rows, user, 0)))
            yield f"a hand deletes {NAMES[user]}'s row", after._replace(facts=facts)


def _cuts(world: World) -> Iterator[tuple[str, World | None]]:
    ledger = world.ledger
    total = 3 - ledger.total
    if not ledger.locked and count(ledger.rows) <= total:
        after = _by_hand(world, ledger._replace(total=total))
        yield f"a hand sets the total to {total}", after


def _deletes_keys(world: World) -> Iterator[tuple[str, World | None]]:
    redis = world.redis
    without = {
        "the log": redis._replace(epoch=0, seq=-1, acked=-1, master=-1, lost=True),
        "the outbox": redis._replace(stream=None, last=0),
        "the event": redis._replace(event=None),
        "the users": redis._replace(users=NOBODY),
    }
    for key, after in without.items():
        touched = _touched(world._replace(redis=after), KEY_DELETED)
        yield f"a hand deletes {key}", _excused(touched)


def _trims(world: World) -> Iterator[tuple[str, World | None]]:
    stream = world.redis.stream or ()
    for kept in range(len(stream)):
        redis = world.redis._replace(stream=stream[len(stream) - kept :])
        touched = _touched(world._replace(redis=redis), OUTBOX_TRIMMED)
        yield f"a hand trims the outbox to {kept}", _excused(touched)


FAULTS: Final[dict[str, Callable[[World], Iterator[tuple[str, World | None]]]]] = {
    "restart": _restarts,
    "lose": _lags,
    "promote": _lags,
    "resync": _lags,
    "flush": _flushes,
    "insert": _inserts,
    "delete": _deletes,
    "cut": _cuts,
    "keys": _deletes_keys,
    "trim": _trims,
}
