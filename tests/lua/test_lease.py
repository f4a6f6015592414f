"""lease.lua: one hydrates, the others wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lua.desk import EVENT
from tests.lua.faults import FENCED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.scripts import Command
    from tests.lua.desk import Desk


def _lease(desk: Desk, token: str = "mine") -> Command:  # noqa: S107 - not a secret
    return desk.scripts.lease(EVENT, token, lease_ms=60_000)


async def test_answers_the_number_to_wait_for(desk: Desk) -> None:
    """The lease is taken, for a while, and an old staging is gone."""
    await desk.redis.hset(desk.log, "seq", 2**32 - 1)
    await desk.redis.hset(desk.staging, "ann", "3-1")
    assert await desk.answer(_lease(desk)) == 2**32 - 1
    assert await desk.redis.get(desk.lease) == b"mine"
    assert 0 < await desk.redis.pttl(desk.lease) <= 60_000
    assert not await desk.redis.exists(desk.staging)


async def test_busy(desk: Desk) -> None:
    """Somebody else's lease is left alone, and so is one's own."""
    await desk.answer(_lease(desk))
    assert await desk.refused(_lease(desk, "another")) == "busy"
    assert await desk.refused(_lease(desk)) == "busy"


async def test_warm(desk: Desk) -> None:
    """A warm event needs no lease."""
    await desk.put_on_sale(5)
    assert await desk.refused(_lease(desk)) == "warm"


async def test_event_of_an_earlier_epoch_is_cold(desk: Desk) -> None:
    """What an earlier epoch loaded is not believed."""
    await desk.put_on_sale(5)
    await desk.redis.hset(desk.event, "epoch", 2)
    assert await desk.answer(_lease(desk)) == 0


@pytest.mark.parametrize("fault", FENCED)
async def test_fenced(desk: Desk, fault: Callable[[Desk], Awaitable[None]]) -> None:
    """Another epoch gives no lease."""
    await fault(desk)
    assert await desk.refused(_lease(desk)) == "fenced"


async def test_log_without_a_number(desk: Desk) -> None:
    """Without the last number given out nobody can know what to wait for."""
    await desk.redis.hdel(desk.log, "seq")
    assert await desk.refused(_lease(desk)) == "fenced"
