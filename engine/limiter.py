"""The rate limit: how many calls a caller may make in a window, in all processes together.

Calls that arrive while a script call is in flight go together in the next one, as in admission. The
limit protects the service and decides nothing, so without Redis it goes on in this process alone.

Who was told a moment ago that he has plenty left is let in ahead: his call is counted soon, and he
does not wait for that. Should others who call under his name use up all that was left in that
moment, then so many more calls pass as a process lets in ahead, at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.exceptions import NoScriptError

from engine import keys
from engine.errors import RedisAway
from engine.road import Call
from engine.scripts import unfenced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.road import Road

MAX_CALLERS: Final = 500
MAX_REMEMBERED: Final = 100_000
AHEAD: Final = 16
"""Of what a caller has left, one part in so many may be let in ahead."""
MOMENT_S: Final = 0.05
COUNT_S: Final = 0.02
"""After so long, at the latest, Redis is told of those who were let in ahead."""


class Allowance(NamedTuple):
    """What a caller's limit says of one call: 0 ms to wait if it passes."""

    wait_ms: int
    remaining: int
    """How many more would pass now."""
    reset_ms: int
    """When he has used nothing, if he makes no more."""


Tell = Callable[[Allowance], None]
"""Who is told what came of a call; he must not raise."""

UNLIMITED: Final = Allowance(0, 0, 0)


class _Tab:
    """What a caller owes Redis, and what it last said of him."""

    __slots__ = ("_at_s", "_remaining", "_reset_ms", "ahead", "sent_ahead", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Tell] = []
        self.ahead = self.sent_ahead = 0
        self.hear(0, 0, 0.0)

    def hear(self, remaining: int, reset_ms: int, now_s: float) -> None:
        """Take what it says, of all that was sent."""
        self.sent_ahead = 0
        self._remaining = remaining
        self._reset_ms = reset_ms
        self._at_s = now_s

    def let_in(self, now_s: float) -> Allowance | None:
        """Let a call in ahead, if that is no risk."""
        ahead = self.ahead + self.sent_ahead
        if ahead >= self._remaining // AHEAD or now_s - self._at_s > MOMENT_S:
            return None
        self.ahead += 1
        return Allowance(0, self._remaining - ahead - 1, self._reset_ms)

    def send(self) -> _Sent:
        """What goes into the next call."""
        sent = _Sent(self.ahead, self.waiting)
        self.ahead, self.sent_ahead, self.waiting = 0, self.ahead, []
        return sent


class _Sent(NamedTuple):
    """A caller's calls that go together: so many that were let in ahead, and those that wait."""

    ahead: int
    waiting: list[Tell]

    @property
    def calls(self) -> int:
        """How many they are."""
        return self.ahead + len(self.waiting)


Batch = dict[str, _Sent]


class Limiter:
    """Lets callers pass. It is a lane of the road to Redis: see ``engine/road.py``."""

    def __init__(self, road: Road, *, max_calls: int, window_ms: int) -> None:
        self._road = road
        self._max = max_calls
        self._window_ms = window_ms
        self._tabs: dict[str, _Tab] = {}
        self._owing: dict[str, None] = {}
        """Callers with calls that were not sent."""
        self._counts_soon = False
        self._is_known = True
        """Whether Redis has the script, as far as we know."""
        self._used_until_s: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()  # to ask for it each time is a system call

    @property
    def queued(self) -> int:
        """How many callers have something to send."""
        return len(self._owing)

    async def admit(self, caller: str) -> Allowance:
        """Make one call."""
        answer: asyncio.Future[Allowance] = self._loop.create_future()

        def tell(allowance: Allowance) -> None:
            if not answer.done():
                answer.set_result(allowance)

        self.ask(caller, tell)
        return await answer

    def ask(self, caller: str, tell: Tell) -> None:
        """``admit`` for who is not a task."""
        tab = self._tab(caller)
        self._owing[caller] = None
        allowance = tab.let_in(self._loop.time())
        if allowance is None:
            tab.waiting.append(tell)
            self._road.arrive(self)
            return
        if not self._counts_soon:
            self._counts_soon = True
            self._loop.call_later(COUNT_S, self._count)
        tell(allowance)

    def take(self) -> list[Call]:
        """The next batch: one script call for all of its callers."""
        callers = list(self._owing)[:MAX_CALLERS]
        for caller in callers:
            del self._owing[caller]
        return [self._call({caller: self._tabs[caller].send() for caller in callers})]

    def _count(self) -> None:
        """Have those counted who were let in ahead, unless a caller who waits has had it done."""
        self._counts_soon = False
        if self._owing:
            self._road.arrive(self)

    def _call(self, batch: Batch) -> Call:
        by_digest, with_text = unfenced(
            "limit",
            len(batch),
            *map(keys.limit, batch),
            self._max,
            self._window_ms,
            *(sent.calls for sent in batch.values()),
        )

        def resolve(reply: Any) -> None:
            self._is_known = not isinstance(reply, NoScriptError)
            if not self._is_known:
                self._put_back(batch)
                return
            if isinstance(reply, Exception):
                raise RedisAway(f"Redis answered: {reply}")
            answers = list(zip(batch.items(), _by_fours(reply), strict=True))
            for (caller, sent), answer in answers:  # all are there: nobody is told twice
                self._heard(caller, sent, *answer)

        command = by_digest if self._is_known else with_text
        return Call(command, resolve, [_Unanswered(batch, self._answer_alone)])

    def _tab(self, caller: str) -> _Tab:
        tab = self._tabs.get(caller)
        if tab is None:
            if len(self._tabs) > MAX_REMEMBERED:
                self._tabs = {caller: self._tabs[caller] for caller in self._owing}
            tab = self._tabs[caller] = _Tab()
        return tab

    def _put_back(self, batch: Batch) -> None:
        for caller, sent in batch.items():
            tab = self._tab(caller)
            tab.ahead, tab.sent_ahead = tab.ahead + sent.ahead, 0
            tab.waiting[:0] = sent.waiting
            self._owing[caller] = None
        self._road.arrive(self)

    def _heard(
        self, caller: str, sent: _Sent, passed: int, wait_ms: int, remaining: int, reset_ms: int
    ) -> None:
        """Answer the calls of one caller, in order; those that are in already count first."""
        self._tab(caller).hear(remaining, reset_ms, self._loop.time())
        for place, tell in enumerate(sent.waiting, sent.ahead):
            if place < passed:
                tell(Allowance(0, remaining + passed - place - 1, reset_ms))
            else:
                tell(Allowance(max(1, wait_ms), 0, reset_ms))

    def _answer_alone(self, batch: Batch) -> None:
        for caller, sent in batch.items():
            self._tab(caller).hear(0, 0, 0.0)
            for _ in range(sent.ahead):
                self._alone(caller)
            for tell in sent.waiting:
                tell(self._alone(caller))

    def _alone(self, caller: str) -> Allowance:
        """What ``limit.lua`` does for one call, for this process."""
        if len(self._used_until_s) > MAX_REMEMBERED:
            self._used_until_s.clear()
        now_s, window_s = time.monotonic(), self._window_ms / 1000
        step_s = window_s / self._max
        used_until_s = max(self._used_until_s.get(caller, 0.0), now_s)
        room = int((now_s + window_s - used_until_s) / step_s + 0.001)
        if room > 0:
            used_until_s += step_s
            self._used_until_s[caller] = used_until_s
        wait_s = used_until_s + step_s - window_s - now_s
        wait_ms = 0 if room > 0 else max(0, int(wait_s * 1000)) + 1
        return Allowance(wait_ms, max(0, room - 1), int((used_until_s - now_s) * 1000) + 1)


class _Unanswered:
    """Where the news goes that Redis is away: each caller of a batch is then answered ``alone``."""

    def __init__(self, batch: Batch, alone: Callable[[Batch], None]) -> None:
        self._batch = batch
        self._alone = alone

    def done(self) -> bool:
        """Never; who was answered is not told of failures."""
        return False

    def set_result(self, _: object) -> None:
        """Nothing: the batch is answered as a whole."""

    def set_exception(self, _: Exception) -> None:
        """Answer all of them."""
        self._alone(self._batch)


def _by_fours(answers: list[int]) -> Iterator[tuple[int, ...]]:
    """The answers of each caller."""
    return zip(*[iter(answers)] * 4, strict=True)
