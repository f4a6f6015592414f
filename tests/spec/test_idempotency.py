"""One ``Idempotency-Key``, one booking: however often it comes, wherever, and however late."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from tests.world import Sale


async def test_twenty_retries_over_two_processes_make_one_booking(sale: Sale) -> None:
    """Each over a connection of its own: one first answer, and the same nineteen times again."""
    event_id, key = await sale.open_event(5), uuid4().hex
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(sale.caller()) for _ in range(20)]
        retries = (caller.reserve(event_id, "ann", idempotency_key=key) for caller in callers)
        answers = await asyncio.gather(*retries)
        assert await callers[0].available(event_id) == 4
    assert {answer.status for answer in answers} <= {201, 202}
    assert len({(answer.body["id"], answer.body["created_at"]) for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19
    await sale.count_seats()


async def test_a_late_duplicate_after_a_cancel_books_nothing(sale: Sale) -> None:
    """Nor once its partition was recovered; the others' seats are theirs."""
    event_id, key = await sale.open_event(1), uuid4().hex
    async with sale.caller() as caller:
        first = await caller.reserve(event_id, "ann", idempotency_key=key)
        cancelled = {**first.body, "status": "cancelled"}
        assert (await caller.cancel(first.body["id"])).status == 200
        late = await caller.reserve(event_id, "ann", idempotency_key=key)
        assert (late.status, late.body) == (201, cancelled)
        assert (await caller.reserve(event_id, "bob")).status == 201
        async with sale.redis() as redis:
            await redis.script_flush()
        late = await caller.reserve(event_id, "ann", idempotency_key=key)
        assert (late.status, late.body) == (201, cancelled)
        assert (await caller.reserve(event_id, "cid")).status == 409
    await sale.count_seats()


async def test_the_same_key_for_something_else_is_refused(sale: Sale) -> None:
    """Another user, or an event of any partition; and no seat is taken."""
    events, key = [await sale.open_event(1) for _ in range(sale.partitions + 1)], uuid4().hex
    async with sale.caller() as caller:
        assert (await caller.reserve(events[0], "ann", idempotency_key=key)).status == 201
        for event_id in events:
            answer = await caller.reserve(event_id, "bob", idempotency_key=key)
            assert (answer.status, answer.body["code"]) == (422, "idempotency_key_reused")
        assert [await caller.available(event_id) for event_id in events[1:]] == [1] * 4
