"""One bound on the time that many requests wait for the same thing.

``asyncio.timeout`` sets and cancels a timer of the event loop for each request, which costs more
than all else that is done to read it. All waits here are equally long, so they end in the order in
which they began: a dict holds them in that order, and one timer looks at its front.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

Task = asyncio.Task[Any]


class Deadline:
    """Cancels every task that stays for longer than ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends: dict[Task, float] = {}
        self._armed = False

    def enter(self) -> Task:
        """Begin to count for the current task; it must leave, whatever happens."""
        task = cast("Task", asyncio.current_task())
        loop = task.get_loop()
        self._ends[task] = loop.time() + self.seconds
        if not self._armed:
            self._armed = True
            loop.call_later(self.seconds, self._sweep, loop)
        return task

    def leave(self, task: Task) -> bool:
        """Stop counting; whether the task was in time."""
        return self._ends.pop(task, None) is not None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel those whose time is over, then wait for the end of the next."""
        now = loop.time()
        while self._ends:
            task, end = next(iter(self._ends.items()))
            if end > now:
                loop.call_later(end - now, self._sweep, loop)
                return
            del self._ends[task]
            task.cancel()
        self._armed = False
