"""Answers as bytes, ready to send.

An answer knows its bytes. One that is always the same is therefore built once and sent any number
of times.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from api import schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Send

    from engine.model import Event

Header = tuple[bytes, bytes]

JSON = b"application/json"
NO_STORE: Header = (b"cache-control", b"no-store")
"""On every answer: a number of seats is stale as soon as it is read."""

encode = msgspec.json.Encoder().encode
"""Write a value of this API as JSON bytes."""


def lines(headers: Iterable[Header]) -> bytes:
    """Write headers as HTTP/1.1 has them."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class Answer:
    """A whole HTTP answer. It is never changed, so that one may be sent to many."""

    __slots__ = ("_rest", "body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: tuple[Header, ...]) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self._rest = b""

    @property
    def rest(self) -> bytes:
        """Its headers and its body as HTTP/1.1 has them."""
        if not self._rest:
            self._rest = b"%b\r\n%b" % (lines(self.headers), self.body)
        return self._rest

    async def send(self, send: Send) -> None:
        """Send it as the two messages of ASGI."""
        headers = [*self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def answer(status: int, body: bytes, *headers: Header, media_type: bytes = JSON) -> Answer:
    """Build an answer; what every answer carries is added to ``headers``."""
    length = b"%d" % len(body)
    common = ((b"content-type", media_type), (b"content-length", length), NO_STORE)
    return Answer(status, body, (*common, *headers))


def location(booking_id: int) -> Header:
    """The header that says where a booking is to be read."""
    return (b"location", b"/api/bookings/%d" % booking_id)


def rfc3339(instant_ms: int) -> str:
    """Write Unix milliseconds as ``2026-11-22T13:00:00.123Z``."""
    second, millisecond = divmod(instant_ms, 1000)
    return f"{_second(second)}.{millisecond:03d}Z"


def event_of(event: Event) -> schemas.Event:
    """Write an event as every call has it."""
    opens, closes = event.window
    return schemas.Event(
        event.id,
        event.name,
        event.total_seats,
        None if opens is None else rfc3339(opens),
        None if closes is None else rfc3339(closes),
    )


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    """The part of an instant that thousands of answers share."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
