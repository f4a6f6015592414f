"""Tasks of our own end when they are told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine import tasks

if TYPE_CHECKING:
    import pytest


async def test_a_task_that_loses_a_cancellation_is_ended_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a write of redis-py can, on Python 3.11."""
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    forever = asyncio.Event()
    lost = []

    async def loses_one() -> None:
        try:
            await forever.wait()
        except asyncio.CancelledError as error:
            lost.append(error)
        await forever.wait()

    task = asyncio.create_task(loses_one())
    await asyncio.sleep(0)  # it waits now
    async with asyncio.timeout(5):
        await tasks.stop(task)
    assert lost
    assert task.cancelled()


async def test_what_a_task_ended_with_is_no_matter() -> None:
    """Neither its error nor its end before."""

    async def breaks() -> None:
        raise ValueError

    broken = asyncio.create_task(breaks())
    await asyncio.wait([broken])
    async with asyncio.timeout(5):
        await tasks.stop(broken)
        await tasks.stop()
