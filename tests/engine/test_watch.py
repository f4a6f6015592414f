"""Watchers: one look for all, news only, and what becomes of them when looking fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from engine import watch
from engine.errors import Fault, LedgerAway, Overloaded, RedisAway
from engine.model import Availability, Event
from engine.watch import Listener, News, Sight, Watches
from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOTAL = 100


def _sight(left: int, source: str = "redis") -> Sight:
    seats = Availability(Event(1, "Чайка", TOTAL), left, source)
    return Sight(seats, outbox_depth=0, confirm_ms=None, refused=0)


class Stage:
    """What is looked at: ``shows`` is what a look gives, or raises."""

    def __init__(self) -> None:
        self.shows: Sight | Exception | None = _sight(TOTAL)
        self.looks: list[float] = []
        self.forgotten: list[int] = []
        self.watches = Watches(self.look, self.forgotten.append)
        self.seen = asyncio.Event()
        self.seen.set()

    async def look(self, _: int) -> Sight | None:
        """What ``Watches`` calls."""
        self.looks.append(asyncio.get_running_loop().time())
        await self.seen.wait()
        if isinstance(self.shows, Exception):
            raise self.shows
        return self.shows

    async def join(self, event_id: int = 1, *, after_ms: int = 0) -> Listener:
        """Listen."""
        listener = await self.watches.join(event_id, after_ms=after_ms)
        assert listener is not None
        return listener

    async def looked(self, times: int) -> None:
        """Wait for so many looks more."""
        wanted = len(self.looks) + times

        async def are_made() -> bool:
            return len(self.looks) >= wanted

        await world.until(are_made)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """A stage, looked at as often as can be."""
    monkeypatch.setattr(watch, "INTERVAL_S", 0.005)
    monkeypatch.setattr(watch, "AWAY_S", 0.005)
    stage = Stage()
    yield stage
    await stage.watches.close()


async def _next(listener: Listener) -> News | None:
    async with asyncio.timeout(world.BOUND_S):
        return await anext(listener)


async def _left(listener: Listener) -> int:
    news = await _next(listener)
    assert news is not None
    assert isinstance(news.seen, Sight)
    return news.seen.seats.available_seats


async def test_all_get_the_same_news(stage: Stage) -> None:
    """One object for everyone, so that its bytes are made once."""
    listeners = [await stage.join() for _ in range(120)]
    stage.shows = _sight(99)
    news = [await _next(listener) for listener in listeners]
    assert len({id(each) for each in news}) == 1


async def test_latest_wins(stage: Stage) -> None:
    """Who was slow gets the latest news, and nothing has been kept for him."""
    slow, quick = await stage.join(), await stage.join()
    for left in (99, 98, 97):
        stage.shows = _sight(left)
        assert await _left(quick) == left
    assert await _left(slow) == 97
    stage.shows = _sight(96)
    assert await _left(slow) == 96


async def test_no_news_while_nothing_changes(stage: Stage) -> None:
    """The same sight is told once."""
    listener = await stage.join()
    await stage.looked(5)
    waiting = asyncio.create_task(_next(listener))
    await stage.looked(5)
    assert not waiting.done()
    stage.shows = _sight(1)
    news = await waiting
    assert news is not None
    assert news.says(_sight(1))


async def test_sign_of_life_hides_no_news(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """News that were not read yet are not lost to a sign of life after them."""
    monkeypatch.setattr(watch, "BEAT_S", 0.0)
    listener = await stage.join()
    assert await _next(listener) is None
    stage.shows = _sight(7)
    await stage.looked(5)
    heard = [await _next(listener) for _ in range(2)]
    assert any(news and news.says(_sight(7)) for news in heard)


@pytest.mark.parametrize("fault", [RedisAway("away"), LedgerAway("away"), Overloaded("full")])
async def test_fault(stage: Stage, fault: Fault) -> None:
    """A store that is away is told once, and so is that it is back."""
    listener = await stage.join()
    stage.shows = fault
    news = await _next(listener)
    assert news is not None
    assert news.seen is fault
    stage.shows = type(fault)("as before")
    waiting = asyncio.create_task(_next(listener))
    await stage.looked(5)
    assert not waiting.done()
    stage.shows = _sight(TOTAL)
    back = await waiting
    assert back is not None
    assert back.says(_sight(TOTAL))


async def test_defect(stage: Stage) -> None:
    """A defect in a look is logged, told as a fault, and ends nothing."""
    listener = await stage.join()
    with capture_logs() as logs:
        stage.shows = ZeroDivisionError("secret")
        news = await _next(listener)
    assert news is not None
    assert isinstance(news.seen, Fault)
    assert logs[0]["event"] == "watch_failed"
    stage.shows = _sight(5)
    assert await _left(listener) == 5


async def test_fault_at_the_first_look(stage: Stage) -> None:
    """Who asks while nobody can say is told so, and may ask again."""
    stage.shows = RedisAway("away")
    with pytest.raises(RedisAway):
        await stage.join()
    stage.shows = _sight(4)
    listener = await stage.join()
    assert [news.says(_sight(4)) for news in listener.missed] == [True]


async def test_event_that_is_deleted(stage: Stage) -> None:
    """There is no more news of it; who asks then is told that there is no such event."""
    listener = await stage.join()
    stage.shows = None
    with pytest.raises(StopAsyncIteration):
        await _next(listener)
    listener.leave()
    await world.until(_forgotten(stage))
    assert await stage.watches.join(1) is None


async def test_nobody_listens(stage: Stage) -> None:
    """Then nobody looks."""
    listener = await stage.join()
    listener.leave()
    listener.leave()
    await world.until(_forgotten(stage))
    assert (stage.watches.listeners, stage.watches.events) == (0, 0)
    looks = len(stage.looks)
    again = await stage.join()
    assert len(stage.looks) == looks + 1
    again.leave()


def _forgotten(stage: Stage):  # noqa: ANN202 - a fact to wait for
    async def is_forgotten() -> bool:
        return stage.forgotten == [1]

    return is_forgotten


async def test_first_look_is_shared(stage: Stage) -> None:
    """Of many who come at once, one look serves all."""
    await asyncio.gather(*(stage.join() for _ in range(50)))
    assert len(stage.looks) == 1


async def test_missed_news(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes again gets what came after his last, in order, as far as it is kept."""
    monkeypatch.setattr(watch, "KEPT", 3)
    listener = await stage.join()
    first = listener.missed[0].at_ms
    for left in (9, 8, 7, 6):
        stage.shows = _sight(left)
        news = await _next(listener)
    assert news is not None

    async def missed(after_ms: int) -> list[int]:
        found = (await stage.join(after_ms=after_ms)).missed
        return [each.seen.seats.available_seats for each in found]  # type: ignore[union-attr]

    assert await missed(first) == [8, 7, 6]
    assert await missed(news.at_ms - 1) == [6]
    assert await missed(news.at_ms) == []
    assert await missed(news.at_ms + 10**6) == [6]  # another process's clock
    assert await missed(0) == [6]


async def test_more_listeners_mean_fewer_looks(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process sends in a second is bounded, however many listen."""
    monkeypatch.setattr(watch, "NEWS_A_SECOND", 100)
    for _ in range(20):
        await stage.join()
    await stage.looked(4)
    pauses = [late - early for early, late in zip(stage.looks, stage.looks[1:], strict=False)]
    assert min(pauses[-2:]) >= 0.19


async def test_bounds(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many listeners, and so many events, and no more."""
    monkeypatch.setattr(watch, "MAX_FEEDS", 1)
    await stage.join()
    with pytest.raises(Overloaded):
        await stage.join(2)
    monkeypatch.setattr(watch, "MAX_LISTENERS", 1)
    with pytest.raises(Overloaded):
        await stage.join()


async def test_bound_of_many_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds for those too who all came while an event was looked at first."""
    monkeypatch.setattr(watch, "MAX_LISTENERS", 3)
    stage.seen.clear()
    joining = asyncio.gather(*(stage.join() for _ in range(9)), return_exceptions=True)
    await stage.looked(1)
    stage.seen.set()
    refused = [each for each in await joining if isinstance(each, Overloaded)]
    assert (stage.watches.listeners, len(refused)) == (3, 6)


async def test_release_while_one_joins(stage: Stage) -> None:
    """Who was about to be let in when the end came is not: he would never be told of it."""
    stage.seen.clear()
    joining = asyncio.create_task(stage.join())
    await stage.looked(1)
    stage.watches.release()
    stage.seen.set()
    with pytest.raises(Overloaded):
        await joining


async def test_release(stage: Stage) -> None:
    """At the end everyone is told, and nobody else is let in."""
    listener = await stage.join()
    stage.watches.release()
    with pytest.raises(StopAsyncIteration):
        await _next(listener)
    with pytest.raises(Overloaded):
        await stage.join()
