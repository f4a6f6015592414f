"""limit.lua: so many calls in a window, evenly, each caller for himself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.scripts import source
from tests import world

if TYPE_CHECKING:
    from tests.lua.desk import Desk

MINUTE_MS = 60_000


async def _pass(desk: Desk, max_calls: int, window_ms: int, **calls: int) -> list[int]:
    keys = [f"onsale:{{{desk.partition}}}:{caller}" for caller in calls]
    arguments = (max_calls, window_ms, *calls.values())
    answer: list[int] = await desk.answer(("EVAL", source("limit"), len(keys), *keys, *arguments))
    return answer


async def test_passes_as_many_as_a_window_takes(desk: Desk) -> None:
    """The rest of a batch waits for a step of the window, not for all of it."""
    passed, wait_ms, remaining, reset_ms = await _pass(desk, 100, MINUTE_MS, ann=101)
    assert (passed, remaining) == (100, 0)
    assert 0 < wait_ms <= MINUTE_MS / 100
    assert reset_ms == MINUTE_MS


async def test_who_has_room_does_not_wait(desk: Desk) -> None:
    """Below the limit the next call would pass at once."""
    assert await _pass(desk, 100, MINUTE_MS, ann=99) == [99, 0, 1, MINUTE_MS * 0.99]
    assert (await _pass(desk, 100, MINUTE_MS, ann=1))[0] == 1
    assert (await _pass(desk, 100, MINUTE_MS, ann=1))[0] == 0


async def test_each_caller_for_himself(desk: Desk) -> None:
    """Callers of one batch do not use each other's limit."""
    answers = await _pass(desk, 2, MINUTE_MS, ann=5, bob=1, cem=2)
    assert answers[::4] == [2, 1, 2]
    assert answers[2::4] == [0, 1, 0]


async def test_who_is_refused_changes_nothing(desk: Desk) -> None:
    """Calls that do not pass do not count, so that asking again does not lengthen the wait."""
    await _pass(desk, 1, MINUTE_MS, ann=1)
    before = await desk.snapshot()
    assert (await _pass(desk, 1, MINUTE_MS, ann=9))[0] == 0
    assert await desk.snapshot() == before


async def test_keys_expire_with_what_was_used(desk: Desk) -> None:
    """Who has used half a window is forgotten after half a window."""
    await _pass(desk, 10, MINUTE_MS, ann=5)
    ttl_ms = await desk.redis.pttl(f"onsale:{{{desk.partition}}}:ann")
    assert MINUTE_MS / 2 - 5000 < ttl_ms <= MINUTE_MS / 2


async def test_room_comes_back(desk: Desk) -> None:
    """When a step of the window is over, one more passes."""
    assert (await _pass(desk, 1, 50, ann=1))[0] == 1

    async def passes() -> bool:
        return (await _pass(desk, 1, 50, ann=1))[0] == 1

    await world.until(passes, within_s=5)


@pytest.mark.parametrize("max_calls", [1, 3, 7, 1000, 100_000])
async def test_whole_limit_at_once(desk: Desk, max_calls: int) -> None:
    """Rounding loses no call and makes none."""
    assert (await _pass(desk, max_calls, MINUTE_MS, ann=max_calls + 1))[0] == max_calls
