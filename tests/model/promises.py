"""What must be true of every world, and of every world once it is left to heal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.model import Status
from tests.model.state import (
    KEY_DELETED,
    LEDGER_EDITED,
    NAMES,
    OPEN,
    OUTBOX_TRIMMED,
    USERS,
    Drainer,
    Hydrator,
    Reconciler,
    Recoverer,
    count,
    text,
)
from tests.model.steps import drain, hydrate, reconcile, recovery
from tests.model.steps.redis import beyond, closed, dirty, warm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.model.state import Fact, Redis, Scope, World

PATIENCE: Final = 4
"""Rounds of recovery, drain and hydration until a world must have healed."""


def broken(world: World) -> str:
    """The promise that this world breaks, or nothing."""
    return world.broken or next(_broken(world), "")


def _broken(world: World) -> Iterator[str]:
    ledger, redis = world.ledger, world.redis
    if count(ledger.rows) > ledger.total:
        yield "there are more rows than seats"
    for fact in world.facts:
        fate = ledger.fate(fact.number)
        if fact.booking:
            yield from _broken_to_canceller(world, fact, fate)
        else:
            yield from _broken_to_booker(world, fact, fate)
    known = {(fact.number, fact.user) for fact in world.facts if not fact.booking}
    for user in USERS:
        row = ledger.rows[user]
        if row >= OPEN and (row, user) not in known:
            yield f"{NAMES[user]} has a row {text(row)} that nobody was given"
    if not world.hands & KEY_DELETED and dirty(redis):
        yield "the seats in Redis do not add up"
    if settled(world) and not world.unfollowed:
        yield from _differ(world)


def _broken_to_booker(world: World, fact: Fact, fate: Status) -> Iterator[str]:
    """A caller who was told that a seat is his."""
    ledger, name = world.ledger, f"{text(fact.number)} of {NAMES[fact.user]}"
    has_row = ledger.rows[fact.user] == fact.number
    ended = fact.removed or any(
        each.booking == fact.number and ledger.fate(each.number) is Status.CONFIRMED
        for each in world.facts
    )
    if fate is Status.CONFIRMED:
        if has_row == ended:
            yield f"{name} reads confirmed, {'ended, and has a row' if ended else 'and has no row'}"
    elif has_row:
        yield f"{name} reads {fate}, and has a row"
    elif fate is Status.REJECTED:
        if not world.hands & (LEDGER_EDITED | OUTBOX_TRIMMED):
            yield f"{name} was accepted, then rejected, and no hand intervened"
    else:
        yield from _broken_while_unknown(world, fact, fate)
        if fate is Status.PENDING and not fact.excused:
            yield from _not_held(world, fact)


def _broken_to_canceller(world: World, fact: Fact, fate: Status) -> Iterator[str]:
    """A caller who was told that his seat is given back."""
    if fate in (Status.LOST, Status.PENDING):
        yield from _broken_while_unknown(world, fact, fate)


def _broken_while_unknown(world: World, fact: Fact, fate: Status) -> Iterator[str]:
    """What the ledger does not know yet is in the outbox, unless Redis lost it."""
    if fact.excused:
        return
    if fate is Status.LOST:
        yield f"{text(fact.number)} reads lost, and Redis lost nothing"
    elif fact not in _there(world.redis, world.ledger.mark, world.facts):
        yield f"{text(fact.number)} is neither in the ledger nor in the outbox"


def _there(redis: Redis, mark: int, facts: tuple[Fact, ...]) -> list[Fact]:
    numbers = {item.number for item in beyond(redis, mark)}
    return [fact for fact in facts if fact.number in numbers]


def _not_held(world: World, fact: Fact) -> Iterator[str]:
    """A pending booking is also his in Redis, once the event is loaded there."""
    user = fact.user
    cancelled = any(each.booking == fact.number for each in world.facts)
    if sells(world) and not cancelled and world.redis.users[user] != fact.number:
        yield f"{text(fact.number)} is pending, and {NAMES[user]} does not hold it in Redis"


def sells(world: World) -> bool:
    """Whether Redis would sell, in the ledger's epoch."""
    ledger, redis = world.ledger, world.redis
    loaded = redis.scripts >> ledger.epoch & 1 and redis.epoch == ledger.epoch
    return bool(
        loaded and not ledger.recovering and not redis.lost and redis.stream is not None
        and redis.master == redis.name and warm(redis, ledger.epoch) and not dirty(redis)
    )  # fmt: skip


def settled(world: World) -> bool:
    """Whether nothing is on its way, and nobody is in the middle of anything that matters."""
    return (
        sells(world)
        and world.old is None
        and world.redis.seq == world.ledger.mark % OPEN
        and not any(drainer.at == "committed" for drainer in world.drainers)
        and all(reconciler.at in reconcile.UNLOCKED for reconciler in world.reconcilers)
    )


def _differ(world: World) -> Iterator[str]:
    ledger, redis = world.ledger, world.redis
    for user in USERS:
        if redis.users[user] != ledger.rows[user]:
            held, row = text(redis.users[user]), text(ledger.rows[user])
            yield f"{NAMES[user]} has {row} in the ledger and {held} in Redis"
    if redis.event and redis.event.total != ledger.total:
        yield f"{redis.event.total} seats in Redis, {ledger.total} in the ledger"


def broken_after_healing(world: World, scope: Scope) -> str:
    """The promise that is broken once all is drained, recovered, loaded and reconciled."""
    sound = scope._replace(epochs=9, shifts=99, planted=frozenset())
    world = _left_alone(world)
    for _ in range(PATIENCE):
        if _needs_recovery(world, scope):
            world = _recovered(world, sound)
        world = _drained(world, sound)
        if not _needs_recovery(world, scope):
            world = _loaded(world, sound)
        if settled(world):
            break
    else:
        return broken(world) or "it does not heal"
    drift = next(_differ(world), "")
    if drift and not world.hands and not world.unfollowed:
        return f"drift without a hand: {drift}"
    world = _reconciled(world, sound)
    drift = next(_differ(world), "")
    if drift:
        return f"drift that is not repaired: {drift}"
    lost = [fact for fact in world.facts if world.ledger.fate(fact.number) is Status.PENDING]
    if lost:
        return f"{text(lost[0].number)} reads pending for ever"
    return broken(world)


def condensed(world: World) -> tuple[object, ...]:
    """What healing depends on: worlds that are equal here heal alike."""
    ledger, redis = world.ledger, world.redis
    return (
        ledger._replace(shift=0, locked=False),
        redis[:7], redis.scripts, redis.name == redis.master, redis.lost,
        world.facts, world.hands, _unfollowed(world),
    )  # fmt: skip


def _unfollowed(world: World) -> bool:
    """Whether Redis may differ: a hand was not followed, or seats are yet to be given back."""
    return world.unfollowed or any(drainer.at == "committed" for drainer in world.drainers)


def _left_alone(world: World) -> World:
    """Everybody died; what expires has expired."""
    return world._replace(
        ledger=world.ledger._replace(locked=False, shift=0),
        redis=world.redis._replace(lease=0, staged=(0, 0), life=0),
        old=None, behind=None,
        drainers=(Drainer(),), recoverers=(Recoverer(),),
        hydrators=(Hydrator(),), reconcilers=(Reconciler(),),
        calls=0, faults=0, unfollowed=_unfollowed(world),
    )  # fmt: skip


def _needs_recovery(world: World, scope: Scope) -> bool:
    """Whether somebody sees the fence, or a gap.

    An outbox that is empty while the log has given out more is a gap too: an idle shift sees it.
    """
    ledger, redis = world.ledger, world.redis
    loaded = redis.scripts >> ledger.epoch & 1 and redis.epoch == ledger.epoch
    if ledger.recovering or not loaded or redis.stream is None or redis.lost:
        return True
    items = beyond(redis, ledger.mark)
    if not items and "empty_outbox_believed" not in scope.planted:
        return ledger.mark % OPEN != redis.seq
    return bool(drain.gaps(ledger.mark, items))


def _recovered(world: World, scope: Scope) -> World:
    world = recovery.claim(recovery.look(world, 0), scope, 0)
    world = recovery.advance(world, scope, 0)
    world = recovery.survey(world, scope, 0)
    if world.recoverers[0].at == "surveyed":
        world = recovery.survey(recovery.take_survivors(world, scope, 0), scope, 0)
    world = recovery.load(recovery.open_outbox(world, scope, 0), 0)
    return recovery.open_epoch(world, 0)


def _drained(world: World, scope: Scope) -> World:
    world = drain.begin_shift(world, 0)
    world = drain.resume(world, scope, 0) or world
    taken = drain.read(world, scope, 0, world.redis)
    if taken is None:
        return world
    world = drain.commit(taken, scope, 0, len(taken.drainers[0].batch))
    if world.drainers[0].at == "committed":
        world = drain.give_back(world, scope, 0, world.redis)
    if world.drainers[0].at == "repaired":
        world = drain.publish(world, 0)
        to = world.drainers[0].to
        world = drain.acknowledge(world, scope, 0, world.redis, to)
    return world


def _loaded(world: World, scope: Scope) -> World:
    epoch = world.ledger.epoch
    if warm(world.redis, epoch):
        if not dirty(world.redis):
            return world
        world = world._replace(redis=closed(world.redis))
    leased = hydrate.lease(world, scope, 0, epoch)
    if leased is None:
        return world
    waited = hydrate.wait(leased, scope, 0)
    if waited is None:
        return leased._replace(redis=leased.redis._replace(lease=0))
    world = hydrate.stage(hydrate.stage(waited, scope, 0, 0), scope, 0, 1)
    return hydrate.install(hydrate.read_total(world, 0), scope, 0)


def _reconciled(world: World, scope: Scope) -> World:
    world = reconcile.begin_reconcile(world, scope, 0) or world
    world = reconcile.lock(world, 0, locks=True)
    world = reconcile.read_users(world, scope, 0)
    if world.reconcilers[0].at == "seen":
        world = reconcile.read_outbox(world, 0, then="judged")
    return reconcile.repair(world, scope, 0)
