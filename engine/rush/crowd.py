"""A crowd at the API: every user asks once for a seat of one event, over a few connections.

Whoever is told 503, or loses his connection, asks again: that is safe, and what became of his
first try is the answer to the second.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
from httptools import HttpParserError, HttpResponseParser

from engine.deadline import Deadline
from engine.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S: Final = 30.0
AGAIN_S: Final = 0.5
MAX_ATTEMPTS: Final = 40
SOLD: Final = ("confirmed", "pending")

_OK, _UNKNOWN, _FORBIDDEN, _TOO_MANY, _AWAY = 200, 401, 403, 429, 503


class Told(NamedTuple):
    """A booking that a user was told of."""

    user_id: str
    booking_id: int


class Answered(NamedTuple):
    """When an answer came, since the crowd began; how long it took; and what it was."""

    at_s: float
    took_ms: float
    what: str


class _Body(msgspec.Struct):
    """What is read of an answer."""

    id: int = 0
    booking_id: int = 0
    status: str | int = ""
    code: str = ""


class _Availability(msgspec.Struct):
    available_seats: int


class Door(asyncio.Protocol):
    """One connection to the API, which is kept; a call at a time."""

    def __init__(self, url: str, deadline: Deadline[Door]) -> None:
        self._host, self._port = _host_and_port(url)
        self._deadline = deadline
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body = b""

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, token: str
    ) -> tuple[int, bytes]:
        """Make one call, with a token unless that is empty; its status and its body.

        Raises:
            OSError: the answer was lost.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, self._host, self._port)
        self._answer = loop.create_future()
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{authorization}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        cast("asyncio.Transport", self._transport).write(head.encode() + body)
        self._deadline.enter(self)
        try:
            return await self._answer
        finally:
            self._deadline.leave(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Read."""
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.hang_up()

    def on_message_begin(self) -> None:
        """Begin a body."""
        self._body = b""

    def on_body(self, part: bytes) -> None:
        """Gather the body."""
        self._body += part

    def on_message_complete(self) -> None:
        """Give the answer."""
        if self._answer and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), self._body))

    def connection_lost(self, _error: Exception | None) -> None:
        """Whoever waits for an answer has lost it."""
        self._transport = None
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection was closed"))

    def hang_up(self) -> None:
        """Close it at once."""
        if self._transport:
            self._transport.abort()


class Crowd:
    """Users who want a seat of an event, and what they were told."""

    def __init__(self, url: str, event_id: int, users: int, token_of: Callable[[str], str]) -> None:
        self.event_id = event_id
        self.users = users
        self.told: list[Told] = []
        self.answers: list[Answered] = []
        self.counts: Counter[str] = Counter()
        self.again = 0
        self.unanswered: list[str] = []
        self.seconds = 0.0
        self._url = url
        self._token_of = token_of
        self._tag = f"rush-{time.time_ns() // 1_000_000:x}"
        self._deadline: Deadline[Door] = Deadline(PATIENCE_S, Door.hang_up)
        self._decode = msgspec.json.Decoder(_Body).decode

    def everybody(self) -> Iterator[str]:
        """Every user's id."""
        return (f"{self._tag}-{number}" for number in range(self.users))

    async def left(self) -> int:
        """How many seats the API says are left.

        Raises:
            Unavailable: it does not say.
        """
        door = Door(self._url, self._deadline)
        try:
            token = self._token_of(self._tag)
            status, body = await door.ask("GET", f"/api/events/{self.event_id}", token=token)
        except OSError as error:
            raise Unavailable(f"the API at {self._url} does not answer: {error}") from None
        finally:
            door.hang_up()
        if status != _OK:
            raise _refused(status, body)
        try:
            return msgspec.json.decode(body, type=_Availability).available_seats
        except msgspec.DecodeError:
            raise _refused(status, body) from None

    async def rush(self, connections: int) -> None:
        """Let everybody ask.

        Raises:
            Misconfigured: the API refuses to serve so many, or does not know the call.
        """
        begun_s = time.perf_counter()
        users = self.everybody()
        doors = [Door(self._url, self._deadline) for _ in range(min(connections, self.users))]
        try:
            async with asyncio.TaskGroup() as group:
                for door in doors:
                    group.create_task(self._let_in(door, users, begun_s))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self.seconds = time.perf_counter() - begun_s
            for door in doors:
                door.hang_up()

    async def _let_in(self, door: Door, users: Iterator[str], begun_s: float) -> None:
        """Let one user in after the other."""
        for user in users:
            asked_s = time.perf_counter()
            what = await self._ask(door, user)
            now_s = time.perf_counter()
            self.counts[what] += 1
            self.answers.append(Answered(now_s - begun_s, (now_s - asked_s) * 1000, what))

    async def _ask(self, door: Door, user: str) -> str:
        """Ask until there is an answer; what it was."""
        body = msgspec.json.encode({"event_id": self.event_id, "user_id": user})
        token = self._token_of(user)
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                self.again += 1
                await asyncio.sleep(AGAIN_S)
            try:
                status, content = await door.ask("POST", "/api/bookings/reserve", body, token=token)
            except OSError:
                continue
            if status == _AWAY:
                continue
            try:
                answer = self._decode(content)
            except msgspec.DecodeError:
                raise _refused(status, content) from None
            if answer.code == "already_booked":  # his own, by a try whose answer was lost
                self.told.append(Told(user, answer.booking_id))
                return "pending"
            if answer.status in SOLD:
                self.told.append(Told(user, answer.id))
                return str(answer.status)
            if answer.code != "sold_out":
                raise _refused(status, content)
            return answer.code
        self.unanswered.append(user)
        return "unanswered"


def _host_and_port(url: str) -> tuple[str, int]:
    """Where an API is, by its address; ports and brackets may be nonsense."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname:
            return parts.hostname, parts.port or 80
    raise Misconfigured(f"{url} is no http:// address")


def _refused(status: int, body: bytes) -> Misconfigured:
    if status == _TOO_MANY:
        return Misconfigured(
            "the API lets one address make only so many calls (429): start it with RATE_LIMIT_MAX=0"
        )
    if status in (_UNKNOWN, _FORBIDDEN):
        return Misconfigured(
            f"the API does not let the crowd in ({status}): show a key with the scopes reserve and "
            "read by ONSALE_TOKEN or --token; `onsale keys create` makes one"
        )
    return Misconfigured(f"the API answered {status}: {body.decode(errors='replace')[:300]}")
