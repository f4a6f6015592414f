"""Confirmations: callers who wait until the ledger has taken their entry.

The worker publishes, after each commit, the stretch of numbers it took: everything after ``from``
up to ``to``, and which of them the ledger refused. A message can be missed (a worker dies between
its commit and the message, a connection breaks). So a stretch that does not begin where the last
one ended is not believed: then the ledger is asked about everyone who waits.

While the oldest number that nobody confirmed is older than a caller would wait, he is not made to
wait at all: a slow ledger does not slow the sale.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING, Final

from engine import metrics
from engine.deadline import Deadline
from engine.errors import Fault, RedisAway
from engine.model import Number, Status, Word
from engine.tasks import stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from engine.model import Drained, Fate

    # Asks the ledger what became of a partition's numbers; None if it is away.
    Ask = Callable[[int, Collection[Number]], Awaitable[dict[Number, Fate] | None]]

MAX_REMEMBERED: Final = 4096
MAX_SAMPLES: Final = 1024
RECENT_S: Final = 1.0


class Waiters:
    """Who waits for one partition's numbers.

    A wait ends with None (the ledger has it) or with the word of the ledger's refusal.
    """

    def __init__(self, partition: int, ask: Ask) -> None:
        self._partition = partition
        self._ask = ask
        self._heap: list[tuple[Number, int, asyncio.Future[Word | None]]] = []
        self._tie = itertools.count()
        # Everything in (known_after, known_to] is in the ledger, but for what was rejected.
        self._known_after = self._known_to = Number(0, 0)
        self._rejected: dict[Number, str] = {}
        self._samples: deque[tuple[Number, float]] = deque()
        self._took_s = self._taken_at_s = 0.0
        self._deadlines: dict[int, Deadline[asyncio.Future[Word | None]]] = {}  # by wait_ms
        self._asking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()  # to ask for it each time is a system call

    def granted(self, number: Number) -> None:
        """Note when a number was given out, to know how far behind the ledger is."""
        if number > self._known_to and len(self._samples) < MAX_SAMPLES:
            self._samples.append((number, self._loop.time()))

    async def wait(self, number: Number, wait_ms: int) -> Word | None:
        """Wait until the ledger has taken a number, or refused it.

        Raises:
            TimeoutError: it has not, in ``wait_ms``, or is known to be further behind than that.
            RedisAway: Redis lost the entry before the ledger took it.
            Fault: the ledger can never take the entry; it is a dead letter.
        """
        if self._known_after < number <= self._known_to:
            return refusal_for(self._rejected.get(number))
        if wait_ms <= 0 or self._behind_s(self._loop.time()) * 1000 > wait_ms:
            raise TimeoutError
        future: asyncio.Future[Word | None] = self._loop.create_future()
        heapq.heappush(self._heap, (number, next(self._tie), future))
        if number <= self._known_to:  # drained in a stretch that is forgotten
            self._ask_soon()
        deadline = self._deadlines.get(wait_ms)
        if deadline is None:
            deadline = self._deadlines[wait_ms] = Deadline(wait_ms / 1000, _expire)
        deadline.enter(future)
        try:
            return await future
        finally:
            deadline.leave(future)

    def heard(self, message: Drained) -> None:
        """Take one message of the worker."""
        after, to = Number(*message.after), Number(*message.to)
        if to <= self._known_to:
            return
        if after != self._known_to or len(self._rejected) > MAX_REMEMBERED:
            self._known_after = after
            self._rejected.clear()
        self._known_to = to
        for epoch, seq, reason in message.rejected:
            self._rejected[Number(epoch, seq)] = reason
        if self._samples and self._samples[0][0] <= to:
            self._taken_at_s = self._loop.time()
            self._took_s = self._behind_s(self._taken_at_s)
            metrics.CONFIRM_SECONDS.observe(self._took_s)
        while self._samples and self._samples[0][0] <= to:
            self._samples.popleft()
        while self._heap and self._heap[0][2].done():
            heapq.heappop(self._heap)
        if self._heap and self._heap[0][0] <= self._known_after:  # his message was missed
            self._ask_soon()
        else:
            self._resolve(to, self._rejected)

    def confirm_ms(self) -> float | None:
        """How long the oldest number waited that the ledger took last, or waits that it did not.

        None if there is none of either, of late.
        """
        now_s = self._loop.time()
        took_s = self._took_s if now_s - self._taken_at_s < RECENT_S else 0.0
        return max(took_s, self._behind_s(now_s)) * 1000 or None

    def release(self) -> None:
        """End every wait now, as if its time had run out."""
        for _, _, future in self._heap:
            _expire(future)
        self._heap.clear()

    def ask_soon(self) -> None:
        """Ask the ledger, after messages may have been missed."""
        if self._heap:
            self._ask_soon()

    async def close(self) -> None:
        """Stop asking."""
        self.release()
        if self._asking:
            await stop(self._asking)

    def _behind_s(self, now_s: float) -> float:
        return now_s - self._samples[0][1] if self._samples else 0.0

    def _resolve(self, to: Number, rejected: dict[Number, str]) -> None:
        heap = self._heap
        while heap and heap[0][0] <= to:
            number, _, future = heapq.heappop(heap)
            if not future.done():
                _settle(future, rejected.get(number))

    def _ask_soon(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_ledger())

    async def _ask_ledger(self) -> None:
        while waiting := [n for n, _, future in self._heap if not future.done()]:
            fates = await self._ask(self._partition, waiting)
            if fates is None:  # the waits run out, and the answer is 202
                return
            self._heap = [wait for wait in self._heap if not self._met(wait, fates)]
            heapq.heapify(self._heap)
            if not self._heap or self._heap[0][0] > self._known_to:
                return

    @staticmethod
    def _met(
        wait: tuple[Number, int, asyncio.Future[Word | None]], fates: dict[Number, Fate]
    ) -> bool:
        number, _, future = wait
        fate = fates.get(number)
        if future.done():
            return True
        if fate is None or fate.status is Status.PENDING:
            return False
        if fate.status is Status.LOST:
            future.set_exception(RedisAway("Redis lost the entry before the ledger took it"))
        else:
            _settle(future, fate.reason if fate.status is Status.REJECTED else None)
        return True


def _settle(future: asyncio.Future[Word | None], reason: str | None) -> None:
    try:
        future.set_result(refusal_for(reason))
    except Fault as error:
        future.set_exception(error)


def refusal_for(reason: str | None) -> Word | None:
    """The refusal that a reason of the ledger stands for; None if it has none.

    Raises:
        Fault: it stands for none; the entry is a dead letter.
    """
    if reason is None:
        return None
    try:
        return Word(reason)
    except ValueError:
        raise Fault(f"the ledger cannot take this entry: {reason}") from None


def _expire(future: asyncio.Future[Word | None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
