"""Redis: what the steps share of its scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.state import (
    NOBODY,
    OPEN,
    Entry,
    Event,
    Item,
    Number,
    Redis,
    Scope,
    World,
    count,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


def fenced(redis: Redis, epoch: int, scope: Scope) -> bool:
    """Whether a script of this epoch is missing, or refuses."""
    if not redis.scripts >> epoch & 1:
        return True
    return epoch != redis.epoch and "no_fence_in_scripts" not in scope.planted


def warm(redis: Redis, epoch: int) -> bool:
    """Whether the event is loaded in this epoch."""
    return redis.event is not None and redis.event.epoch == epoch


def dirty(redis: Redis) -> bool:
    """Whether the event's seats do not add up."""
    event = redis.event
    return event is not None and event.left + count(redis.users) != event.total


def beyond(redis: Redis, mark: Number) -> tuple[Item, ...]:
    """The items of the outbox after a number."""
    entries = redis.stream or ()
    return tuple(item for entry in entries for item in entry.items if item.number > mark)


def appended(redis: Redis, items: tuple[Item, ...]) -> Redis | None:
    """XADD NOMKSTREAM, and the log; None if it fails."""
    number = items[-1].number
    if redis.stream is None or number <= redis.last:
        return None
    stream = (*redis.stream, Entry(number, items))
    return redis._replace(stream=stream, last=number, seq=number % OPEN)


def repaired(
    redis: Redis,
    epoch: int,
    changes: Iterable[tuple[int, Number, Number]],
    scope: Scope,
    *,
    total: int | None = None,
) -> Redis:
    """What ``repair`` leaves, once past the fence: user, expected, new."""
    event = redis.event
    if event is None or event.epoch != epoch:
        return redis._replace(lease=0)
    if dirty(redis) and "recount_when_dirty" not in scope.planted:
        return closed(redis)  # to count anew would hide that bookings on their way are missing
    users = redis.users
    for user, expected, new in changes:
        if users[user] == expected:
            users = put(users, user, new)
    total = event.total if total is None else total
    return redis._replace(users=users, event=Event(epoch, total, total - count(users)))


def closed(redis: Redis) -> Redis:
    """What ``close`` leaves: the event is cold."""
    return redis._replace(event=None, users=NOBODY, lease=0)


def server(world: World, *, old: bool) -> Redis | None:
    """The Redis that somebody is connected to; None if it ended."""
    return world.old if old else world.redis


def on(world: World, redis: Redis, *, old: bool) -> World:
    """The world in which that Redis is so."""
    return world._replace(old=redis) if old else world._replace(redis=redis)


def trimmed(redis: Redis, to: Number) -> Redis:
    """The entry with the number itself stays, as with MINID."""
    stream = redis.stream
    if stream is not None and to % OPEN:
        stream = tuple(entry for entry in stream if entry.id >= to)
    return redis._replace(acked=max(redis.acked, to % OPEN), stream=stream)
