"""States of Redis that every selling script must refuse, by the word it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lua.desk import Desk

BOUND = 10


async def _other_epoch(desk: Desk) -> None:
    await desk.redis.hset(desk.log, "epoch", 4)


async def _no_log(desk: Desk) -> None:
    await desk.redis.delete(desk.log)


async def _no_seq(desk: Desk) -> None:
    await desk.redis.hdel(desk.log, "seq")


async def _no_acked(desk: Desk) -> None:
    await desk.redis.hdel(desk.log, "acked")


async def _no_numbers_left(desk: Desk) -> None:
    await desk.redis.hset(desk.log, mapping={"seq": 2**32 - 1, "acked": 2**32 - 1})


async def _no_stream(desk: Desk) -> None:
    await desk.redis.delete(desk.outbox)


async def _not_a_stream(desk: Desk) -> None:
    await desk.redis.delete(desk.outbox)
    await desk.redis.set(desk.outbox, "no stream")


async def _stream_ahead(desk: Desk) -> None:
    await desk.redis.xadd(desk.outbox, {"by": "hand"}, "3-99")


async def _no_event(desk: Desk) -> None:
    await desk.redis.delete(desk.event)


async def _event_of_before(desk: Desk) -> None:
    await desk.redis.hset(desk.event, "epoch", 2)


async def _left_too_high(desk: Desk) -> None:
    await desk.redis.hincrby(desk.event, "left", 1)


async def _left_too_low(desk: Desk) -> None:
    await desk.redis.hincrby(desk.event, "left", -1)


async def _no_left(desk: Desk) -> None:
    await desk.redis.hdel(desk.event, "left")


async def _no_total(desk: Desk) -> None:
    await desk.redis.hdel(desk.event, "total")


async def _user_by_hand(desk: Desk) -> None:
    await desk.redis.hset(desk.users, "by hand", "3-7")


async def _opens_at_no_instant(desk: Desk) -> None:
    await desk.redis.hset(desk.event, "opens", "1e20")


async def _opens_beyond_all_time(desk: Desk) -> None:
    await desk.redis.hset(desk.event, "opens", 10**20)


async def _closes_at_no_instant(desk: Desk) -> None:
    await desk.redis.hset(desk.event, "closes", " 5")


async def _ledger_behind(desk: Desk) -> None:
    await desk.redis.hset(desk.log, mapping={"seq": BOUND + 5, "acked": 5})


FENCED = (_other_epoch, _no_log)
CANNOT_NUMBER = (
    _no_seq, _no_acked, _no_numbers_left, _no_stream, _not_a_stream, _stream_ahead,
)  # fmt: skip
COLD = (_no_event, _event_of_before)
DIRTY = (_left_too_high, _left_too_low, _no_left, _no_total, _user_by_hand)
NO_INSTANT = (_opens_at_no_instant, _opens_beyond_all_time, _closes_at_no_instant)

OF_SELLING = [
    *((fault, "fenced") for fault in (*FENCED, *CANNOT_NUMBER)),
    *((fault, "cold") for fault in COLD),
    *((fault, "dirty") for fault in DIRTY),
    (_ledger_behind, "overloaded"),
]
