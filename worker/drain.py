"""A shift: a worker's turn to drain one partition.

Shifts are numbered by Postgres, in the row that a drain locks. A later shift, on any worker, ends
the earlier one at its next batch; so turns pass from worker to worker without a pause, and a dead
worker's partitions are taken over at the next tick.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from engine.drain import TAIL, Drain
from engine.errors import (
    Fenced,
    Gap,
    Halted,
    LedgerBroken,
    Superseded,
    Unavailable,
)
from engine.log import get_logger
from engine.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from engine.drain import Brake
    from engine.gate import Gate
    from engine.model import Number
    from engine.recovery import Stores

T = TypeVar("T")

SHIFT_S: Final = 10.0
BLOCK_MS: Final = 1000
BACK_OFF_S: Final = 0.2

log = get_logger(__name__)


class Shift:
    """One turn of this worker at one partition."""

    def __init__(
        self, stores: Stores, partition: int, brake: Brake, gate: Gate, *, holder: str
    ) -> None:
        self._partition = partition
        self._ledger = stores.ledger
        self._redis = stores.redis
        self._recovery = stores.recovery
        self._holder = holder
        self._is_cancelled = False
        self._drain = Drain(
            partition, ledger=stores.ledger, redis=stores.redis, brake=brake, gate=gate
        )

    async def run(self) -> None:
        """Drain until a later shift begins, or nobody came for ``SHIFT_S``."""
        try:
            await self._run()
        finally:
            await self._drain.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + SHIFT_S
        number = await self._ledger.begin_shift(self._partition, self._holder)
        epoch = await self._recovery.opened(self._partition)
        while loop.time() < until_s:
            try:
                await self._drain_epoch(epoch, number, until_s)
            except Superseded:
                return
            except (Fenced, Gap) as error:
                log.debug("recovery_needed", partition=self._partition, reason=str(error))
                epoch = await self._recovery.reopen(self._partition, epoch)
            except (LedgerBroken, Halted) as error:
                log.critical("drain_halted", partition=self._partition, reason=str(error))
                return
            except Unavailable as error:
                log.warning("drain_waits", partition=self._partition, reason=str(error))
                await asyncio.sleep(BACK_OFF_S)

    async def _drain_epoch(self, epoch: int, number: int, until_s: float) -> None:
        """Drain in one epoch."""
        loop = asyncio.get_running_loop()
        scripts = Scripts(self._partition, epoch)
        mark = (await self._ledger.partition(self._partition)).mark
        # Makes up for a worker that died after its commit, and sees the fence without a sale.
        await scripts.call(self._redis, scripts.acknowledge(mark.seq, tail=TAIL))
        while loop.time() < until_s:
            mark = await self._finished(self._drain_on(scripts, mark, number, until_s))
            mark = await self._look_round(scripts, mark, number)

    async def _drain_on(
        self, scripts: Scripts, mark: Number, number: int, until_s: float
    ) -> Number:
        """Drain until nothing comes, or the time is over, or ours is; answers the mark."""
        loop = asyncio.get_running_loop()
        while loop.time() < until_s and not self._is_cancelled:
            drained = await self._drain.once(scripts, mark, shift=number, block_ms=BLOCK_MS)
            if drained == mark:
                break
            mark = drained
        return mark

    async def _look_round(self, scripts: Scripts, mark: Number, number: int) -> Number:
        """What an idle shift must learn: of a later one, another epoch, numbers that vanished."""
        expected = mark._replace(seq=mark.seq + 1)
        seq, *entries = await scripts.call(self._redis, scripts.find(expected))
        row = await self._ledger.partition(self._partition)
        if row.shift != number:
            raise Superseded(f"partition {self._partition} has another shift")
        if row.epoch != scripts.epoch:
            raise Fenced(self._partition, scripts.epoch)
        if seq > row.mark.seq and not entries:
            raise Gap(self._partition, after=row.mark, found="nothing")
        return row.mark

    async def _finished(self, draining: Coroutine[Any, Any, T]) -> T:
        """Await a drain; if we are cancelled meanwhile, let it finish its transaction first."""
        task = asyncio.ensure_future(draining)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._is_cancelled = True
            await asyncio.gather(task, return_exceptions=True)
            raise
