"""Micro-batching without a timer: what comes while a batch is served goes together in the next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Gather(Generic[T]):
    """Serves what is added in batches of at most ``max_batch``, one batch after another."""

    def __init__(self, serve: Callable[[list[T]], Awaitable[None]], *, max_batch: int) -> None:
        self._serve = serve
        self._max_batch = max_batch
        self._items: list[T] = []
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def add(self, item: T) -> None:
        """Serve it with the next batch."""
        self._items.append(item)
        self._arrived.set()

    async def close(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch, self._items = self._items[: self._max_batch], self._items[self._max_batch :]
            if not self._items:
                self._arrived.clear()
            await self._serve(batch)
