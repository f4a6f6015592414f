"""Waiters: who waits is told what the ledger did, also when a message was missed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from engine import confirmations
from engine.confirmations import Waiters
from engine.errors import Fault, RedisAway
from engine.model import Drained, Fate, Number, Status, Word

if TYPE_CHECKING:
    from collections.abc import Collection

WAIT_MS = 20_000


class Ledger:
    """Answers what became of numbers, and remembers who asked."""

    def __init__(self, **fates: Fate) -> None:
        self.fates = {Number.parse(number): fate for number, fate in fates.items()}
        self.asked: list[Number] = []
        self.away = False

    async def ask(self, _: int, numbers: Collection[Number]) -> dict[Number, Fate] | None:
        """What ``Waiters`` calls."""
        self.asked += numbers
        confirmed = Fate(Status.CONFIRMED)
        return None if self.away else {n: self.fates.get(n, confirmed) for n in numbers}


def _drained(after: int, to: int, *rejected: tuple[int, str], epoch: int = 1) -> Drained:
    return Drained((epoch, after), (epoch, to), [(epoch, seq, word) for seq, word in rejected])


def _waiters(ledger: Ledger | None = None, heard_to: int = 0) -> Waiters:
    waiters = Waiters(1, (ledger or Ledger()).ask)
    waiters.heard(_drained(0, heard_to, epoch=1))
    return waiters


def _wait(waiters: Waiters, *seqs: int, wait_ms: int = WAIT_MS) -> list[asyncio.Task[Word | None]]:
    return [asyncio.create_task(waiters.wait(Number(1, seq), wait_ms)) for seq in seqs]


async def _turn() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


class Behind:
    """A clock that can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._forward_s = 0.0
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + self._forward_s, raising=False)

    def put_forward(self, seconds: float) -> None:
        """From now on it is so much later."""
        self._forward_s += seconds


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Behind:
    """The loop's clock."""
    return Behind(monkeypatch)


async def test_resolves_up_to_the_message() -> None:
    """Who is in the stretch is told; who is beyond it waits on."""
    waiters = _waiters()
    first, second, third = _wait(waiters, 2, 3, 4)
    await _turn()
    waiters.heard(_drained(0, 3))
    assert await asyncio.gather(first, second) == [None, None]
    assert not third.done()
    waiters.heard(_drained(3, 4))
    assert await third is None


async def test_rejected() -> None:
    """He gets the word of the ledger's refusal, and only he."""
    waiters = _waiters()
    first, second = _wait(waiters, 1, 2)
    await _turn()
    waiters.heard(_drained(0, 2, (2, "sold_out")))
    assert await asyncio.gather(first, second) == [None, Word.SOLD_OUT]


async def test_dead_letter() -> None:
    """What the ledger can never take is a fault, not a refusal."""
    waiters = _waiters()
    (waiting,) = _wait(waiters, 1)
    await _turn()
    waiters.heard(_drained(0, 1, (1, "dead")))
    with pytest.raises(Fault):
        await waiting


async def test_who_comes_late_is_answered_at_once() -> None:
    """The message was quicker than he: what it said is remembered."""
    waiters = _waiters()
    waiters.heard(_drained(0, 3, (2, "already_booked")))
    assert await waiters.wait(Number(1, 3), 0) is None
    assert await waiters.wait(Number(1, 2), 0) is Word.ALREADY_BOOKED


async def test_missed_message_asks() -> None:
    """A stretch that does not begin where the last one ended is not believed."""
    ledger = Ledger(**{"1-2": Fate(Status.REJECTED, "sold_out")})
    waiters = _waiters(ledger, heard_to=1)
    waiting = _wait(waiters, 2, 3, 6)
    await _turn()
    waiters.heard(_drained(4, 6))
    assert await asyncio.gather(*waiting) == [Word.SOLD_OUT, None, None]
    assert set(ledger.asked) == {Number(1, 2), Number(1, 3), Number(1, 6)}


async def test_message_that_follows_a_missed_one() -> None:
    """It says nothing of who is still to be asked about, whatever it says of others."""
    ledger = Ledger(**{"1-2": Fate(Status.LOST)})
    waiters = _waiters(ledger, heard_to=1)
    lost, later = _wait(waiters, 2, 7)
    await _turn()
    waiters.heard(_drained(4, 6))
    waiters.heard(_drained(6, 7))
    with pytest.raises(RedisAway):
        await lost
    assert await later is None


async def test_who_was_missed_and_left_holds_nobody_up() -> None:
    """His wait ran out while the ledger was away: the next message is believed again."""
    ledger = Ledger()
    ledger.away = True
    waiters = _waiters(ledger, heard_to=1)
    with pytest.raises(TimeoutError):
        await waiters.wait(Number(1, 2), 1)
    (later,) = _wait(waiters, 7)
    await _turn()
    waiters.heard(_drained(4, 6))
    waiters.heard(_drained(6, 7))
    assert await later is None
    assert ledger.asked == []


async def test_number_in_a_stretch_that_is_forgotten_asks() -> None:
    """Somebody who comes very late."""
    ledger = Ledger(**{"1-2": Fate(Status.REJECTED, "sold_out")})
    waiters = _waiters(ledger)
    waiters.heard(_drained(4, 6))
    assert await waiters.wait(Number(1, 2), WAIT_MS) is Word.SOLD_OUT


async def test_message_twice() -> None:
    """An older stretch says nothing new."""
    ledger = Ledger()
    waiters = _waiters(ledger)
    waiters.heard(_drained(0, 6))
    (waiting,) = _wait(waiters, 7)
    await _turn()
    waiters.heard(_drained(2, 4))
    waiters.heard(_drained(6, 7))
    assert await waiting is None
    assert ledger.asked == []


async def test_next_epoch_asks() -> None:
    """After a recovery, who waits for a number of the old epoch learns what became of it."""
    ledger = Ledger(**{"1-2": Fate(Status.LOST)})
    waiters = _waiters(ledger, heard_to=1)
    lost, later = _wait(waiters, 2)[0], asyncio.create_task(waiters.wait(Number(2, 1), WAIT_MS))
    await _turn()
    waiters.heard(_drained(0, 1, epoch=2))
    with pytest.raises(RedisAway):
        await lost
    assert await later is None


async def test_reconnected_asks() -> None:
    """After messages may have been missed, the ledger is asked about everyone who waits."""
    ledger = Ledger()
    waiters = _waiters(ledger)
    (waiting,) = _wait(waiters, 3)
    await _turn()
    waiters.ask_soon()
    assert await waiting is None
    assert ledger.asked == [Number(1, 3)]


async def test_asking_leaves_the_pending_waiting() -> None:
    """Who the ledger does not have yet is not told anything."""
    ledger = Ledger(**{"1-3": Fate(Status.PENDING)})
    waiters = _waiters(ledger)
    (waiting,) = _wait(waiters, 3)
    await _turn()
    waiters.ask_soon()
    await _turn()
    assert not waiting.done()
    waiters.heard(_drained(0, 3))
    assert await waiting is None


async def test_ledger_away_when_asked() -> None:
    """The waits go on, and the next message settles them."""
    ledger = Ledger()
    ledger.away = True
    waiters = _waiters(ledger, heard_to=1)
    (waiting,) = _wait(waiters, 2)
    await _turn()
    waiters.heard(_drained(3, 6))
    await _turn()
    assert not waiting.done()
    ledger.away = False
    waiters.ask_soon()
    assert await waiting is None


async def test_time_runs_out() -> None:
    """Then the answer is 202, and the number is forgotten when its time comes."""
    waiters = _waiters()
    with pytest.raises(TimeoutError):
        await waiters.wait(Number(1, 1), 1)
    with pytest.raises(TimeoutError):
        await waiters.wait(Number(1, 1), 0)
    waiters.heard(_drained(0, 1))
    assert await waiters.wait(Number(1, 1), 0) is None


async def test_released() -> None:
    """At shutdown nobody waits on."""
    waiters = _waiters()
    waiting = _wait(waiters, 1, 2)
    await _turn()
    waiters.release()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError, TimeoutError]


async def test_released_for_good() -> None:
    """Nor does anybody begin to, unless he need not."""
    waiters = _waiters(heard_to=1)
    waiters.release()
    with pytest.raises(TimeoutError):
        await waiters.wait(Number(1, 2), WAIT_MS)
    assert await waiters.wait(Number(1, 1), WAIT_MS) is None


class Sink:
    """Stands where a future would."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def done(self) -> bool:
        """See ``model.Sink``."""
        return bool(self.told)

    def set_result(self, result: Word | None) -> None:
        """See ``model.Sink``."""
        self.told.append(result)

    def set_exception(self, exception: Exception) -> None:
        """See ``model.Sink``."""
        self.told.append(type(exception))


async def _over(sink: Sink) -> None:
    """Wait until it was told."""
    async with asyncio.timeout(5):
        while not sink.done():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0)


async def test_who_is_no_task_is_told_at_once() -> None:
    """In the same breath as the message, the release, or his own entry."""
    waiters = _waiters()
    sinks = [Sink() for _ in range(6)]
    for seq, sink in enumerate(sinks[:4], 1):
        waiters.enter(Number(1, seq), WAIT_MS, sink)
    assert [sink.told for sink in sinks] == [[]] * 6
    waiters.heard(_drained(0, 3, (2, "sold_out"), (3, "dead")))
    waiters.enter(Number(1, 2), WAIT_MS, sinks[4])
    waiters.release()
    waiters.enter(Number(1, 9), WAIT_MS, sinks[5])
    expected = [None, Word.SOLD_OUT, Fault, TimeoutError, Word.SOLD_OUT, TimeoutError]
    assert [sink.told for sink in sinks] == [[told] for told in expected]


async def test_who_is_no_task_does_not_wait_for_nothing(clock: Behind) -> None:
    """Not without a time to wait, nor while the ledger is further behind than that."""
    waiters = _waiters()
    waiters.granted(Number(1, 1))
    clock.put_forward(3)
    impatient, late, patient = Sink(), Sink(), Sink()
    waiters.enter(Number(1, 2), 0, impatient)
    waiters.enter(Number(1, 3), 2000, late)
    waiters.enter(Number(1, 4), WAIT_MS, patient)
    assert [impatient.told, late.told, patient.told] == [[TimeoutError], [TimeoutError], []]
    waiters.release()


async def test_who_was_told_is_told_no_more() -> None:
    """Time that runs out, a message, the ledger's answer, a release: the first of them counts."""
    ledger = Ledger()
    waiters = _waiters(ledger)
    asked, heard, hasty, last = Sink(), Sink(), Sink(), Sink()
    waiters.enter(Number(1, 1), WAIT_MS, asked)
    waiters.ask_soon()
    await _over(asked)
    waiters.enter(Number(1, 2), WAIT_MS, heard)
    waiters.enter(Number(1, 3), 1, hasty)
    waiters.enter(Number(1, 4), 1, last)
    await _over(last)
    waiters.heard(_drained(0, 3, (1, "sold_out"), (3, "sold_out")))
    waiters.heard(_drained(0, 3, (2, "sold_out")))
    waiters.release()
    told = [sink.told for sink in (asked, heard, hasty, last)]
    assert told == [[None], [None], [TimeoutError], [TimeoutError]]


@pytest.mark.parametrize("by", ["a message", "the ledger", "time", "a release"])
async def test_whose_wait_is_over_is_forgotten(by: str) -> None:
    """By the clock as well, however long he would have waited."""
    waiters = _waiters()
    sink = Sink()
    waiters.enter(Number(1, 1), 1 if by == "time" else WAIT_MS, sink)
    if by == "a message":
        waiters.heard(_drained(0, 1))
    elif by == "the ledger":
        waiters.ask_soon()
    elif by == "a release":
        waiters.release()
    await _over(sink)
    (deadline,) = waiters._deadlines.values()  # noqa: SLF001 - what must not pile up
    assert not deadline._ends_s  # noqa: SLF001 - as above
    if by == "time":  # his number is remembered until the ledger passes it
        waiters.heard(_drained(0, 1))
    await _turn()
    assert not waiters._heap  # noqa: SLF001 - as above


async def test_closed() -> None:
    """Also while the ledger is being asked."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    waiters = Waiters(1, never)
    (waiting,) = _wait(waiters, 1)
    await _turn()
    waiters.ask_soon()
    await _turn()
    await waiters.close()
    with pytest.raises(TimeoutError):
        await waiting


async def test_ledger_that_is_behind_lets_nobody_wait(clock: Behind) -> None:
    """While the oldest number waits longer than a caller would, he is answered 202 at once."""
    waiters = _waiters()
    waiters.granted(Number(1, 1))
    clock.put_forward(3)
    waiters.granted(Number(1, 2))
    (waiting,) = [asyncio.create_task(waiters.wait(Number(1, 2), 2000))]
    await _turn()
    assert waiting.done()
    with pytest.raises(TimeoutError):
        await waiting


async def test_ledger_that_has_caught_up(clock: Behind) -> None:
    """What it has taken makes nobody turn away."""
    waiters = _waiters()
    waiters.granted(Number(1, 1))
    clock.put_forward(3)
    waiters.granted(Number(1, 2))
    waiters.heard(_drained(0, 1))
    waiting = asyncio.create_task(waiters.wait(Number(1, 2), 2000))
    await _turn()
    assert not waiting.done()
    waiters.heard(_drained(1, 2))
    assert await waiting is None


async def test_message_before_the_grant(clock: Behind) -> None:
    """A number that the ledger took before its caller was told makes nobody turn away later."""
    waiters = _waiters()
    waiters.heard(_drained(0, 1))
    waiters.granted(Number(1, 1))
    clock.put_forward(3)
    waiters.granted(Number(1, 2))
    waiting = asyncio.create_task(waiters.wait(Number(1, 2), 2000))
    await _turn()
    assert not waiting.done()
    waiters.heard(_drained(1, 2))
    assert await waiting is None


async def test_far_behind_and_catching_up(clock: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many numbers wait, nobody waits for a ledger that is behind by more than that."""
    monkeypatch.setattr(confirmations, "MAX_SAMPLES", 16)
    waiters = _waiters()
    for seq in range(1, 1001):
        waiters.granted(Number(1, seq))
        clock.put_forward(0.01)
    for to in range(0, 1000, 50):
        if to:
            waiters.heard(_drained(max(0, to - 50), to))
        (waiting,) = _wait(waiters, 1000, wait_ms=2000)
        await _turn()
        is_behind_s = (1000 - to) / 100
        if is_behind_s > 4.5:
            assert isinstance(waiting.exception(), TimeoutError)
        elif is_behind_s < 2:
            assert not waiting.done()
            waiting.cancel()


async def test_time_to_confirm(clock: Behind) -> None:
    """The oldest number of the last message, or the oldest that waits; nothing after a while."""
    waiters = _waiters()
    assert waiters.confirm_ms() is None
    waiters.granted(Number(1, 1))
    clock.put_forward(0.25)
    waiters.granted(Number(1, 2))
    waiters.heard(_drained(0, 2))
    assert waiters.confirm_ms() == pytest.approx(250, abs=50)
    clock.put_forward(3)
    assert waiters.confirm_ms() is None
    waiters.granted(Number(1, 3))
    clock.put_forward(5)
    assert waiters.confirm_ms() == pytest.approx(5000, abs=50)


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither numbers given out nor refusals pile up."""
    monkeypatch.setattr(confirmations, "MAX_REMEMBERED", 5)
    waiters = _waiters()
    for seq in range(1, 3000):
        waiters.granted(Number(1, seq))
        assert len(waiters._samples) <= confirmations.MAX_SAMPLES  # noqa: SLF001 - the bound is it
    for seq in range(100):
        waiters.heard(_drained(seq, seq + 1, (seq + 1, "sold_out")))
    assert len(waiters._rejected) <= 6  # noqa: SLF001 - the bound is it
    assert await waiters.wait(Number(1, 100), 0) is Word.SOLD_OUT
