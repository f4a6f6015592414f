"""Out of memory: nothing is sold, and everything that frees or mends goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from engine.embedded import RedisServer
from engine.errors import Overloaded
from engine.model import Number
from tests.lua.desk import EVENT, Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Desk]:
    """A sale in a Redis that has then reached its bound."""
    with RedisServer(tmp_path / "redis") as server:
        async with Redis.from_url(server.url) as redis:
            desk = await Desk(redis, 1).open()
            await desk.put_on_sale(5)
            await desk.reserve("ann")
            await redis.config_set("maxmemory", 1)
            yield desk


async def test_sells_nothing_and_says_so(full: Desk) -> None:
    """The script does not begin, and a caller is told to try again."""
    before = await full.snapshot()
    with pytest.raises(OutOfMemoryError) as refused:
        await full.answer(full.ask("bob"))
    with pytest.raises(Overloaded):
        full.scripts.checked(refused.value)
    assert await full.snapshot() == before


async def test_frees_and_mends(full: Desk) -> None:
    """Cancel, acknowledge, repair and close still run."""
    scripts = full.scripts
    assert await full.answer(scripts.acknowledge(1, tail=0)) == "acknowledged"
    assert await full.answer(scripts.cancel(EVENT, "ann", Number(3, 1), bound=9)) == 2
    assert await full.answer(scripts.repair(EVENT, [])) == 0
    assert await full.answer(scripts.close(EVENT)) == "closed"


async def test_reads(full: Desk) -> None:
    """Reading needs no memory."""
    assert await full.answer(full.scripts.look(EVENT)) == [5, 4, 1, "Чайка", "", "", ""]
