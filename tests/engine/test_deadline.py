"""A wait that is too long is ended, at its time, and no other one is."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from engine.deadline import Deadline


async def _wait(deadline: Deadline[asyncio.Task[Any]], fact: asyncio.Event) -> bool:
    """Whether the fact came in time."""
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    deadline.enter(task)
    try:
        await fact.wait()
    except asyncio.CancelledError:
        return deadline.leave(task)
    return deadline.leave(task)


async def test_in_time() -> None:
    """Who leaves in time is left alone, also when the time comes."""
    deadline, fact = Deadline(0.05, asyncio.Task.cancel), asyncio.Event()
    fact.set()
    assert await _wait(deadline, fact)
    await asyncio.sleep(0.1)


async def test_each_at_its_own_time() -> None:
    """Of two who came one after the other, the first is ended first."""
    deadline, never = Deadline(0.1, asyncio.Task.cancel), asyncio.Event()
    first = asyncio.create_task(_wait(deadline, never))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(_wait(deadline, never))
    done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {first}
    assert not await second


async def test_again_after_a_rest() -> None:
    """A deadline that had nothing to watch watches again."""
    deadline, never = Deadline(0.02, asyncio.Task.cancel), asyncio.Event()
    for _ in range(2):
        async with asyncio.timeout(1):
            assert not await _wait(deadline, never)


async def test_cancelled_by_another() -> None:
    """A cancel from elsewhere is not taken for the end of the time."""
    deadline = Deadline(60, asyncio.Task.cancel)
    task = asyncio.create_task(_wait(deadline, asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    assert await task


@pytest.mark.parametrize("many", [1000])
async def test_many(many: int) -> None:
    """All whose time is over are ended, not the first only."""
    deadline, never = Deadline(0.02, asyncio.Task.cancel), asyncio.Event()
    async with asyncio.timeout(5):
        assert not any(await asyncio.gather(*(_wait(deadline, never) for _ in range(many))))
