"""The outbox: what Redis has decided and the ledger has not yet taken.

An entry is what one script call decided. Its id is the number of its last item, so its n items have
the numbers ``seq-n+1 … seq``: contiguous, and without a clock.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from engine import keys
from engine.errors import REDIS_ERRORS, RedisAway
from engine.model import MAX_EVENT_ID, MAX_MS, Item, Number, Reserves

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from redis.asyncio import Redis

    from engine.scripts import Command

Entry: TypeAlias = tuple[bytes, list[bytes]]
"""An entry as Redis sends it: its id, and its fields: name, value, name, value."""

_RESERVE = (b"kind", b"reserve", b"event", b"at", b"users")
_users = msgspec.json.Decoder(list[str])


class Debt(NamedTuple):
    """How much the outbox owes the ledger."""

    depth: int
    lag_seconds: float


class Outbox:
    """One partition's outbox, for those who bring it to the ledger."""

    def __init__(self, redis: Redis, partition: int) -> None:
        self._redis = redis
        self._key = keys.outbox(partition)
        self._log = keys.log(partition)

    async def read(self, after: Number, *, count: int) -> list[Item]:
        """The items after a number, of at most ``count`` entries.

        Raises:
            RedisAway: Redis does not answer.
        """
        try:
            streams = await self._redis.xread({self._key: str(after)}, count=count)
        except REDIS_ERRORS as error:
            raise RedisAway(f"the outbox cannot be read: {error}") from error
        if not streams:
            return []
        ((_, entries),) = streams
        return _beyond(after, entries)

    async def last(self) -> Number:
        """The number of the last entry; 0-0 if there is none.

        Raises:
            RedisAway: Redis does not answer.
        """
        try:
            return last_of(await self._redis.xrevrange(self._key, count=1))
        except REDIS_ERRORS as error:
            raise RedisAway(f"the outbox cannot be read: {error}") from error

    async def pages(self, after: Number, to: Number, *, count: int) -> AsyncIterator[list[Item]]:
        """The items after a number and as far as another, of at most ``count`` entries at a time.

        Who reads as long as there is something to read never ends, if others sell faster.

        Raises:
            RedisAway: Redis does not answer.
        """
        while after < to and (read := await self.read(after, count=count)):
            yield [item for item in read if item.number <= to]
            after = read[-1].number

    def read_command(self, after: Number, *, count: int, block_ms: int | None = None) -> Command:
        """``read`` for a ``Wire``; with ``block_ms`` it waits for them."""
        block = () if block_ms is None else ("BLOCK", block_ms)
        return ("XREAD", "COUNT", count, *block, "STREAMS", self._key, str(after))

    @staticmethod
    def read_reply(reply: Any) -> list[Entry]:
        """The entries in a reply to ``read_command``."""
        if not reply:
            return []
        ((_, entries),) = reply
        found: list[Entry] = entries
        return found

    async def debt(self, mark: Number) -> Debt:
        """How many numbers the ledger has not taken, and the age of the oldest."""
        try:
            epoch, seq = await self._redis.hmget(self._log, ["epoch", "seq"])  # type: ignore[misc]
            oldest = await self.read(mark, count=1)
            seconds, _ = await self._redis.time()
        except REDIS_ERRORS as error:
            raise RedisAway(f"the outbox cannot be read: {error}") from error
        if not oldest or int(epoch or 0) != mark.epoch:
            return Debt(0, 0.0)
        return Debt(int(seq) - mark.seq, max(0.0, seconds - oldest[0].at_ms / 1000))


async def debts(redis: Redis, partitions: int) -> list[Debt]:
    """What each partition owes, says Redis alone: it may be the ledger that is away.

    Raises:
        RedisAway: Redis does not answer.
    """
    try:
        async with redis.pipeline(transaction=False) as together:
            for partition in range(partitions):
                together.hmget(keys.log(partition), ["epoch", "seq", "acked"])
            logs = [[int(each or 0) for each in log] for log in await together.execute()]
            for partition, (epoch, _, acked) in enumerate(logs):
                together.xrange(keys.outbox(partition), f"({epoch}-{acked}", count=1)
            together.time()
            *oldest, (seconds, micros) = await together.execute()
    except (*REDIS_ERRORS, ValueError) as error:  # a hand may have written anything into the log
        raise RedisAway(f"the outboxes cannot be read: {error}") from error
    now_ms = seconds * 1000 + micros // 1000
    return [_debt(log, entries, now_ms) for log, entries in zip(logs, oldest, strict=True)]


def _debt(log: list[int], entries: list[Any], now_ms: int) -> Debt:
    _, seq, acked = log
    owed = [item for entry in entries for item in items(*entry) if item.number.seq > acked]
    if seq <= acked or not owed:
        return Debt(0, 0.0)
    return Debt(seq - acked, max(0, now_ms - owed[0].at_ms) / 1000)


def _beyond(after: Number, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[Item]:
    """The items of entries, without those of the first that are not wanted."""
    return [
        item
        for entry_id, fields in entries
        for item in items(entry_id, fields)
        if item.number > after
    ]


def items_beyond(after: Number, entries: Sequence[Entry]) -> list[Item]:
    """The items of entries as they came, without those of the first that are not wanted."""
    return _beyond(after, [(entry_id, fields_of(flat)) for entry_id, flat in entries])


def reserves(after: Number, entries: Sequence[Entry], *, most: int) -> Reserves | None:
    """The first entries, of at most so many items, if ``reserve.lua`` wrote them all.

    None if one must be looked at by itself: it is something else, or its numbers do not follow.
    Nothing is made for an item by itself here: it would cost more than all the rest of a drain.
    """
    (epoch, seq), place = after, 0
    event_ids, users, times, seats = list[int](), list[str](), list[int](), dict[int, int]()
    try:
        for entry_id, (kind, reserve, event, event_id_, at, at_ms_, names, users_) in entries:
            named = _users.decode(users_)
            count, event_id, at_ms = len(named), int(event_id_), int(at_ms_)
            if place and len(users) + count > most:
                break
            seq += count
            if (
                (kind, reserve, event, at, names) != _RESERVE
                or entry_id != b"%d-%d" % (epoch, seq)
                or not (0 < count <= most and 0 < event_id <= MAX_EVENT_ID and 0 <= at_ms <= MAX_MS)
            ):
                return None
            event_ids += [event_id] * count
            users += named
            times += [at_ms] * count
            seats[event_id] = seats.get(event_id, 0) + count
            place += 1
    except (ValueError, msgspec.DecodeError):
        return None
    return Reserves(after, place, event_ids, users, times, seats)


def last_of(reply: list[Any]) -> Number:
    """The number in a reply to ``XREVRANGE … COUNT 1``; 0-0 if the outbox is empty."""
    return Number.parse(reply[0][0]) if reply else Number(0, 0)


def fields_of(flat: list[bytes]) -> dict[bytes, bytes]:
    """The fields of an entry as Redis sends them: name, value, name, value."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def items(entry_id: bytes, fields: dict[bytes, bytes]) -> list[Item]:
    """The items of one entry; one ``poison`` item if no script can have written it."""
    last = Number.parse(entry_id)
    kind = fields.get(b"kind", b"")
    if kind == b"open" and last.seq == 0:
        return []
    try:
        event_id, at_ms = int(fields[b"event"]), int(fields[b"at"])
        users = _users.decode(fields[b"users"])
        if not (0 < event_id <= MAX_EVENT_ID and 0 <= at_ms <= MAX_MS):
            users = []
        if kind == b"reserve" and 0 < len(users) <= last.seq:
            first = last.seq - len(users) + 1
            return [
                Item(Number(last.epoch, seq), "reserve", event_id, user, at_ms)
                for seq, user in enumerate(users, start=first)
            ]
        if kind == b"cancel" and len(users) == 1:
            booking = Number.parse(fields[b"booking"])
            return [Item(last, "cancel", event_id, users[0], at_ms, booking)]
    except (KeyError, ValueError, msgspec.DecodeError):
        pass  # no script writes that
    return [Item(last, "poison", entry=_whole(entry_id, fields))]


def _whole(entry_id: bytes, fields: dict[bytes, bytes]) -> str:
    """An entry as JSON in plain ASCII; bytes that are not UTF-8 become lone surrogates."""
    readable: dict[str, Any] = {"id": entry_id.decode()}
    readable["fields"] = {
        name.decode(errors="surrogateescape"): value.decode(errors="surrogateescape")
        for name, value in fields.items()
    }
    return json.dumps(readable)
