"""Admission: who gets a seat, one micro-batch at a time.

A lane is a partition's queue in front of Redis. Requests that arrive while calls are on the road
gather, and go together in the next write: one call an event, at most ``MAX_BATCH`` users each.
There is one write in flight, so the busier Redis is, the larger the batches.

A call whose answer is lost is not sent again. Its callers get ``RedisAway``; when they try again,
they meet their own booking.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from engine import keys, metrics
from engine.errors import Dirty, Overloaded, RedisAway
from engine.idempotency import DAY_S
from engine.model import MAX_BATCH, Number, Word
from engine.road import Call
from engine.scripts import Look, Scripts, look_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.model import Sink
    from engine.road import Road
    from engine.scripts import Command

MAX_OF_A_KIND: Final = 32
"""Calls that a write takes of a lane's looks, of its reserves, and of the rest."""
CANCEL_HEADROOM: Final = 1.1
"""Cancels may go this far beyond the outbox's bound: they free seats."""

_RESERVED = Word.RESERVED
_WORDS: Final = {
    b"sold_out": Word.SOLD_OUT,
    b"already_booked": Word.ALREADY_BOOKED,
    b"replayed": Word.REPLAYED,
}
_COUNT: Final = {
    word: metrics.RESERVATIONS.labels(word)
    for word in (_RESERVED, *_WORDS.values(), Word.NOT_OPEN, Word.CLOSED, Word.KEY_REUSED)
}


class Decision(NamedTuple):
    """What Redis decided of one user; ``number`` comes with the words that name a booking.

    ``at_ms`` is when a seat was given, or when the event opens.
    """

    word: Word
    number: Number = Number(0, 0)
    at_ms: int = 0


_SOLD_OUT = Decision(Word.SOLD_OUT)
_CLOSED = Decision(Word.CLOSED)
_NOT_HELD = Decision(Word.BOOKING_NOT_FOUND)


class _Ask(NamedTuple):
    user_id: str
    request: str
    answer: Sink[Decision | None]
    at_s: float


class Lane:
    """The way of one partition's requests to Redis.

    ``reserve``, ``cancel``, ``look`` and ``find`` raise ``Overloaded`` at once when the queue is at
    its bound. Else ``reserve`` tells the sink that it is given, and the others return a future. The
    result is None if the event is cold; it may be ``Dirty``, ``Fenced``, ``RedisAway`` or
    ``Overloaded``.
    """

    def __init__(self, partition: int, road: Road, *, outbox_bound: int, queue_bound: int) -> None:
        self.partition = partition
        self.queued = 0
        self.scripts: Scripts | None = None
        self.refused: dict[int, int] = {}
        """Of events that are watched: how many users were refused since that began."""
        self._outbox_bound = outbox_bound
        self._queue_bound = queue_bound
        self._road = road
        self._asks: dict[int, deque[_Ask]] = {}
        self._looks: dict[int, list[asyncio.Future[Look | None]]] = {}
        self._calls: deque[Call] = deque()
        self._loop = asyncio.get_running_loop()  # to ask for it each time is a system call

    def adopt(self, epoch: int) -> None:
        """Use the scripts of this epoch from now on."""
        if self.scripts is None or self.scripts.epoch < epoch:
            self.scripts = Scripts(self.partition, epoch)

    def reserve(
        self, event_id: int, user_id: str, answer: Sink[Decision | None], request: str = ""
    ) -> None:
        """Ask for a seat; reserved, replayed, already booked or sold out.

        ``request`` is what is asked for under an Idempotency-Key; "" without one.
        """
        self._admit()
        asks = self._asks.get(event_id)
        if asks is None:
            asks = self._asks[event_id] = deque()
        asks.append(_Ask(user_id, request, answer, time.monotonic()))

    def claim(self, fingerprint: str, request: str) -> asyncio.Future[bool]:
        """Let an Idempotency-Key stand for a request; whether it stands for no other."""
        scripts = self._ready()

        def parsed(reply: Any) -> bool:
            stands = scripts.checked(reply) in (None, request.encode())
            if not stands:
                _COUNT[Word.KEY_REUSED].inc()
            return stands

        key = keys.claim(self.partition, fingerprint)
        return self._send(("SET", key, request, "NX", "GET", "EX", DAY_S), parsed)

    def cancel(
        self, event_id: int, user_id: str, booking: Number
    ) -> asyncio.Future[Decision | None]:
        """Give a seat back; cancelled, with the cancel's own number, or not found."""
        scripts = self._ready()
        bound = int(self._outbox_bound * CANCEL_HEADROOM)
        return self._send(
            scripts.cancel(event_id, user_id, booking, bound=bound),
            lambda reply: _cancel_decision(scripts, reply),
        )

    def look(self, event_id: int, user_id: str = "") -> asyncio.Future[Look | None]:
        """Read an event as it is now; None if it is cold.

        All who look at an event, and at no user of it, before the next write share one call.
        """
        scripts = self._ready()
        if user_id:
            return self._send(scripts.look(event_id, user_id), lambda reply: _look(scripts, reply))
        self._admit()
        answer: asyncio.Future[Look | None] = self._loop.create_future()
        self._looks.setdefault(event_id, []).append(answer)
        return answer

    def find(self, number: Number) -> asyncio.Future[tuple[int, Any]]:
        """Read the last number given out, and the raw entry at or after a number (or None)."""
        scripts = self._ready()

        def parsed(reply: Any) -> tuple[int, Any]:
            seq, *entries = scripts.checked(reply)
            return seq, entries[0] if entries else None

        return self._send(scripts.find(number), parsed)

    def depth(self) -> asyncio.Future[int]:
        """Read how many numbers the ledger is not known to have."""
        scripts = self._ready()

        def parsed(reply: Any) -> int:
            seq, acked = scripts.checked(reply)
            return max(0, int(seq or 0) - int(acked or 0))

        return self._send(("HMGET", keys.log(self.partition), "seq", "acked"), parsed)

    def _ready(self) -> Scripts:
        if self.scripts is None:
            raise RedisAway(f"partition {self.partition} is not open yet")
        return self.scripts

    def _admit(self) -> None:
        self._ready()
        if self.queued >= self._queue_bound:
            raise Overloaded(f"{self.queued} requests wait for partition {self.partition}")
        self.queued += 1
        self._road.arrive(self)

    def _send(self, command: Command, parse: Callable[[Any], Any]) -> asyncio.Future[Any]:
        self._admit()
        answer: asyncio.Future[Any] = self._loop.create_future()

        def resolve(reply: Any) -> None:
            if not answer.done():
                answer.set_result(parse(reply))

        self._calls.append(Call(command, resolve, (answer,)))
        return answer

    def take(self) -> list[Call]:
        """What goes into the next write: of each kind a bounded part, so that none starves."""
        calls = [self._calls.popleft() for _ in range(min(len(self._calls), MAX_OF_A_KIND))]
        self.queued -= len(calls)
        for event_id in list(self._looks)[:MAX_OF_A_KIND]:
            lookers = self._looks.pop(event_id)
            self.queued -= len(lookers)
            calls.append(self._shared_look(event_id, lookers))
        for event_id in list(self._asks)[:MAX_OF_A_KIND]:
            asks = self._asks.pop(event_id)
            batch = [asks.popleft() for _ in range(min(len(asks), MAX_BATCH))]
            if asks:
                self._asks[event_id] = asks  # at the back of the line
            self.queued -= len(batch)
            calls.append(self._batch(event_id, batch))
        return calls

    def _shared_look(self, event_id: int, answers: list[asyncio.Future[Look | None]]) -> Call:
        scripts = self._ready()

        def resolve(reply: Any) -> None:
            look = _look(scripts, reply)
            for answer in answers:
                if not answer.done():
                    answer.set_result(look)

        return Call(scripts.look(event_id), resolve, answers)

    def _batch(self, event_id: int, batch: list[_Ask]) -> Call:
        scripts = self._ready()
        users, requests, answers, arrived_s = zip(*batch, strict=True)
        metrics.BATCH_SIZE.observe(len(batch))
        command = scripts.reserve(event_id, users, requests, bound=self._outbox_bound)

        def resolve(reply: Any) -> None:
            refused = _decide(scripts, reply, answers, arrived_s[0])
            if event_id in self.refused:
                self.refused[event_id] += refused

        return Call(command, resolve, answers)


def _decide(
    scripts: Scripts,
    reply: Any,
    answers: Sequence[Sink[Decision | None]],
    since_s: float,
) -> int:
    """Hand each user his part of a batch's reply, and answer how many were refused.

    ``since_s`` is when the first of them came.
    """
    reply = scripts.checked(reply)
    if isinstance(reply, bytes):
        decision = _whole(reply)
        for answer in answers:
            if not answer.done():
                answer.set_result(decision)
        return 0
    epoch, at_ms = scripts.epoch, reply[0]
    words = []
    for answer, part in zip(answers, reply[1:], strict=True):
        if type(part) is int:
            decision = Decision(_RESERVED, Number(epoch, part), at_ms)
        elif part == b"sold_out":
            decision = _SOLD_OUT
        else:
            decision = _seldom(part)
        words.append(decision.word)
        if not answer.done():
            answer.set_result(decision)
    metrics.ACCEPT_SECONDS.observe(time.monotonic() - since_s)
    counts = Counter(words)
    for each, users in counts.items():  # once a batch: a count is a system call
        _COUNT[each].inc(users)
    return len(words) - counts[_RESERVED] - counts[Word.REPLAYED]


def _seldom(part: bytes) -> Decision:
    """A user's part of a reply that is neither a seat nor ``sold_out``."""
    word, _, argument = part.partition(b" ")
    if word == b"closed":
        return _CLOSED
    if word == b"not_open":
        return Decision(Word.NOT_OPEN, at_ms=int(argument))
    return Decision(_WORDS[word], Number.held(argument))


def _whole(word: bytes) -> Decision | None:
    """The answer to a whole call; None if the event is cold."""
    if word == b"cold":
        return None
    if word == b"not_held":
        return _NOT_HELD
    if word == b"dirty":
        raise Dirty("the event's seats do not add up")
    raise Overloaded("the ledger is too far behind")


def _look(scripts: Scripts, reply: Any) -> Look | None:
    look = look_reply(scripts.checked(reply))
    if look and look.left + look.users != look.total:
        raise Dirty("the event's seats do not add up")
    return look


def _cancel_decision(scripts: Scripts, reply: Any) -> Decision | None:
    reply = scripts.checked(reply)
    if isinstance(reply, bytes):
        return _whole(reply)
    return Decision(Word.CANCELLED, Number(scripts.epoch, reply))
