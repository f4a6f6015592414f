"""look.lua: an event at this instant; it never writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lua.desk import EVENT
from tests.lua.faults import COLD, FENCED, NO_INSTANT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.lua.desk import Desk


async def test_reads_the_event(desk: Desk) -> None:
    """Total, left, how many users, name, and what one user holds."""
    await desk.put_on_sale(9, sold={"ann": "2-8|f"})
    assert await desk.refused(desk.scripts.look(EVENT, "ann")) == [
        9,
        8,
        1,
        "Чайка",
        "2-8|f",
        "",
        "",
    ]
    assert await desk.refused(desk.scripts.look(EVENT, "bob")) == [9, 8, 1, "Чайка", "", "", ""]
    assert await desk.refused(desk.scripts.look(EVENT)) == [9, 8, 1, "Чайка", "", "", ""]


async def test_at_what_a_hand_removed(desk: Desk) -> None:
    """A field that is missing is an empty text, not the end of the answer."""
    await desk.put_on_sale(9)
    await desk.redis.hdel(desk.event, "total", "left", "name")
    assert await desk.refused(desk.scripts.look(EVENT)) == [-1, -(2**31), 0, "", "", "", ""]


@pytest.mark.parametrize("fault", NO_INSTANT)
async def test_bound_that_is_no_instant(
    desk: Desk, fault: Callable[[Desk], Awaitable[None]]
) -> None:
    """Then nothing adds up, so that whoever looks has the event loaded again."""
    await desk.put_on_sale(9)
    await fault(desk)
    assert (await desk.refused(desk.scripts.look(EVENT)))[:2] == [9, -(2**31)]


@pytest.mark.parametrize(
    ("fault", "word"), [*((f, "fenced") for f in FENCED), *((f, "cold") for f in COLD)]
)
async def test_refuses(desk: Desk, fault: Callable[[Desk], Awaitable[None]], word: str) -> None:
    """Another epoch, of the log or of the event, is not read."""
    await desk.put_on_sale(9)
    await fault(desk)
    assert await desk.refused(desk.scripts.look(EVENT)) == word
