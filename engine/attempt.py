"""One user's attempt to book, on its way through Redis and then the ledger.

It stands where a future would, in the lane to Redis and then among those who wait for the ledger:
what is decided in one place sets it going to the next at once. To wake a task each time would cost
more than all that is done with the answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from engine.model import Reservation, Status, Word, booking_id

if TYPE_CHECKING:
    import asyncio

    from engine.admission import Decision
    from engine.confirmations import Waiters

_SOLD_OUT = Reservation(Word.SOLD_OUT)


class Attempt(ABC):
    """A sink of Redis's decision and then, if that is a seat, of the ledger's.

    ``waiters`` are those of the event's partition; ``wait_ms`` is how long to wait for the ledger.
    """

    __slots__ = ("_granted", "_is_over", "_wait_ms", "_waiters")

    def __init__(self, waiters: Waiters, wait_ms: int) -> None:
        self._waiters = waiters
        self._wait_ms = wait_ms
        self._granted: Reservation | None = None
        self._is_over = False

    @abstractmethod
    def end(self, made: Reservation | None) -> None:
        """Take what has come of it.

        None: the event is cold, and nothing was decided. ``rejected``: the ledger has refused what
        Redis had granted, and the word says why.
        """

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Take the reason why nothing has. With ``Dirty`` and ``Fenced`` nothing was decided."""

    def done(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    def set_result(self, said: Any) -> None:
        """Take a ``Decision`` of Redis (None if the event is cold), then a word of the ledger."""
        if self._granted is None:
            self._decided(said)
        else:
            self._confirmed(self._granted, said)

    def set_exception(self, error: Exception) -> None:
        """Take a failure of either; to have waited too long is none, once the seat is granted."""
        self._is_over = True
        if self._granted is not None and isinstance(error, TimeoutError):
            self.end(self._granted)
        else:
            self.fail(error)

    def _decided(self, decision: Decision | None) -> None:
        if decision is None:
            self._end(None)
            return
        word, number, at_ms = decision
        if word is Word.RESERVED:
            waiters = self._waiters
            self._granted = Reservation(word, booking_id(number, waiters.partition), at_ms)
            waiters.granted(number)
            if self._wait_ms > 0:
                waiters.enter(number, self._wait_ms, self)
            else:
                self._end(self._granted)
        elif word is Word.SOLD_OUT:
            self._end(_SOLD_OUT)
        elif word is Word.NOT_OPEN or word is Word.CLOSED:
            self._end(Reservation(word, opens_ms=at_ms))
        else:
            self._end(Reservation(word, booking_id(number, self._waiters.partition)))

    def _confirmed(self, granted: Reservation, refusal: Word | None) -> None:
        _, booking, at_ms, _, _ = granted
        if refusal is None:
            self._end(Reservation(Word.RESERVED, booking, at_ms, Status.CONFIRMED))
        else:
            self._end(Reservation(refusal, booking, at_ms, Status.REJECTED))

    def _end(self, made: Reservation | None) -> None:
        self._is_over = True
        self.end(made)


class Awaited(Attempt):
    """An attempt that a task waits for."""

    __slots__ = ("future",)

    def __init__(
        self, waiters: Waiters, wait_ms: int, future: asyncio.Future[Reservation | None]
    ) -> None:
        super().__init__(waiters, wait_ms)
        self.future = future

    def end(self, made: Reservation | None) -> None:
        """Give it to the task."""
        if not self.future.done():
            self.future.set_result(made)

    def fail(self, error: Exception) -> None:
        """Raise it in the task."""
        if not self.future.done():
            self.future.set_exception(error)
