"""Callers, by way of an API process that may know any epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.model.state import NAMES, OPEN, USERS, Fact, Item, Number, Redis, Scope, World, put, text
from tests.model.steps.redis import appended, closed, dirty, fenced, on, server, warm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_SEQ: Final = OPEN - 1


def steps(world: World, scope: Scope) -> Iterator[tuple[str, World | None]]:
    """Reserve for one or both, cancel what is held, close what does not add up."""
    for old in (False, True):
        redis = server(world, old=old)
        if redis is None:
            continue
        where = " at the old master" if old else ""
        for epoch in range(1, scope.epochs + 1):
            if fenced(redis, epoch, scope):
                continue
            who = f" in epoch {epoch}{where}"
            if world.calls and redis.seq < MAX_SEQ - 1:
                # Until something tells the users apart, bob alone is as good as ann alone.
                alike = not world.facts and not world.ledger.by_hand
                for users in ((0,), (0, 1)) if alike else ((0,), (1,), (0, 1)):
                    names = " and ".join(NAMES[user] for user in users)
                    yield f"reserve for {names}{who}", _reserve(world, scope, epoch, users, old=old)
                for user in USERS:
                    for booking in _named(world, redis, user, scope):
                        after = _cancel(world, scope, epoch, (user, booking), old=old)
                        yield f"cancel {NAMES[user]}'s {text(booking)}{who}", after
            if warm(redis, epoch) and dirty(redis):
                yield f"close{who}", on(world, closed(redis), old=old)


def _named(world: World, redis: Redis, user: int, scope: Scope) -> Iterable[Number]:
    """The bookings that a user may ask to cancel: another than he holds is refused."""
    held = redis.users[user]
    if "cancel_without_compare" in scope.planted and held:
        return [fact.number for fact in world.facts if fact.user == user and not fact.booking]
    return [held] if held else []


def _sells(redis: Redis, epoch: int, scope: Scope) -> bool:
    known = redis.master == redis.name or "master_not_compared" in scope.planted
    return known and warm(redis, epoch) and not dirty(redis) and redis.seq >= 0


def _reserve(
    world: World, scope: Scope, epoch: int, users: tuple[int, ...], *, old: bool
) -> World | None:
    redis = server(world, old=old)
    if redis is None or redis.event is None or not _sells(redis, epoch, scope):
        return None
    event = redis.event
    granted: list[Item] = []
    held = redis.users
    for user in users:
        if not held[user] and len(granted) < event.left:
            item = Item(epoch * OPEN + redis.seq + len(granted) + 1, user)
            held = put(held, user, item.number)
            granted.append(item)
    if len(granted) < len(users):
        return None  # who is refused might as well not have asked
    added = appended(redis, tuple(granted))
    if added is None:
        return None
    left = event.left - len(granted)
    added = added._replace(users=held, event=event._replace(left=left))
    return _given(world, added, granted, old=old)


def _cancel(
    world: World, scope: Scope, epoch: int, place: tuple[int, Number], *, old: bool
) -> World | None:
    redis = server(world, old=old)
    if redis is None or redis.event is None or not _sells(redis, epoch, scope):
        return None
    event = redis.event
    user, booking = place
    item = Item(epoch * OPEN + redis.seq + 1, user, booking)
    added = appended(redis, (item,))
    if added is None:
        return None
    event = event._replace(left=event.left + 1)
    return _given(
        world, added._replace(users=put(redis.users, user, 0), event=event), [item], old=old
    )


def _given(world: World, redis: Redis, items: list[Item], *, old: bool) -> World:
    """Callers are told their numbers; what an old master tells is lost with it."""
    broken = "a Redis that lost state has sold" if redis.lost else world.broken
    facts = world.facts
    for number, user, booking in items:
        if any(fact.number == number for fact in facts):
            broken = f"{text(number)} was given twice"
        facts = (*facts, Fact(number, user, booking, excused=old))
    world = world._replace(facts=facts, calls=world.calls - 1, broken=broken)
    return on(world, redis, old=old)
