"""advance.lua: the first step of a recovery fences every older epoch off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.model import MAX_EPOCH

if TYPE_CHECKING:
    from tests.lua.desk import Desk


@pytest.mark.parametrize("epoch", [4, 5, MAX_EPOCH])
async def test_advances(desk: Desk, epoch: int) -> None:
    """A later epoch is written; what the older one sold stays in the outbox."""
    await desk.put_on_sale(5)
    await desk.reserve("ann")
    assert await desk.answer(desk.unfenced("advance", desk.log, epoch)) == "advanced"
    assert await desk.redis.hget(desk.log, "epoch") == str(epoch).encode()
    assert await desk.refused(desk.ask("bob")) == "fenced"
    assert len(await desk.entries()) == 1


@pytest.mark.parametrize("epoch", [1, 2, 3])
async def test_newer(desk: Desk, epoch: int) -> None:
    """The same epoch, or an earlier one, is refused."""
    assert await desk.refused(desk.unfenced("advance", desk.log, epoch)) == "newer"


async def test_first_start(desk: Desk) -> None:
    """With no log there is no epoch that could be newer."""
    await desk.redis.delete(desk.log)
    assert await desk.answer(desk.unfenced("advance", desk.log, 1)) == "advanced"
