"""Answers as bytes, ready to send.

No response object stands between an endpoint and the server: an answer is the two ASGI messages
themselves. One that is always the same is therefore built once and sent any number of times.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from api import schemas

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from engine.model import Event

Header = tuple[bytes, bytes]

JSON = b"application/json"
NO_STORE: Header = (b"cache-control", b"no-store")
"""On every answer: a number of seats is stale as soon as it is read."""

encode = msgspec.json.Encoder().encode
"""Write a value of this API as JSON bytes."""


class Answer(NamedTuple):
    """A whole HTTP answer as the two ASGI messages it is sent in. Neither is ever changed."""

    start: Message
    body: Message

    async def send(self, send: Send) -> None:
        """Send both messages."""
        await send(self.start)
        await send(self.body)


def answer(status: int, body: bytes, *headers: Header, media_type: bytes = JSON) -> Answer:
    """Build an answer; what every answer carries is added to ``headers``."""
    return Answer(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", media_type),
                (b"content-length", b"%d" % len(body)),
                NO_STORE,
                *headers,
            ],
        },
        {"type": "http.response.body", "body": body},
    )


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
