"""repair.lua: each user by compare-and-set, then the seats are counted anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.model import Number, Window
from engine.scripts import Change
from tests.lua.desk import EVENT
from tests.lua.faults import COLD, FENCED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.lua.desk import Desk

OLD, NEW = "3-1", Number(3, 2)


async def test_removes_adds_and_replaces(desk: Desk) -> None:
    """Each change whose expectation holds is made; the seats follow."""
    await desk.put_on_sale(5, sold={"ann": "3-1", "bob": "3-1"})
    changes = [Change("ann", OLD, None), Change("bob", OLD, NEW), Change("cem", None, NEW)]
    assert await desk.answer(desk.scripts.repair(EVENT, changes)) == 3
    assert await desk.held() == {"bob": "3-2", "cem": "3-2"}
    assert await desk.left() == 3


@pytest.mark.parametrize("expected", [None, "3-2", "3-11", "3", "3-1|f"])
@pytest.mark.parametrize("new", [None, Number(3, 9)])
async def test_what_changed_meanwhile_stays(
    desk: Desk, expected: str | None, new: Number | None
) -> None:
    """A user who holds another booking than expected is left as he is."""
    await desk.put_on_sale(5, sold={"ann": "3-1"})
    command = desk.scripts.repair(EVENT, [Change("ann", expected, new)])
    assert await desk.refused(command) == 0


async def test_who_left_meanwhile_is_not_brought_back(desk: Desk) -> None:
    """An expected booking that is gone is not replaced."""
    await desk.put_on_sale(5)
    assert await desk.refused(desk.scripts.repair(EVENT, [Change("ann", OLD, NEW)])) == 0


@pytest.mark.parametrize("odd", ["no number", "9" * 40, "-"])
async def test_what_a_hand_wrote(desk: Desk, odd: str) -> None:
    """It is compared as it lies there, so that it can be mended."""
    await desk.put_on_sale(5, sold={"ann": odd})
    assert await desk.answer(desk.scripts.repair(EVENT, [Change("ann", odd, NEW)])) == 1
    assert await desk.held() == {"ann": "3-2"}


async def test_total_and_name(desk: Desk) -> None:
    """They are set if given, and left if not."""
    await desk.put_on_sale(5, sold={"ann": "3-1"})
    await desk.answer(desk.scripts.repair(EVENT, [], total=1, name="Дядя Ваня"))
    assert await desk.answer(desk.scripts.look(EVENT)) == [1, 0, 1, "Дядя Ваня", "", "", ""]
    await desk.answer(desk.scripts.repair(EVENT, []))
    assert await desk.answer(desk.scripts.look(EVENT)) == [1, 0, 1, "Дядя Ваня", "", "", ""]


async def test_window(desk: Desk) -> None:
    """Each bound is set if given, and left if not."""
    await desk.put_on_sale(5)
    for window, said in ((Window(5, 7), ["5", "7"]), (None, ["5", "7"]), (Window(6), ["6", ""])):
        await desk.answer(desk.scripts.repair(EVENT, [], window=window))
        assert (await desk.answer(desk.scripts.look(EVENT)))[5:] == said


async def test_total_may_be_cut_to_nothing(desk: Desk) -> None:
    """Zero seats is a total like another."""
    await desk.put_on_sale(5, sold={"ann": "3-1"})
    await desk.answer(desk.scripts.repair(EVENT, [], total=0))
    assert await desk.left() == -1


async def test_counts_seats_anew(desk: Desk) -> None:
    """A dirty event adds up afterwards, without an entry in the outbox."""
    await desk.put_on_sale(5, sold={"ann": "3-1"})
    await desk.redis.hdel(desk.event, "left")
    assert await desk.answer(desk.scripts.repair(EVENT, [])) == 0
    assert await desk.left() == 4
    assert await desk.entries() == []


async def test_five_hundred(desk: Desk) -> None:
    """As many as one call takes."""
    await desk.put_on_sale(500)
    changes = [Change(f"user {i}", None, NEW) for i in range(500)]
    assert await desk.answer(desk.scripts.repair(EVENT, changes)) == 500
    assert await desk.left() == 0


async def test_more_than_five_hundred(desk: Desk) -> None:
    """One more is refused before it is sent."""
    with pytest.raises(ValueError, match="501 changes"):
        desk.scripts.repair(EVENT, [Change("ann", None, NEW)] * 501)


@pytest.mark.parametrize("fault", COLD)
async def test_cold(desk: Desk, fault: Callable[[Desk], Awaitable[None]]) -> None:
    """A cold event is not changed; only a hydration under way must begin again."""
    await desk.put_on_sale(5)
    await fault(desk)
    before = await desk.snapshot()
    await desk.redis.set(desk.lease, "somebody's")
    assert await desk.answer(desk.scripts.repair(EVENT, [Change("ann", None, NEW)])) == "cold"
    assert await desk.snapshot() == before


@pytest.mark.parametrize("fault", FENCED)
async def test_fenced(desk: Desk, fault: Callable[[Desk], Awaitable[None]]) -> None:
    """Another epoch's event and lease are left alone."""
    await desk.put_on_sale(5)
    await desk.redis.set(desk.lease, "somebody's")
    await fault(desk)
    assert await desk.refused(desk.scripts.repair(EVENT, [Change("ann", None, NEW)])) == "fenced"
