"""close.lua: an event sells nothing until it is hydrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lua.desk import EVENT
from tests.lua.faults import FENCED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.lua.desk import Desk


async def test_closes(desk: Desk) -> None:
    """The event is cold; what was sold is still in the outbox."""
    await desk.put_on_sale(5)
    await desk.reserve("ann")
    await desk.redis.set(desk.lease, "somebody's")
    assert await desk.answer(desk.scripts.close(EVENT)) == "closed"
    assert not await desk.redis.exists(desk.event, desk.users, desk.lease)
    assert await desk.reserve("bob") == "cold"
    assert len(await desk.entries()) == 1


async def test_closes_what_is_closed(desk: Desk) -> None:
    """To close twice is to close once."""
    assert await desk.refused(desk.scripts.close(EVENT)) == "closed"


@pytest.mark.parametrize("fault", FENCED)
async def test_fenced(desk: Desk, fault: Callable[[Desk], Awaitable[None]]) -> None:
    """Another epoch's event stays open."""
    await desk.put_on_sale(5)
    await fault(desk)
    assert await desk.refused(desk.scripts.close(EVENT)) == "fenced"
