"""Watchers: who looks on while an event sells.

There is one feed an event and process, and only while somebody listens. It looks at the event every
``INTERVAL_S`` at most, and where something has changed it hands one and the same news to everyone
who listens. More listeners mean fewer looks, so that the news of a process stay below
``NEWS_A_SECOND`` however many they are: sales come first. And listeners are woken a few at a time,
so that a sale never waits for all of them.

A listener has no queue. Who is slow finds the latest news when he is back, and has missed the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from engine import metrics
from engine.errors import Fault, Overloaded
from engine.log import get_logger
from engine.tasks import stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.model import Availability

log = get_logger(__name__)

INTERVAL_S: Final = 0.1
AWAY_S: Final = 1.0
"""Between two looks while a store is away."""
BEAT_S: Final = 15.0
NEWS_A_SECOND: Final = 2000
WOKEN_AT_ONCE: Final = 50
KEPT: Final = 100
"""News that a feed keeps for those whose connection broke."""
MAX_FEEDS: Final = 1000
MAX_LISTENERS: Final = 10_000


class Sight(NamedTuple):
    """An event as a watcher sees it.

    ``outbox_depth`` is the whole partition's, None without Redis; ``confirm_ms`` how long the
    ledger took of late for what this process sold in that partition, None if it sold nothing;
    ``refused`` counts what this process refused of the event since somebody began to watch it.
    """

    seats: Availability
    outbox_depth: int | None
    confirm_ms: float | None
    refused: int


class News:
    """One message to all listeners of an event: what was seen at ``at_ms``, or why nothing was.

    ``prepared`` is for the one who sends it: he makes the bytes once for all listeners.
    """

    __slots__ = ("at_ms", "prepared", "seen")

    def __init__(self, at_ms: int, seen: Sight | Fault) -> None:
        self.at_ms = at_ms
        self.seen = seen
        self.prepared: bytes | None = None

    def says(self, seen: Sight | Fault) -> bool:
        """Whether it would be no news: a fault of the same kind is the same."""
        if isinstance(seen, Fault):
            return type(self.seen) is type(seen)
        return self.seen == seen


class Listener:
    """One who listens: to what he ``missed``, then to the latest news, each time there are some.

    As an iterator it gives news, or None as a sign of life. It ends when the event is gone or the
    process is told to end.
    """

    def __init__(self, feed: Feed, missed: list[News]) -> None:
        self.missed = missed
        self._feed = feed
        self._latest: News | None = None
        self._arrived = asyncio.Event()
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> News | None:
        await self._arrived.wait()
        if self._over:
            raise StopAsyncIteration
        self._arrived.clear()
        news, self._latest = self._latest, None
        return news

    def hand(self, news: News | None) -> None:
        """Give him the latest news, or a sign of life."""
        self._latest = news or self._latest
        self._arrived.set()

    def end(self) -> None:
        """Tell him that there will be no more."""
        self._over = True
        self._arrived.set()

    def leave(self) -> None:
        """Listen no more."""
        self._feed.leave(self)


class Feed:
    """The news of one event."""

    def __init__(self, watches: Watches, event_id: int, sight: Sight) -> None:
        self._watches = watches
        self._event_id = event_id
        self._listeners: set[Listener] = set()
        self._latest = News(time.time_ns() // 1_000_000, sight)
        self._kept = deque([self._latest], KEPT)
        self._told_s = time.monotonic()
        self.task = asyncio.create_task(self._run(), name=f"feed {event_id}")

    def join(self, after_ms: int) -> Listener:
        """Begin to listen; what came after ``after_ms``, if it is kept, was missed."""
        missed = [news for news in self._kept if news.at_ms > after_ms]
        if not after_ms or (not missed and self._latest.at_ms != after_ms):
            missed = [self._latest]
        listener = Listener(self, missed)
        self._listeners.add(listener)
        self._watches.listeners += 1
        metrics.WATCHERS.inc()
        return listener

    def leave(self, listener: Listener) -> None:
        """Let one go; he may go twice."""
        if listener in self._listeners:
            self._listeners.remove(listener)
            self._watches.listeners -= 1
            metrics.WATCHERS.dec()

    def end(self) -> None:
        """Tell everyone that there will be no more."""
        for listener in self._listeners:
            listener.end()

    async def _run(self) -> None:
        try:
            await asyncio.sleep(self._pause_s())
            while self._listeners:
                await self._look_once()
                await asyncio.sleep(self._pause_s())
        finally:
            self._watches.forget(self._event_id)

    def _pause_s(self) -> float:
        seen = self._latest.seen
        away = isinstance(seen, Fault) or seen.seats.source == "ledger"
        least_s = AWAY_S if away else INTERVAL_S
        return max(least_s, self._watches.listeners / NEWS_A_SECOND)

    async def _look_once(self) -> None:
        """Look, and tell what has changed; or that we are still there."""
        seen: Sight | Fault | None
        try:
            seen = await self._watches.look(self._event_id)
        except Fault as fault:
            seen = fault
        except Exception as error:  # who listens must not be left with old numbers
            log.exception("watch_failed", event_id=self._event_id)
            seen = Fault(str(error))
        if seen is None:
            self.end()
        elif not self._latest.says(seen):
            at_ms = max(time.time_ns() // 1_000_000, self._latest.at_ms + 1)
            self._latest = News(at_ms, seen)
            self._kept.append(self._latest)
            await self._hand(self._latest)
        elif time.monotonic() - self._told_s >= BEAT_S:
            await self._hand(None)

    async def _hand(self, news: News | None) -> None:
        self._told_s = time.monotonic()
        for place, listener in enumerate(list(self._listeners), start=1):
            listener.hand(news)
            if place % WOKEN_AT_ONCE == 0:
                await asyncio.sleep(0)


class Watches:
    """The feeds of a process.

    Args:
        look: looks at an event; None if there is none.
        forgotten: is told when nobody listens to an event any more.
    """

    def __init__(
        self,
        look: Callable[[int], Awaitable[Sight | None]],
        forgotten: Callable[[int], object],
    ) -> None:
        self.look = look
        self.listeners = 0
        self._forgotten = forgotten
        self._feeds: dict[int, Feed] = {}
        self._opening: dict[int, asyncio.Task[bool]] = {}
        self._releasing = False

    async def join(self, event_id: int, *, after_ms: int = 0) -> Listener | None:
        """Begin to listen; None if there is no such event. Who joined must ``leave``.

        Args:
            event_id: 1 to 2³¹-1.
            after_ms: when the last news were made that he has, or 0.

        Raises:
            Overloaded: too many listen already, or the process is told to end.
            Unavailable: nobody can say whether there is such an event.
        """
        self._see_room()
        while event_id not in self._feeds:
            if not await self._open(event_id):
                return None
        self._see_room()  # others came meanwhile, or the end did
        return self._feeds[event_id].join(after_ms)

    @property
    def events(self) -> int:
        """How many events are watched."""
        return len(self._feeds)

    def forget(self, event_id: int) -> None:
        """A feed has ended."""
        self._feeds.pop(event_id, None)
        self._forgotten(event_id)

    def release(self) -> None:
        """At shutdown: everyone is told that there is no more."""
        self._releasing = True
        for feed in self._feeds.values():
            feed.end()

    async def close(self) -> None:
        """Stop looking."""
        self.release()
        await stop(*self._opening.values(), *(feed.task for feed in self._feeds.values()))

    async def _open(self, event_id: int) -> bool:
        """Look for the first time, once for all who ask; whether there is such an event."""
        opening = self._opening.get(event_id)
        if opening is None:
            if len(self._feeds) + len(self._opening) >= MAX_FEEDS:
                raise Overloaded(f"{len(self._feeds)} events are watched already")
            opening = asyncio.create_task(self._open_once(event_id))
            self._opening[event_id] = opening
            opening.add_done_callback(lambda _: self._opening.pop(event_id, None))
        return await asyncio.shield(opening)

    async def _open_once(self, event_id: int) -> bool:
        sight = await self.look(event_id)
        if sight is None:
            return False
        self._feeds[event_id] = Feed(self, event_id, sight)
        return True

    def _see_room(self) -> None:
        if self._releasing:
            raise Overloaded("the process is ending")
        if self.listeners >= MAX_LISTENERS:
            raise Overloaded(f"{self.listeners} listen already")
