"""The HTTP side of every contender: the calls of our API, as bare as ASGI can be.

It reads a body with the decoder of our API and answers with the same headers and the same fields.
It leaves out what a contender can do without: limits on bodies, media types, ``Prefer``,
``Idempotency-Key``. So what a contender is slower by, it owes to how it books, not to this.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from api.answers import answer
from api.app import calm_the_garbage_collector
from api.express import PLACE
from api.protocol import EXPRESS
from api.schemas import reserve_decoder
from engine.model import Word

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from api.answers import Answer
    from api.protocol import Cycle
    from api.schemas import ReserveRequest
    from engine.model import Sink

RESERVE: Final = "/api/bookings/reserve"
BOOKING: Final = "/api/bookings/"
EVENT: Final = "/api/events/"
_GRANTED: Final = b'{"id":%d,"event_id":%d,"user_id":%b,"created_at":"%b","status":"%b"}'
_HELD: Final = b'{"status":409,"code":"already_booked","booking_id":%d}'
_CANCELLED: Final = b'{"message":"given back","id":%d,"status":"cancelled"}'
_SEATS: Final = b'{"event":{"id":%d,"total_seats":%d},"available_seats":%d}'
_encode: Final = msgspec.json.Encoder().encode


class Away(Exception):
    """The store does not answer; whether it decided is not known."""


class Verdict(NamedTuple):
    """What became of a request; the id and the time (Unix ms) where there is a booking."""

    word: Word
    booking_id: int = 0
    at_ms: int = 0


class Seats(NamedTuple):
    """How many seats an event has, and how many are left."""

    total: int
    left: int


class Peer(ABC):
    """A way to sell seats. Every call may raise ``Away``."""

    granted: int = 201
    """The status of a grant: 201 if it is in Postgres, 202 if it is not yet."""

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def reserve(self, event_id: int, user_id: str) -> Verdict:
        """Reserved, already booked, sold out or event not found."""

    async def cancel(self, booking_id: int) -> bool:
        """Whether the booking was there to be given back."""
        raise NotImplementedError

    async def seats(self, event_id: int) -> Seats | None:
        """The seats of an event; None if there is none."""
        raise NotImplementedError


class ExpressPeer(Peer):
    """A peer that can be asked from outside a task."""

    @abstractmethod
    def ask(self, event_id: int, user_id: str, answer: Sink[Verdict]) -> None:
        """``reserve``, of which ``answer`` is told."""


class Face:
    """The ASGI application of a peer."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._status = b"confirmed" if peer.granted == 201 else b"pending"  # noqa: PLR2004 - HTTP

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or live through the life of the process."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        try:
            made = await self._answer(scope, receive)
        except Away:
            made = AWAY
        await made.send(send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._peer.open()
        calm_the_garbage_collector()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._peer.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path, method = scope["path"], scope["method"]
        if path == RESERVE:
            return await self._reserve(receive)
        if method == "DELETE":
            booking = int(path.removeprefix(BOOKING))
            return cancelled(booking) if await self._peer.cancel(booking) else NOT_FOUND
        if path.startswith(EVENT):
            event_id = int(path.removeprefix(EVENT))
            found = await self._peer.seats(event_id)
            return seats(event_id, found) if found else NOT_FOUND
        return READY

    async def _reserve(self, receive: Receive) -> Answer:
        message = await receive()
        body = message["body"]
        while message.get("more_body", False):
            message = await receive()
            body += message["body"]
        try:
            request = reserve_decoder.decode(body)
        except msgspec.DecodeError:
            return BAD
        return self.told(request, await self._peer.reserve(request.event_id, request.user_id))

    def told(self, request: ReserveRequest, verdict: Verdict) -> Answer:
        """The answer to who would book."""
        word, booking, at_ms = verdict
        if word is Word.RESERVED:
            text = _GRANTED % (
                booking,
                request.event_id,
                _encode(request.user_id),
                rfc3339(at_ms),
                self._status,
            )
            return answer(self._peer.granted, text, (b"location", b"/api/bookings/%d" % booking))
        if word is Word.SOLD_OUT:
            return SOLD_OUT
        return held(booking) if word is Word.ALREADY_BOOKED else NOT_FOUND


class ExpressFace(Face):
    """The same past ASGI, as our own API goes with what is plain (``api/express.py``)."""

    def __init__(self, peer: ExpressPeer) -> None:
        super().__init__(peer)
        self._asked = peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take plain bookings over from now on, and serve what is left."""
        if scope["type"] == "lifespan":
            scope["state"][EXPRESS] = {PLACE: self._take}
        await super().__call__(scope, receive, send)

    def _take(self, cycle: Cycle) -> bool:
        try:
            request = reserve_decoder.decode(cycle.whole_body)
        except msgspec.DecodeError:
            return False
        self._asked.ask(request.event_id, request.user_id, Passenger(self, cycle, request))
        return True


class Passenger:
    """A request that waits for its verdict: it stands where a future would."""

    __slots__ = ("_cycle", "_face", "_is_done", "_request")

    def __init__(self, face: Face, cycle: Cycle, request: ReserveRequest) -> None:
        self._face = face
        self._cycle = cycle
        self._request = request
        self._is_done = False

    def done(self) -> bool:
        """Whether it is answered."""
        return self._is_done

    def set_result(self, verdict: Verdict) -> None:
        """Answer it."""
        self._send(self._face.told(self._request, verdict))

    def set_exception(self, _: Exception) -> None:
        """Say that the store is away."""
        self._send(AWAY)

    def _send(self, made: Answer) -> None:
        self._is_done = True
        if not self._cycle.answer(made):
            self._cycle.run(lambda _scope, _receive, send: made.send(send))


def held(booking_id: int) -> Answer:
    """The refusal of somebody who has a seat."""
    return answer(409, _HELD % booking_id)


def cancelled(booking_id: int) -> Answer:
    """The answer to a cancel."""
    return answer(200, _CANCELLED % booking_id)


def seats(event_id: int, found: Seats) -> Answer:
    """The answer to a look at an event."""
    return answer(200, _SEATS % (event_id, *found))


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


@lru_cache(maxsize=1024)
def rfc3339(instant_ms: int) -> bytes:
    """Write Unix milliseconds as our API does; a batch shares its instant."""
    second, millisecond = divmod(instant_ms, 1000)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{millisecond:03d}Z", time.gmtime(second)).encode()


READY: Final = answer(200, b'{"status":"ready"}')
SOLD_OUT: Final = answer(409, b'{"status":409,"code":"sold_out"}')
NOT_FOUND: Final = answer(404, b'{"status":404,"code":"not_found"}')
BAD: Final = answer(400, b'{"status":400,"code":"invalid_body"}')
AWAY: Final = answer(503, b'{"status":503,"code":"away"}', (b"retry-after", b"1"))
