"""install.lua: a hydrated event goes on sale whole, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.model import ALWAYS, Event, Window
from tests.lua.desk import EVENT
from tests.lua.faults import FENCED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.scripts import Command
    from tests.lua.desk import Desk


def _install(desk: Desk, staged: int, total: int = 10, window: Window = ALWAYS) -> Command:
    return desk.scripts.install(Event(EVENT, "Чайка", total, window), "mine", staged=staged)


async def _stage(desk: Desk, *users: str) -> None:
    await desk.redis.set(desk.lease, "mine", px=60_000)
    if users:
        await desk.redis.hset(desk.staging, mapping=dict.fromkeys(users, "2-8"))
        await desk.redis.pexpire(desk.staging, 60_000)


async def test_installs(desk: Desk) -> None:
    """The staging becomes the users, for good; the lease is given back."""
    await _stage(desk, "ann", "bob")
    assert await desk.answer(_install(desk, 2)) == "installed"
    assert await desk.held() == {"ann": "2-8", "bob": "2-8"}
    assert await desk.redis.ttl(desk.users) == -1
    assert not await desk.redis.exists(desk.lease, desk.staging)
    assert await desk.answer(desk.scripts.look(EVENT)) == [10, 8, 2, "Чайка", "", "", ""]


async def test_replaces_an_earlier_epochs_users(desk: Desk) -> None:
    """Nothing that an earlier epoch knew stays."""
    await desk.put_on_sale(9, sold={"zoe": "2-1"})
    await desk.redis.hset(desk.event, "epoch", 2)
    await _stage(desk)
    assert await desk.answer(_install(desk, 0)) == "installed"
    assert await desk.held() == {}
    assert await desk.left() == 10


async def test_window(desk: Desk) -> None:
    """When it is sold is the ledger's; nothing is left of a window that it had before."""
    for window, said in ((Window(5, 7), ["5", "7"]), (Window(5), ["5", ""]), (ALWAYS, ["", ""])):
        await desk.redis.delete(desk.event)
        await _stage(desk)
        await desk.answer(_install(desk, 0, window=window))
        assert (await desk.answer(desk.scripts.look(EVENT)))[5:] == said


async def test_more_bookings_than_seats(desk: Desk) -> None:
    """An event that was cut goes on sale with less than nothing to sell."""
    await _stage(desk, "ann", "bob")
    await desk.answer(_install(desk, 2, total=1))
    assert await desk.reserve("cem") == ["sold_out"]


@pytest.mark.parametrize("holder", [None, "another"])
async def test_superseded_without_the_lease(desk: Desk, holder: str | None) -> None:
    """A hydration whose lease ran out, or was taken away, begins again."""
    await _stage(desk, "ann")
    await desk.redis.delete(desk.lease)
    if holder:
        await desk.redis.set(desk.lease, holder)
    assert await desk.refused(_install(desk, 1)) == "superseded"


@pytest.mark.parametrize("staged", [0, 1, 3])
async def test_superseded_unless_whole(desk: Desk, staged: int) -> None:
    """A staging that expired in between, or is another's, is not installed."""
    await _stage(desk, "ann", "bob")
    assert await desk.refused(_install(desk, staged)) == "superseded"


@pytest.mark.parametrize("fault", FENCED)
async def test_fenced(desk: Desk, fault: Callable[[Desk], Awaitable[None]]) -> None:
    """Another epoch installs nothing."""
    await _stage(desk, "ann")
    await fault(desk)
    assert await desk.refused(_install(desk, 1)) == "fenced"
