"""stage.lua: pages of the ledger, while the lease is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lua.desk import EVENT
from tests.lua.faults import FENCED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.scripts import Command
    from tests.lua.desk import Desk


def _stage(desk: Desk, *users: str, token: str = "mine") -> Command:  # noqa: S107 - not a secret
    rows = [(user, "2-8") for user in users]
    return desk.scripts.stage(EVENT, token, rows, lease_ms=60_000)


async def test_pages_add_up(desk: Desk) -> None:
    """Each page is added, the lease lasts as long again, and the staging outlives it."""
    await desk.redis.set(desk.lease, "mine", px=30_000)
    assert await desk.answer(_stage(desk, "ann")) == "staged"
    assert await desk.answer(_stage(desk, "bob")) == "staged"
    assert await desk.redis.hgetall(desk.staging) == {b"ann": b"2-8", b"bob": b"2-8"}
    assert 30_000 < await desk.redis.pttl(desk.lease) <= 60_000
    assert 60_000 < await desk.redis.pttl(desk.staging) <= 360_000


async def test_five_hundred(desk: Desk) -> None:
    """A full page."""
    await desk.redis.set(desk.lease, "mine")
    await desk.answer(_stage(desk, *(f"user {i}" for i in range(500))))
    assert await desk.redis.hlen(desk.staging) == 500


@pytest.mark.parametrize("holder", [None, "another"])
async def test_superseded(desk: Desk, holder: str | None) -> None:
    """Without the lease, or with another's, nothing is staged."""
    if holder:
        await desk.redis.set(desk.lease, holder)
    assert await desk.refused(_stage(desk, "ann")) == "superseded"


@pytest.mark.parametrize("fault", FENCED)
async def test_fenced(desk: Desk, fault: Callable[[Desk], Awaitable[None]]) -> None:
    """Another epoch stages nothing, lease or not."""
    await desk.redis.set(desk.lease, "mine")
    await fault(desk)
    assert await desk.refused(_stage(desk, "ann")) == "fenced"
