"""One bound on the time that many wait for the same thing.

``asyncio.timeout`` and ``call_later`` set and cancel a timer of the event loop for each wait, which
costs more than all else that is done for it. All waits here are equally long, so they end in the
order in which they began: a dict holds them in that order, and one timer looks at its front.
"""

from __future__ import annotations

import asyncio
import time
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Deadline(Generic[T]):
    """Ends what stays for longer than ``seconds``."""

    def __init__(self, seconds: float, end: Callable[[T], object]) -> None:
        self.seconds = seconds
        self._end = end
        self._ends_s: dict[T, float] = {}
        self._armed = False

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it counts; to ask for it each time is a system call."""
        return asyncio.get_running_loop()

    def enter(self, one: T) -> None:
        """Begin to count; it must leave, whatever happens."""
        self._ends_s[one] = time.monotonic() + self.seconds
        if not self._armed:
            self._armed = True
            self.loop.call_later(self.seconds, self._sweep)

    def leave(self, one: T) -> bool:
        """Stop counting; whether it was in time."""
        return self._ends_s.pop(one, None) is not None

    def _sweep(self) -> None:
        """End those whose time is over, then wait for the end of the next."""
        now_s = time.monotonic()
        while self._ends_s:
            one, end_s = next(iter(self._ends_s.items()))
            if end_s > now_s:
                self.loop.call_later(end_s - now_s, self._sweep)
                return
            del self._ends_s[one]
            self._end(one)
        self._armed = False
