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
from typing import TYPE_CHECKING, Final, NamedTuple

from engine import metrics
from engine.deadline import Deadline
from engine.errors import Fault, RedisAway
from engine.model import Number, Status, Word
from engine.tasks import stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from engine.model import Drained, Fate, Sink

    # Asks the ledger what became of a partition's numbers; None if it is away.
    Ask = Callable[[int, Collection[Number]], Awaitable[dict[Number, Fate] | None]]

MAX_REMEMBERED: Final = 4096
MAX_SAMPLES: Final = 1024
RECENT_S: Final = 1.0


class _Wait(NamedTuple):
    """Somebody who waits. ``tie`` orders those who wait for the same number."""

    number: Number
    tie: int
    waiter: Sink[Word | None]
    deadline: Deadline[Sink[Word | None]]

    def leave(self) -> None:
        """No longer count his time."""
        self.deadline.leave(self.waiter)


class Waiters:
    """Who waits for one partition's numbers.

    A wait ends with None (the ledger has it) or with the word of the ledger's refusal.
    """

    def __init__(self, partition: int, ask: Ask) -> None:
        self.partition = partition
        self._ask = ask
        self._heap: list[_Wait] = []
        self._tie = itertools.count()
        # Everything in (known_after, known_to] is in the ledger, but for what was rejected.
        self._known_after = self._known_to = Number(0, 0)
        self._rejected: dict[Number, str] = {}
        self._samples: deque[tuple[Number, float]] = deque()
        self._apart_s = 0.0  # how far the samples are apart, at least
        self._took_s = self._taken_at_s = 0.0
        self._deadlines: dict[int, Deadline[Sink[Word | None]]] = {}  # by wait_ms
        self._is_released = False
        self._asking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()  # to ask for it each time is a system call

    def granted(self, number: Number) -> None:
        """Note when a number was given out, to know how far behind the ledger is."""
        if number <= self._known_to:
            return
        samples, now_s = self._samples, self._loop.time()
        if not samples:
            self._apart_s = 0.0
        elif len(samples) >= MAX_SAMPLES:  # it is far behind: half as many tell as well how far
            self._samples = samples = deque(itertools.islice(samples, 0, None, 2))
            self._apart_s = (now_s - samples[0][1]) / len(samples)
        elif now_s - samples[-1][1] < self._apart_s:
            return
        samples.append((number, now_s))

    async def wait(self, number: Number, wait_ms: int) -> Word | None:
        """Wait until the ledger has taken a number, or refused it.

        Raises:
            TimeoutError: it has not, in ``wait_ms``, or is known to be further behind than that.
            RedisAway: Redis lost the entry before the ledger took it.
            Fault: the ledger can never take the entry; it is a dead letter.
        """
        future: asyncio.Future[Word | None] = self._loop.create_future()
        self.enter(number, wait_ms, future)
        return await future

    def enter(self, number: Number, wait_ms: int, waiter: Sink[Word | None]) -> None:
        """``wait`` for who is not a task: he is told, perhaps at once, what that would come to."""
        if self._known_after < number <= self._known_to:
            _settle(waiter, self._rejected.get(number))
            return
        if wait_ms <= 0 or self._is_released or self._is_behind(wait_ms):
            waiter.set_exception(TimeoutError())
            return
        deadline = self._deadlines.get(wait_ms)
        if deadline is None:
            deadline = self._deadlines[wait_ms] = Deadline(wait_ms / 1000, _expire)
        deadline.enter(waiter)
        heapq.heappush(self._heap, _Wait(number, next(self._tie), waiter, deadline))
        if number <= self._known_to:  # drained in a stretch that is forgotten
            self._ask_soon()

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
        while self._heap and self._heap[0].waiter.done():
            heapq.heappop(self._heap)
        if self._heap and self._heap[0].number <= self._known_after:  # his message was missed
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
        """End every wait now, and from now on, as if its time had run out."""
        self._is_released = True
        waits, self._heap = self._heap, []
        for wait in waits:
            wait.leave()
            _expire(wait.waiter)

    def ask_soon(self) -> None:
        """Ask the ledger, after messages may have been missed."""
        if self._heap:
            self._ask_soon()

    async def close(self) -> None:
        """Stop asking."""
        self.release()
        if self._asking:
            await stop(self._asking)

    def _is_behind(self, wait_ms: int) -> bool:
        return self._behind_s(self._loop.time()) * 1000 > wait_ms

    def _behind_s(self, now_s: float) -> float:
        return now_s - self._samples[0][1] if self._samples else 0.0

    def _resolve(self, to: Number, rejected: dict[Number, str]) -> None:
        heap = self._heap
        while heap and heap[0].number <= to:
            wait = heapq.heappop(heap)
            wait.leave()
            if not wait.waiter.done():
                _settle(wait.waiter, rejected.get(wait.number))

    def _ask_soon(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_ledger())

    async def _ask_ledger(self) -> None:
        while waiting := [wait.number for wait in self._heap if not wait.waiter.done()]:
            fates = await self._ask(self.partition, waiting)
            if fates is None:  # the waits run out, and the answer is 202
                return
            self._heap = [wait for wait in self._heap if not self._met(wait, fates)]
            heapq.heapify(self._heap)
            if not self._heap or self._heap[0].number > self._known_to:
                return

    @staticmethod
    def _met(wait: _Wait, fates: dict[Number, Fate]) -> bool:
        fate = fates.get(wait.number)
        if wait.waiter.done():
            return True
        if fate is None or fate.status is Status.PENDING:
            return False
        wait.leave()
        if fate.status is Status.LOST:
            lost = RedisAway("Redis lost the entry before the ledger took it")
            wait.waiter.set_exception(lost)
        else:
            _settle(wait.waiter, fate.reason if fate.status is Status.REJECTED else None)
        return True


def _settle(waiter: Sink[Word | None], reason: str | None) -> None:
    try:
        refusal = refusal_for(reason)
    except Fault as error:
        waiter.set_exception(error)
    else:
        waiter.set_result(refusal)


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


def _expire(waiter: Sink[Word | None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
