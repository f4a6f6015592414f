"""acknowledge.lua: how far the ledger is; never backward, and a tail stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lua.faults import FENCED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis

    from tests.lua.desk import Desk


@pytest.fixture
async def small_nodes(redis: Redis) -> AsyncIterator[None]:
    """Streams are trimmed in whole nodes: make these small."""
    name = "stream-node-max-entries"
    before = (await redis.config_get(name))[name]
    await redis.config_set(name, 10)
    yield
    await redis.config_set(name, before)


async def _acked(desk: Desk) -> int:
    return int(await desk.redis.hget(desk.log, "acked"))


async def test_sets_how_far_the_ledger_is(desk: Desk) -> None:
    """The number is kept exactly, up to the last of an epoch."""
    for seq in (9, 2**32 - 1):
        assert await desk.answer(desk.scripts.acknowledge(seq, tail=1000)) == "acknowledged"
        assert await _acked(desk) == seq


async def test_never_goes_backward(desk: Desk) -> None:
    """A shift that comes late changes nothing."""
    await desk.answer(desk.scripts.acknowledge(10, tail=1000))
    assert await desk.refused(desk.scripts.acknowledge(9, tail=1000)) == "acknowledged"
    assert await desk.refused(desk.scripts.acknowledge(10, tail=1000)) == "acknowledged"


async def test_makes_up_for_a_missing_number(desk: Desk) -> None:
    """A log that lost the field gets it again."""
    await desk.redis.hdel(desk.log, "acked")
    await desk.answer(desk.scripts.acknowledge(0, tail=1000))
    assert await _acked(desk) == 0


async def test_keeps_the_tail(desk: Desk, small_nodes: None) -> None:
    """What is long behind is dropped, in whole nodes; no number of the tail ever is."""
    await desk.put_on_sale(1000)
    for i in range(100):
        await desk.reserve(f"user {i}")
    await desk.answer(desk.scripts.acknowledge(90, tail=30))
    seqs = [item.number.seq for item in await desk.items()]
    assert seqs == list(range(seqs[0], 101))
    assert 60 - 10 <= seqs[0] <= 60


async def test_keeps_everything_within_the_tail(desk: Desk) -> None:
    """A short outbox is not trimmed."""
    await desk.put_on_sale(10)
    await desk.reserve("ann")
    await desk.answer(desk.scripts.acknowledge(1, tail=1))
    assert len(await desk.items()) == 1


async def test_trimmed_to_nothing_it_still_takes_entries(desk: Desk) -> None:
    """An empty stream is a stream: the next sale goes on."""
    await desk.put_on_sale(10)
    await desk.reserve("ann")
    await desk.redis.xtrim(desk.outbox, maxlen=0, approximate=False)
    assert await desk.reserve("bob") == [2]


@pytest.mark.parametrize("fault", FENCED)
async def test_fenced(desk: Desk, fault: Callable[[Desk], Awaitable[None]]) -> None:
    """Another epoch's outbox is not trimmed."""
    await desk.put_on_sale(10)
    await desk.reserve("ann")
    await fault(desk)
    assert await desk.refused(desk.scripts.acknowledge(1, tail=0)) == "fenced"
