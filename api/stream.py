"""An event as it sells, by server-sent events (HTML Living Standard, 9.2).

A message is whole: who has the latest needs no other. Its id is the time at which it was made, in
Unix milliseconds, so that any process can tell what a listener has missed.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from api import schemas
from api.answers import NO_STORE, Answer, Header, encode, event_of, rfc3339
from api.languages import language_of
from api.problems import BARE, code_of
from api.requests import headers_of, id_of
from engine.errors import Fault
from engine.log import get_logger
from engine.model import MAX_EVENT_ID
from engine.tasks import stop

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from engine.engine import Engine
    from engine.watch import Listener, News, Sight

log = get_logger(__name__)

RETRY_MS: Final = (1000, 3000)
"""After how long a browser comes again: each at his own time, or all come at once."""
MAX_DIGITS: Final = 15

_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/event-stream"),
    NO_STORE,
    (b"x-accel-buffering", b"no"),  # nginx would keep it until it has a page full
)
_START: Final[Message] = {"type": "http.response.start", "status": 200, "headers": [*_HEADERS]}
_END: Final[Message] = {"type": "http.response.body", "body": b""}
_BEAT: Final = b":\n\n"


class Streams:
    """The call that does not end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def event(self, scope: Scope, receive: Receive) -> Answer | Stream:
        """Listen to an event; HEAD only sees whether that would do."""
        headers = headers_of(scope["headers"])
        event_id = id_of(scope, largest=MAX_EVENT_ID)
        listener = await self._engine.watch(event_id, after_ms=_last_id(headers))
        if listener is None:
            return BARE[language_of(scope)]["event_not_found"]
        if scope["method"] == "HEAD":
            listener.leave()
            return Answer(200, b"", _HEADERS)
        return Stream(listener, receive)


class Stream:
    """An answer in as many parts as there are news."""

    def __init__(self, listener: Listener, receive: Receive) -> None:
        self._listener = listener
        self._receive = receive

    async def send(self, send: Send) -> None:
        """Send news until the listener goes, or there are no more."""
        hanging_up = asyncio.create_task(self._until_gone())
        try:
            await send(_START)
            retry = b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311 - no secret
            await send(_part(retry + b"".join(map(message_of, self._listener.missed))))
            async for news in self._listener:
                await send(_part(message_of(news) if news else _BEAT))
            await send(_END)
        except Exception:  # what was begun cannot be answered with a problem
            log.exception("stream_failed")
        finally:
            self._listener.leave()
            await stop(hanging_up)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._listener.end()


def message_of(news: News) -> bytes:
    """The bytes of news, made once for all who listen."""
    if news.prepared is None:
        kind, data = _unavailable(news) if isinstance(news.seen, Fault) else _seats(news, news.seen)
        news.prepared = b"id: %d\nevent: %b\ndata: %b\n\n" % (news.at_ms, kind, data)
    return news.prepared


def _seats(news: News, sight: Sight) -> tuple[bytes, bytes]:
    seats = sight.seats
    event = event_of(seats.event)
    watched = schemas.Watched(
        at=rfc3339(news.at_ms),
        event=event,
        available_seats=seats.available_seats,
        source=seats.source,
        outbox_depth=sight.outbox_depth,
        confirm_ms=None if sight.confirm_ms is None else round(sight.confirm_ms, 1),
        refused=sight.refused,
    )
    return b"availability" if seats.available_seats > 0 else b"sold_out", encode(watched)


def _unavailable(news: News) -> tuple[bytes, bytes]:
    code = code_of(news.seen) if isinstance(news.seen, Fault) else ""
    return b"unavailable", encode(schemas.Unwatched(at=rfc3339(news.at_ms), code=code))


def _last_id(headers: dict[bytes, bytes]) -> int:
    """The id that a browser had last; 0 if it has none of ours."""
    said = headers.get(b"last-event-id", b"")
    return int(said) if said.isdigit() and len(said) <= MAX_DIGITS else 0


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
