"""cancel.lua: one booking's seat, and no other's, is given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.model import Number
from tests.lua.desk import EVENT, PLENTY
from tests.lua.faults import BOUND, OF_SELLING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.scripts import Command
    from tests.lua.desk import Desk


def _cancel(desk: Desk, user: str, booking: Number, bound: int = PLENTY) -> Command:
    return desk.scripts.cancel(EVENT, user, booking, bound=bound)


async def test_frees_the_seat(desk: Desk) -> None:
    """The cancel has a number of its own, and an entry that names the booking."""
    await desk.put_on_sale(2)
    await desk.reserve("ann", "bob")
    assert await desk.answer(_cancel(desk, "ann", Number(3, 1))) == 3
    assert await desk.held() == {"bob": "3-2"}
    assert await desk.left() == 1
    item = (await desk.items())[-1]
    assert (item.kind, item.user_id, item.booking) == ("cancel", "ann", Number(3, 1))
    assert item.number == Number(3, 3)


async def test_frees_a_seat_of_an_earlier_epoch(desk: Desk) -> None:
    """A booking outlives the epoch it was made in."""
    await desk.put_on_sale(2, sold={"ann": "1-8"})
    assert await desk.answer(_cancel(desk, "ann", Number(1, 8))) == 1


async def test_old_id_cannot_cancel_a_rebooking(desk: Desk) -> None:
    """Who cancelled and booked again keeps the new seat, whatever is sent twice."""
    await desk.put_on_sale(1)
    await desk.reserve("ann")
    await desk.answer(_cancel(desk, "ann", Number(3, 1)))
    assert await desk.reserve("ann") == [3]
    assert await desk.refused(_cancel(desk, "ann", Number(3, 1))) == "not_held"


@pytest.mark.parametrize(
    ("user", "booking"),
    [("zoe", Number(3, 1)), ("ann", Number(3, 11)), ("ann", Number(2, 1)), ("ann", Number(3, 0))],
)
async def test_not_held(desk: Desk, user: str, booking: Number) -> None:
    """Another's booking, or another number, is not his to give back."""
    await desk.put_on_sale(2, sold={"ann": "3-1"})
    assert await desk.refused(_cancel(desk, user, booking)) == "not_held"


@pytest.mark.parametrize(("fault", "word"), OF_SELLING)
async def test_refuses_whole(
    desk: Desk, fault: Callable[[Desk], Awaitable[None]], word: str
) -> None:
    """Each state that forbids a cancel has its word, and no key is changed."""
    await desk.put_on_sale(5, sold={"ann": "2-1"})
    await fault(desk)
    assert await desk.refused(_cancel(desk, "ann", Number(2, 1), BOUND)) == word


async def test_who_holds_nothing_is_told_so_also_when_overloaded(desk: Desk) -> None:
    """To try again would not help him."""
    await desk.put_on_sale(5)
    await desk.redis.hset(desk.log, mapping={"seq": 10, "acked": 0})
    assert await desk.refused(_cancel(desk, "ann", Number(2, 1), BOUND)) == "not_held"


async def test_last_number_of_an_epoch(desk: Desk) -> None:
    """A cancel may have the number 2³²-1."""
    await desk.put_on_sale(5, sold={"ann": "2-1"})
    await desk.redis.hset(desk.log, mapping={"seq": 2**32 - 2, "acked": 2**32 - 2})
    assert await desk.answer(_cancel(desk, "ann", Number(2, 1))) == 2**32 - 1


async def test_raises_a_cut_event_towards_zero(desk: Desk) -> None:
    """After a cut of seats a cancel frees none, it only lessens what is missing."""
    await desk.put_on_sale(0, sold={"ann": "3-1", "bob": "3-2"})
    await desk.answer(_cancel(desk, "ann", Number(3, 1)))
    assert await desk.left() == -1
    assert await desk.reserve("cem") == ["sold_out"]


async def test_odd_user(desk: Desk) -> None:
    """The user's bytes reach the outbox as they are."""
    odd = '"|\\\x00🎫'
    await desk.put_on_sale(1)
    await desk.reserve(odd)
    await desk.answer(_cancel(desk, odd, Number(3, 1)))
    assert [item.user_id for item in await desk.items()] == [odd, odd]
