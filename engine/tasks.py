"""The end of tasks of our own."""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.5


async def stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended, whatever with.

    Once may not do: ``asyncio.wait_for`` of Python 3.11, under redis-py, can lose a cancellation.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
