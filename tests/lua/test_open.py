"""open.lua: a new epoch's outbox begins at number 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lua.faults import FENCED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.lua.desk import Desk


async def test_opens(desk: Desk) -> None:
    """Numbers start at 1, also when the outbox still has the older epoch's."""
    await desk.put_on_sale(5)
    await desk.reserve("ann")
    assert await desk.open_epoch(4) == "opened"
    master = (await desk.redis.info("replication"))["master_replid"].encode()
    log = {b"epoch": b"4", b"seq": b"0", b"acked": b"0", b"master": master}
    assert await desk.redis.hgetall(desk.log) == log
    entries = await desk.redis.xrange(desk.outbox)
    assert [entry for entry, _ in entries] == [b"3-0", b"3-1", b"4-0"]


async def test_without_an_outbox(desk: Desk) -> None:
    """A Redis that lost everything gets a stream."""
    await desk.redis.delete(desk.outbox)
    assert await desk.open_epoch(4) == "opened"
    assert await desk.redis.xlen(desk.outbox) == 1


async def test_outbox_that_a_hand_spoiled(desk: Desk) -> None:
    """A stream that is ahead, or no stream, cannot take the first entry: it begins anew."""
    await desk.redis.xadd(desk.outbox, {"by": "hand"}, "99-1")
    assert await desk.open_epoch(4) == "opened"
    await desk.redis.delete(desk.outbox)
    await desk.redis.set(desk.outbox, "no stream")
    assert await desk.open_epoch(5) == "opened"
    assert [entry for entry, _ in await desk.redis.xrange(desk.outbox)] == [b"5-0"]


@pytest.mark.parametrize("fault", FENCED)
async def test_newer(desk: Desk, fault: Callable[[Desk], Awaitable[None]]) -> None:
    """Where another recovery came later, or Redis was flushed meanwhile, nothing is opened."""
    await fault(desk)
    command = desk.unfenced("open", desk.log, desk.outbox, 3)
    assert await desk.refused(command) == "newer"
