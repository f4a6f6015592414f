"""The gate between a worker's drains and the ledger: so many transactions at a time, and no more.

Where many partitions are sold at once, what comes to one of them while others have their places
gathers, and goes together in its next transaction: one that takes eight bookings costs little more
than one that takes two. Where there are few, nobody waits here. A drain has its place until those
who wait for what it took were told.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PLACES: Final = 4
STAY_S: Final = 0.05
"""Who stays longer is held up, by a lock or by a slow disk, and is no reason for others to wait."""


class Gate:
    """Lets drains in, in the order in which they come."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(PLACES)

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[bool]:
        """Have a place; whether it had to be waited for."""
        waited = self._places.locked()
        await self._places.acquire()
        late = asyncio.get_running_loop().call_later(STAY_S, self._places.release)
        try:
            yield waited
        finally:
            if late.when() > asyncio.get_running_loop().time():
                late.cancel()
                self._places.release()
