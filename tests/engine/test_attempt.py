"""An attempt: one sink from Redis's decision to the ledger's, told once what has come of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from engine.admission import Decision
from engine.attempt import Attempt, Awaited
from engine.confirmations import Waiters
from engine.engine import Engine
from engine.errors import Dirty, Fault, Fenced, LedgerAway, Overloaded, RedisAway
from engine.model import Drained, Fate, Number, Reservation, Status, Word, booking_id

if TYPE_CHECKING:
    from collections.abc import Collection

    from engine.settings import Settings

PARTITION = 3
WAIT_MS = 20_000
BOUND_S = 5
GRANTED = Decision(Word.RESERVED, Number(1, 1), 1000)
BOOKING = booking_id(Number(1, 1), PARTITION)
PENDING = Reservation(Word.RESERVED, BOOKING, 1000)


class Noted(Attempt):
    """Remembers what it was told."""

    def __init__(self, waiters: Waiters, wait_ms: int = WAIT_MS) -> None:
        super().__init__(waiters, wait_ms)
        self.told: list[Reservation | Exception | None] = []

    def end(self, made: Reservation | None) -> None:
        """See ``Attempt``."""
        assert self.done()
        self.told.append(made)

    def fail(self, error: Exception) -> None:
        """See ``Attempt``."""
        assert self.done()
        self.told.append(error)


async def _lost(_: int, numbers: Collection[Number]) -> dict[Number, Fate]:
    return dict.fromkeys(numbers, Fate(Status.LOST))


@pytest.fixture
async def waiters() -> Waiters:
    """Those of a partition; asked, the ledger says that a number is lost."""
    return Waiters(PARTITION, _lost)


async def _over(attempt: Attempt) -> None:
    """Wait until it has ended."""
    async with asyncio.timeout(BOUND_S):
        while not attempt.done():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0)


def _drained(*rejected: tuple[int, int, str]) -> Drained:
    return Drained((1, 0), (1, 1), list(rejected))


@pytest.mark.parametrize(
    ("decision", "made"),
    [
        (None, None),
        (Decision(Word.SOLD_OUT), Reservation(Word.SOLD_OUT)),
        (Decision(Word.CLOSED), Reservation(Word.CLOSED)),
        (Decision(Word.NOT_OPEN, at_ms=99), Reservation(Word.NOT_OPEN, opens_ms=99)),
        (
            Decision(Word.ALREADY_BOOKED, Number(1, 1)),
            Reservation(Word.ALREADY_BOOKED, BOOKING),
        ),
        (Decision(Word.REPLAYED, Number(1, 1)), Reservation(Word.REPLAYED, BOOKING)),
    ],
)
async def test_what_redis_decides_alone(
    waiters: Waiters, decision: Decision | None, made: Reservation | None
) -> None:
    """It ends at once; nobody waits for the ledger."""
    attempt = Noted(waiters)
    assert not attempt.done()
    attempt.set_result(decision)
    waiters.heard(_drained())
    waiters.release()
    assert attempt.told == [made]


async def test_confirmed(waiters: Waiters) -> None:
    """A seat waits for the ledger, and has it."""
    attempt = Noted(waiters)
    attempt.set_result(GRANTED)
    assert (attempt.told, attempt.done()) == ([], False)
    waiters.heard(_drained())
    assert attempt.told == [PENDING._replace(status=Status.CONFIRMED)]


async def test_ledger_was_quicker(waiters: Waiters) -> None:
    """The message came before the decision."""
    attempt = Noted(waiters)
    waiters.heard(_drained())
    attempt.set_result(GRANTED)
    assert attempt.told == [PENDING._replace(status=Status.CONFIRMED)]


async def test_rejected(waiters: Waiters) -> None:
    """The ledger's word stands in the place of Redis's."""
    attempt = Noted(waiters)
    attempt.set_result(GRANTED)
    waiters.heard(_drained((1, 1, "already_booked")))
    expected = PENDING._replace(word=Word.ALREADY_BOOKED, status=Status.REJECTED)
    assert attempt.told == [expected]


@pytest.mark.parametrize("wait_ms", [0, 1])
async def test_pending(waiters: Waiters, wait_ms: int) -> None:
    """Who does not wait, or no longer, has his seat all the same; later news is not his."""
    attempt = Noted(waiters, wait_ms)
    attempt.set_result(GRANTED)
    await _over(attempt)
    waiters.heard(_drained((1, 1, "sold_out")))
    assert attempt.told == [PENDING]


async def test_released(waiters: Waiters) -> None:
    """At shutdown, who waits then and who comes after."""
    before, after = Noted(waiters), Noted(waiters)
    before.set_result(GRANTED)
    waiters.release()
    after.set_result(GRANTED)
    assert (before.told, after.told) == ([PENDING], [PENDING])


async def test_how_far_the_ledger_is_behind_is_known(waiters: Waiters) -> None:
    """Also from who does not wait: those who would are not made to."""
    assert waiters.confirm_ms() is None
    Noted(waiters, 0).set_result(GRANTED)
    assert waiters.confirm_ms() is not None


async def test_dead_letter(waiters: Waiters) -> None:
    """A fault: nobody knows what to say."""
    attempt = Noted(waiters)
    attempt.set_result(GRANTED)
    waiters.heard(_drained((1, 1, "dead")))
    assert [type(told) for told in attempt.told] == [Fault]


async def test_lost(waiters: Waiters) -> None:
    """Redis lost the seat that it had given."""
    attempt = Noted(waiters)
    attempt.set_result(GRANTED)
    waiters.ask_soon()
    await _over(attempt)
    assert [type(told) for told in attempt.told] == [RedisAway]


@pytest.mark.parametrize(
    "error", [RedisAway("away"), Overloaded("full"), Fenced(3, 1), Dirty("dirty"), TimeoutError()]
)
async def test_failure(waiters: Waiters, error: Exception) -> None:
    """Before there is a seat each is one: also to have waited too long."""
    attempt = Noted(waiters)
    attempt.set_exception(error)
    waiters.heard(_drained())
    assert (attempt.told, attempt.done()) == ([error], True)


async def test_engine_that_is_not_ready(settings: Settings, waiters: Waiters) -> None:
    """It takes nobody, and says why."""
    engine = await Engine.open(settings)
    attempt = Noted(waiters)
    try:
        engine._away = LedgerAway("away")  # noqa: SLF001 - as it is after such a start
        with pytest.raises(LedgerAway):
            engine.attempt(1, "ann", attempt)
    finally:
        await engine.close()
    assert attempt.told == []


class TestAwaited:
    """An attempt that a task waits for."""

    async def test_given(self, waiters: Waiters) -> None:
        """What has come of it."""
        future: asyncio.Future[Reservation | None] = asyncio.get_running_loop().create_future()
        Awaited(waiters, WAIT_MS, future).set_result(Decision(Word.SOLD_OUT))
        assert await future == Reservation(Word.SOLD_OUT)

    async def test_raised(self, waiters: Waiters) -> None:
        """Why nothing has."""
        future: asyncio.Future[Reservation | None] = asyncio.get_running_loop().create_future()
        Awaited(waiters, WAIT_MS, future).set_exception(Fenced(3, 1))
        with pytest.raises(Fenced):
            await future

    @pytest.mark.parametrize("told", [GRANTED, RedisAway("away")])
    async def test_task_that_is_gone(self, waiters: Waiters, told: Decision | Exception) -> None:
        """Nobody is there to hear it, and that harms nobody."""
        future: asyncio.Future[Reservation | None] = asyncio.get_running_loop().create_future()
        attempt = Awaited(waiters, WAIT_MS, future)
        future.cancel()
        if isinstance(told, Exception):
            attempt.set_exception(told)
        else:
            attempt.set_result(told)
            waiters.heard(_drained())
        assert attempt.done()
