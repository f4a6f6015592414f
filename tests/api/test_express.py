"""The express way: a plain booking comes to the same as in the application, which is not called.

Two servers of one engine are asked the same: one has the express way, one has not. What went which
way is told by ``Ways.went``: ``taken`` or ``not taken`` is what the express way said of a request
that it was asked about, ``app`` follows where the application served it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import socket
import time
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from random import randrange
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from uuid import uuid4

import jwt
import pytest
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.testing import capture_logs
from uvicorn import Config, Server

from api import app as app_module
from api import express as express_module
from api import routes
from api.app import Application
from api.auth import Caller, Keys, Tokens
from api.express import PLACE, Express
from api.problems import Refused
from api.protocol import EXPRESS, Cycle, Protocol
from engine.admission import Decision
from engine.confirmations import Waiters
from engine.engine import Engine
from engine.errors import Dirty, Fault, Fenced, LedgerAway, Overloaded, RedisAway
from engine.limiter import Limiter
from engine.model import (
    Drained,
    Fate,
    NewEvent,
    Number,
    Reservation,
    Status,
    Window,
    Word,
    booking_id,
)
from engine.permissions import Permission
from engine.recovery import redis_client
from engine.road import Road
from engine.service_keys import ServiceKey
from engine.settings import Settings
from tests import world
from tests.api.conformance import Described
from tests.api.line import BOUND_S, Line, served
from tests.engine.house import House

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator

    from starlette.types import Receive, Scope, Send

    from api.auth import Verifier
    from engine.attempt import Attempt
    from engine.service_keys import ServiceKeys
    from tests.world import Stores

EXPRESS_WAY = ["taken"]
LEFT = ["taken", "app"]
NOT_TAKEN = ["not taken", "app"]
NOT_ASKED = ["app"]

HOUR_MS = 3_600_000
NOBODY = 2**31 - 1
NOW_MS = int(time.time() * 1000)
WINDOWS = {"later": Window(NOW_MS + HOUR_MS), "over": Window(None, NOW_MS - HOUR_MS)}
JSON = b"Content-Type: application/json\r\n"
RUSSIAN = b"Accept-Language: ru-RU, en;q=0.5\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"
SECRET = "s" * 32

Got = tuple[bytes, dict[bytes, bytes], bytes]


def post(
    body: bytes,
    head: bytes = JSON,
    *,
    path: bytes = b"/api/bookings/reserve",
    version: bytes = b"1.1",
    length: int | None = None,
) -> bytes:
    """A request, as bytes."""
    size = len(body) if length is None else length
    first = b"POST %b HTTP/%b\r\nHost: here\r\n" % (path, version)
    return b"%b%bContent-Length: %d\r\n\r\n%b" % (first, head, size, body)


def ask(event_id: int, user_id: str = "ann") -> bytes:
    """The body of a plain booking."""
    return b'{"event_id":%d,"user_id":"%b"}' % (event_id, user_id.encode())


def chunked(body: bytes) -> bytes:
    """A plain booking in chunks, whole."""
    head = b"POST /api/bookings/reserve HTTP/1.1\r\nHost: here\r\n" + JSON
    return b"%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(body), body)


def somewhere() -> str:
    """An address of this machine that no other test calls from."""
    return f"127.{randrange(1, 255)}.{randrange(256)}.{randrange(1, 255)}"


def bearer(token: str) -> bytes:
    """The header that shows a token."""
    return b"Authorization: Bearer %b\r\n" % token.encode()


class Ways(NamedTuple):
    """A server without the express way and one with it, and how the latter's requests went."""

    app: int
    express: int
    went: list[str]

    @classmethod
    @asynccontextmanager
    async def of(cls, engine: Engine, **options: Any) -> AsyncIterator[Ways]:
        """Both, of one engine."""
        options = {"wait_ms": 5000, **options}
        went: list[str] = []
        app = Described(routes.build(engine, body_seconds=1.0, **options))
        async with (
            served(app, Protocol) as plain,
            express_server(engine, app, went, **options) as express,
        ):
            yield cls(plain, express, went)

    async def both(self, *parts: bytes, address: str = "127.0.0.1") -> list[Got]:
        """What a request comes to on a new connection to each, whether it stays open included."""
        got = []
        for port in (self.app, self.express):
            async with Line.to(port, address) as line:
                got.append(await answered(line, *parts))
        return got


@asynccontextmanager
async def express_server(
    engine: Any, app: Any, went: list[str], **options: Any
) -> AsyncIterator[int]:
    """A server with the express way, which says how each request went."""

    async def seen(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/health":
            went.append("app")
        await app(scope, receive, send)

    express = Express(engine, seen, **options)

    def take(cycle: Cycle) -> bool:
        taken = express.take(cycle)
        went.append("taken" if taken else "not taken")
        return taken

    async with served(seen, Protocol, state={EXPRESS: {PLACE: take}}) as port:
        yield port


async def answered(line: Line, *parts: bytes) -> Got:
    """The answer to a request that is said in parts; then the connection is closed, or serves."""
    for part in parts:
        line.say(part)
        await line.heard()
    first, headers, body = await line.answer()
    if headers.get(b"connection") == b"close":
        assert await line.ended()
    else:
        line.say(HEALTH)
        assert (await line.answer())[0] == b"HTTP/1.1 200 OK"
    return first, headers, body


def alike(got: Got) -> Got:
    """An answer without what differs from one booking and one instant to the next."""
    first, headers, body = got
    headers = dict(headers)
    if b"location" in headers:
        headers[b"location"] = re.sub(rb"\d+", b"N", headers[b"location"])
    if b"opens_at" in body or b"rate_limited" in body:
        assert int(headers.pop(b"retry-after")) > 0
    if b"x-ratelimit-reset" in headers:
        assert int(headers.pop(b"x-ratelimit-reset")) > 0
    for name in (b"booking_id", b"event_id", b"id"):
        body = re.sub(rb'"%b":\d+' % name, rb'"%b":N' % name, body)
    body = re.sub(rb'"created_at":"[^"]+Z"', b'"created_at":"Z"', body)
    headers[b"content-length"] = b"N"
    return first, headers, body


@pytest.fixture(scope="module")
async def ways(engine: Engine) -> AsyncIterator[Ways]:
    """Both servers, of the engine that the tests share."""
    async with Ways.of(engine) as ways:
        yield ways


@pytest.fixture
def went(ways: Ways) -> list[str]:
    """How this test's requests went."""
    ways.went.clear()
    return ways.went


class Events:
    """Makes an event of each kind."""

    def __init__(self, engine: Engine, stores: Stores) -> None:
        self._engine = engine
        self._stores = stores

    async def of(self, kind: str) -> int:
        """A new one: ``warm``, ``cold``, ``held`` by ann, ``full``, ``later``, ``over``."""
        if kind == "none":
            return NOBODY
        wanted = NewEvent("Чайка", 1 if kind == "full" else 5, WINDOWS.get(kind, Window()))
        (made,) = await self._engine.events.create(wanted)
        if kind == "cold":
            return made.id
        assert await self._engine.event(made.id)
        if kind in ("held", "full"):
            user = "ann" if kind == "held" else "ben"
            await self._engine.reserve(made.id, user, wait_ms=0)
        return made.id


@pytest.fixture
async def events(engine: Engine, stores: Stores) -> AsyncIterator[Events]:
    """Events for a test; after it the seats are counted."""
    yield Events(engine, stores)
    await stores.count_seats()


class Case(NamedTuple):
    """A request, what it must come to, and which way."""

    status: int
    code: str
    way: list[str]
    event: str = "warm"
    head: bytes = JSON
    body: str = '{"event_id":EVENT,"user_id":"ann"}'

    def parts(self, event_id: int) -> list[bytes]:
        """The request for an event."""
        text = self.body.replace("EVENT", str(event_id))
        return [post(text.encode("latin-1"), self.head)]


PLAIN = {
    "confirmed": Case(201, "confirmed", EXPRESS_WAY),
    "at once": Case(202, "pending", EXPRESS_WAY, head=JSON + b"Prefer: respond-async\r\n"),
    "not to wait": Case(202, "pending", EXPRESS_WAY, head=JSON + b"Prefer: wait=0\r\n"),
    "to wait": Case(201, "confirmed", EXPRESS_WAY, head=JSON + b"Prefer: wait=5\r\n"),
    "to wait long": Case(201, "confirmed", EXPRESS_WAY, head=JSON + b"Prefer: wait=60\r\n"),
    "a bad wish": Case(201, "confirmed", EXPRESS_WAY, head=JSON + b"Prefer: wait=soon\r\n"),
    "already booked": Case(409, "already_booked", EXPRESS_WAY, event="held"),
    "sold out": Case(409, "sold_out", EXPRESS_WAY, event="full"),
    "not open": Case(409, "not_open", EXPRESS_WAY, event="later"),
    "closed": Case(409, "closed", EXPRESS_WAY, event="over"),
    "already booked, in Russian": Case(
        409, "already_booked", EXPRESS_WAY, event="held", head=JSON + RUSSIAN
    ),
    "sold out, in Russian": Case(409, "sold_out", EXPRESS_WAY, event="full", head=JSON + RUSSIAN),
    "not open, in Russian": Case(409, "not_open", EXPRESS_WAY, event="later", head=JSON + RUSSIAN),
    "closed, in Russian": Case(409, "closed", EXPRESS_WAY, event="over", head=JSON + RUSSIAN),
    "a charset": Case(
        201, "confirmed", EXPRESS_WAY, head=b"Content-Type: application/json; charset=utf-8\r\n"
    ),
    "identity": Case(201, "confirmed", EXPRESS_WAY, head=JSON + b"Content-Encoding: identity\r\n"),
    "escaped": Case(
        201, "confirmed", EXPRESS_WAY, body='{"event_id":EVENT,"user_id":"\\u0427\\"a:b"}'
    ),
    "in blanks": Case(
        201, "confirmed", EXPRESS_WAY, body='{"event_id": EVENT, "user_id": "ann"}' + " " * 4000
    ),
    "to be closed": Case(201, "confirmed", LEFT, head=JSON + b"Connection: close\r\n"),
    "refused and closed": Case(
        409, "sold_out", LEFT, event="full", head=JSON + b"Connection: close\r\n"
    ),
    "unknown event": Case(404, "event_not_found", LEFT, event="none"),
    "unknown event, in Russian": Case(
        404, "event_not_found", LEFT, event="none", head=JSON + RUSSIAN
    ),
    "cold event": Case(201, "confirmed", LEFT, event="cold"),
    "cold event, at once": Case(
        202, "pending", LEFT, event="cold", head=JSON + b"Prefer: respond-async\r\n"
    ),
    "an empty body": Case(400, "invalid_body", NOT_TAKEN, body=""),
    "no JSON": Case(400, "invalid_body", NOT_TAKEN, body="{"),
    "no object": Case(400, "invalid_body", NOT_TAKEN, body="[1]"),
    "one field": Case(400, "invalid_body", NOT_TAKEN, body='{"event_id":EVENT}'),
    "a field twice": Case(
        400, "invalid_body", NOT_TAKEN, body='{"event_id":EVENT,"user_id":"a","user_id":"b"}'
    ),
    "a field more": Case(
        400, "invalid_body", NOT_TAKEN, body='{"event_id":EVENT,"user_id":"a","x":1}'
    ),
    "an id of text": Case(400, "invalid_body", NOT_TAKEN, body='{"event_id":"1","user_id":"a"}'),
    "an id of 0": Case(400, "invalid_body", NOT_TAKEN, body='{"event_id":0,"user_id":"a"}'),
    "no user": Case(400, "invalid_body", NOT_TAKEN, body='{"event_id":EVENT,"user_id":""}'),
    "a line feed": Case(400, "invalid_body", NOT_TAKEN, body='{"event_id":EVENT,"user_id":"a\\n"}'),
    "a surrogate": Case(
        400, "invalid_body", NOT_TAKEN, body='{"event_id":EVENT,"user_id":"\\ud800"}'
    ),
    "not UTF-8": Case(
        400, "invalid_body", NOT_TAKEN, body='{"event_id":EVENT,"user_id":"\xff\xfe"}'
    ),
    "bad, in Russian": Case(400, "invalid_body", NOT_TAKEN, head=JSON + RUSSIAN, body="{"),
    "too large": Case(
        413,
        "body_too_large",
        NOT_TAKEN,
        body='{"event_id":EVENT,"user_id":"ann"}' + " " * 4096,
    ),
    "no type": Case(415, "unsupported_media_type", NOT_TAKEN, head=b""),
    "another type": Case(
        415, "unsupported_media_type", NOT_TAKEN, head=b"Content-Type: text/plain\r\n"
    ),
    "two types": Case(415, "unsupported_media_type", NOT_TAKEN, head=JSON + JSON),
    "packed": Case(
        415,
        "unsupported_content_encoding",
        NOT_TAKEN,
        head=JSON + b"Content-Encoding: gzip\r\n",
    ),
    "a bad key": Case(
        400, "invalid_idempotency_key", NOT_TAKEN, head=JSON + b"Idempotency-Key: \xff\r\n"
    ),
    "a request id": Case(201, "confirmed", NOT_TAKEN, head=JSON + b"X-Request-Id: mine\r\n"),
    "a bad request id": Case(201, "confirmed", NOT_TAKEN, head=JSON + b"X-Request-Id: a b\r\n"),
}


class TestTheSame:
    """As the application answers, by the way that is expected."""

    @pytest.mark.parametrize("name", PLAIN)
    async def test_whole(self, name: str, ways: Ways, went: list[str], events: Events) -> None:
        """In one read."""
        case, got = PLAIN[name], []
        for port in (ways.app, ways.express):
            event_id = await events.of(case.event)
            async with Line.to(port) as line:
                got.append(await answered(line, *case.parts(event_id)))
        assert alike(got[0]) == alike(got[1])
        assert int(got[1][0].split()[1]) == case.status
        told = json.loads(got[1][2])
        assert case.code in (told.get("code"), told.get("status"))
        if "code" in told:
            assert got[1][1][b"content-language"] == (b"ru" if RUSSIAN in case.head else b"en")
        assert went == case.way

    async def test_what_the_answer_names(
        self, ways: Ways, went: list[str], events: Events, engine: Engine
    ) -> None:
        """The booking is the caller's, of that event, and can be read back."""
        event_id = await events.of("warm")
        async with Line.to(ways.express) as line:
            first = await answered(line, post(ask(event_id)))
            again = await answered(line, post(ask(event_id)))
        made = json.loads(first[2])
        assert (made["event_id"], made["user_id"]) == (event_id, "ann")
        assert first[1][b"location"] == b"/api/bookings/%d" % made["id"]
        assert json.loads(again[2])["booking_id"] == made["id"]
        assert again[1][b"location"] == first[1][b"location"]
        booking = await engine.booking(made["id"])
        assert booking
        assert (booking.user_id, booking.status) == ("ann", Status.CONFIRMED)
        assert went == EXPRESS_WAY * 2

    async def test_idempotency_key(self, ways: Ways, went: list[str], events: Events) -> None:
        """It stands for the booking whichever server is asked."""
        event_id, key = await events.of("warm"), uuid4().hex.encode()
        request = post(ask(event_id), JSON + b"Idempotency-Key: %b\r\n" % key)
        first, again = await ways.both(request)
        assert first[2] == again[2]
        assert again[1][b"idempotency-replayed"] == b"true"
        assert went == NOT_TAKEN

    async def test_request_id(self, ways: Ways, went: list[str], events: Events) -> None:
        """It is answered."""
        request = post(ask(await events.of("full")), JSON + b"X-Request-Id: mine\r\n")
        for got in await ways.both(request):
            assert got[1][b"x-request-id"] == b"mine"
        assert went == NOT_TAKEN

    async def test_chunks_at_once(self, ways: Ways, went: list[str], events: Events) -> None:
        """They are one body, of the same bounds."""
        event_id = await events.of("full")
        got = await ways.both(chunked(ask(event_id)))
        assert got[0] == got[1]
        assert got[0][0] == b"HTTP/1.1 409 Conflict"
        large = await ways.both(chunked(ask(event_id) + b" " * 4096))
        assert large[0] == large[1]
        assert large[0][0].startswith(b"HTTP/1.1 413 ")
        assert went == EXPRESS_WAY + NOT_TAKEN

    @pytest.mark.parametrize("late", ["the body", "the head", "a chunk", "all of it"])
    async def test_late(self, late: str, ways: Ways, went: list[str], events: Events) -> None:
        """What comes in parts; the head alone may, since the request is whole with the body."""
        event_id = await events.of("full")
        whole, pieces = post(ask(event_id)), chunked(ask(event_id))
        parts = {
            "the body": [whole[:-5], whole[-5:]],
            "the head": [whole[:20], whole[20:]],
            "a chunk": [pieces[:-5], pieces[-5:]],
            "all of it": [whole[:20], whole[20:-5], whole[-5:]],
        }[late]
        got = await ways.both(*parts)
        assert got[0] == got[1]
        assert got[0][0] == b"HTTP/1.1 409 Conflict"
        assert went == (EXPRESS_WAY if late == "the head" else NOT_ASKED)

    async def test_body_that_does_not_come(self, ways: Ways, went: list[str]) -> None:
        """408, and the connection is closed."""
        got = await ways.both(post(b"{", length=9))
        assert got[0] == got[1]
        assert got[0][0].startswith(b"HTTP/1.1 408 ")
        assert went == NOT_ASKED

    async def test_other_places(self, ways: Ways, went: list[str], events: Events) -> None:
        """Another path, a query, another method, another version of HTTP."""
        body = ask(await events.of("full"))
        requests = [
            post(body, path=b"/api/bookings/reserve?a=b"),
            post(body, path=b"/api/bookings/reserve/"),
            post(body, path=b"/api/bookings/%72eserve"),
            post(body, path=b"http://here/api/bookings/reserve"),
            post(body).replace(b"POST", b"PUT", 1),
            post(body).replace(b"POST", b"GET", 1),
            post(body, version=b"1.0"),
        ]
        statuses = []
        for request in requests:
            ways.went.clear()
            got = await ways.both(request)
            assert got[0] == got[1]
            statuses.append(int(got[0][0].split()[1]))
            assert went == NOT_ASKED
        assert statuses == [409, 404, 409, 409, 405, 405, 409]

    async def test_pipelined(self, ways: Ways, went: list[str], events: Events) -> None:
        """Each gets the answer to what he asked, in the order in which he did."""
        got = []
        for port in (ways.app, ways.express):
            event_id = await events.of("warm")
            requests = [post(ask(event_id, user)) for user in ("ann", "ben", "ann", "eve")]
            async with Line.to(port) as line:
                line.say(b"".join(requests))
                answers = [alike(await line.answer()) for _ in requests]
                answers.append(alike(await answered(line, post(ask(event_id, "joe")))))
                got.append(answers)
        assert got[0] == got[1]
        assert [first.split()[1] for first, _, _ in got[1]] == [b"201", b"201", b"409"] + [
            b"201"
        ] * 2
        assert [json.loads(b.replace(b"N", b"0")).get("user_id") for _, _, b in got[1]] == [
            "ann",
            "ben",
            None,
            "eve",
            "joe",
        ]
        assert went == ["taken", "app", "app", "app", "taken"]

    async def test_one_connection_after_the_other(
        self, ways: Ways, went: list[str], events: Events
    ) -> None:
        """Many at once: each connection gets its own answer."""
        event_id, users = await events.of("warm"), [f"user-{n}" for n in range(40)]

        async def book(user: str) -> tuple[int, str | None]:
            async with Line.to(ways.express) as line:
                first, _, body = await answered(line, post(ask(event_id, user)))
                return int(first.split()[1]), json.loads(body).get("user_id")

        got = await asyncio.gather(*map(book, users))
        assert [status for status, _ in got].count(201) == 5
        assert {(s, u == user) for (s, u), user in zip(got, users, strict=True)} == {
            (201, True),
            (409, False),
        }
        assert went == EXPRESS_WAY * len(users)


class Book:
    """Service keys without a ledger."""

    def find(self, secret: bytes) -> ServiceKey | None:
        """See ``ServiceKeys``."""
        if secret == b"away":
            raise LedgerAway("away")
        scopes = {b"office": {Permission.RESERVE}, b"reader": {Permission.READ}}
        return ServiceKey(secret.decode(), frozenset(scopes[secret])) if secret in scopes else None


def token(user: str, scope: str = "reserve", **more: Any) -> str:
    """A user's JWT."""
    claims = {"sub": user, "exp": time.time() + 600, "scope": scope, **more}
    return jwt.encode(claims, SECRET, "HS256")


@pytest.fixture(scope="module")
async def of_keys(engine: Engine) -> AsyncIterator[Ways]:
    """Servers of an API with ``AUTH=token``."""
    keys = Keys(cast("ServiceKeys", Book()))
    async with Ways.of(engine, verifier=keys) as ways:
        yield ways


@pytest.fixture(scope="module")
async def of_users(engine: Engine) -> AsyncIterator[Ways]:
    """Servers of an API with ``AUTH=jwt``."""
    tokens = Tokens(Settings.model_validate({"auth": "jwt", "jwt_secret": SECRET}))
    async with Ways.of(engine, verifier=tokens) as ways:
        yield ways


class TestCallers:
    """Who may not is answered by the application; who may goes the express way."""

    SHOWN: dict[str, tuple[Callable[[], bytes], int, list[str]]] = {  # noqa: RUF012  a table
        "keys: none": (lambda: b"", 401, NOT_TAKEN),
        "keys: unknown": (lambda: bearer("rubbish"), 401, NOT_TAKEN),
        "keys: two": (lambda: bearer("office") * 2, 401, NOT_TAKEN),
        "keys: another scheme": (lambda: b"Authorization: Basic office\r\n", 401, NOT_TAKEN),
        "keys: lacks the scope": (lambda: bearer("reader"), 403, NOT_TAKEN),
        "keys: not read yet": (lambda: bearer("away"), 503, NOT_TAKEN),
        "keys: right": (lambda: bearer("office"), 201, EXPRESS_WAY),
        "users: none": (lambda: b"", 401, NOT_TAKEN),
        "users: unreadable": (lambda: bearer("a.b.c"), 401, NOT_TAKEN),
        "users: expired": (lambda: bearer(token("ann", exp=time.time() - 1)), 401, NOT_TAKEN),
        "users: another's": (lambda: bearer(token("ben")), 403, NOT_TAKEN),
        "users: lacks the scope": (lambda: bearer(token("ann", "read")), 403, NOT_TAKEN),
        "users: right": (lambda: bearer(token("ann")), 201, EXPRESS_WAY),
    }

    @pytest.mark.parametrize("name", SHOWN)
    async def test_shown(self, name: str, of_keys: Ways, of_users: Ways, events: Events) -> None:
        """No token, a wrong one, another user's, one that lacks the scope, the right one."""
        ways = of_keys if name.startswith("keys") else of_users
        ways.went.clear()
        shown, status, way = self.SHOWN[name]
        got = []
        for port in (ways.app, ways.express):
            request = post(ask(await events.of("warm")), JSON + shown())
            async with Line.to(port) as line:
                got.append(await answered(line, request))
        assert alike(got[0]) == alike(got[1])
        assert int(got[1][0].split()[1]) == status
        assert ways.went == way

    @pytest.mark.parametrize("told", ["a seat", "a failure", "nothing"])
    async def test_token_that_expires_meanwhile(self, told: str) -> None:
        """Who was let in is told what has come of it, and not that he may not."""

        class Expiring:
            asked = 0

            def caller(self, _token: bytes) -> Caller:
                self.asked += 1
                if self.asked > 1:
                    raise Refused("unauthorized")
                return Caller("user ann", frozenset({Permission.RESERVE}), "ann")

        async with (
            Told.by(Stub(), verifier=Expiring()) as (stub, port, went),
            Line.to(port) as line,
        ):
            line.say(post(ask(1), JSON + bearer("x") + b"Connection: close\r\n"))
            (attempt,) = await stub.got()
            if told == "a seat":
                attempt.set_result(granted(1))
                stub.waiters.heard(drained(1))
            elif told == "a failure":
                attempt.set_exception(RedisAway("lost"))
            else:
                attempt.set_result(None)
            first, _, _ = await line.answer()
            status = b"503" if told == "a failure" else b"201"
            assert (first[9:12], went) == (status, LEFT)

    async def test_verifier_that_fails(self, engine: Engine, events: Events) -> None:
        """A defect of ours is a 500 with a line in the log, as ever."""

        class Defect:
            def caller(self, _token: bytes) -> Caller:
                raise ZeroDivisionError

        request = post(ask(await events.of("full")), JSON + bearer("x"))
        with capture_logs() as logs:
            async with Ways.of(engine, verifier=Defect()) as ways:
                for first, headers, _ in await ways.both(request):
                    assert first == b"HTTP/1.1 500 Internal Server Error"
                    assert headers[b"x-request-id"]
                assert ways.went == NOT_TAKEN
        assert [line["event"] for line in logs].count("request_failed") == 2


class Named:
    """A verifier that knows a caller by the name that he says."""

    def caller(self, token: bytes) -> Caller:
        """See ``Verifier``."""
        return Caller(token.decode(), frozenset(Permission))


def limits(got: Got) -> tuple[int, int]:
    """The status, and how many calls are left."""
    headers = got[1]
    assert int(headers[b"x-ratelimit-limit"])
    assert headers[b"x-ratelimit-reset"].isdigit()
    return int(got[0].split()[1]), int(headers[b"x-ratelimit-remaining"])


class TestLimit:
    """Each call is counted once, whoever answers it."""

    @asynccontextmanager
    async def _limited(
        self,
        settings: Settings,
        max_calls: int,
        verifier: Verifier | None = None,
        limiter: Limiter | None = None,
    ) -> AsyncIterator[Ways]:
        window = {"rate_limit_max": max_calls, "rate_limit_time_window": HOUR_MS}
        engine = await Engine.open(settings.model_copy(update=window))
        engine.limiter = limiter or engine.limiter
        try:
            async with Ways.of(engine, rate_limit=max_calls, verifier=verifier) as ways:
                yield ways
        finally:
            await engine.close()

    async def test_counted_once(self, settings: Settings, events: Events) -> None:
        """A seat, a refusal, what the application finishes, what it does alone."""
        expected = [201, 409, 202, 201, 404, 400, 415, 201, 409, 400]
        way = EXPRESS_WAY * 3 + LEFT * 2 + NOT_TAKEN * 3 + EXPRESS_WAY + NOT_ASKED
        async with self._limited(settings, 100, Named()) as ways:
            got = []
            for port in (ways.app, ways.express):
                shown = JSON + bearer(uuid4().hex)
                warm, cold = await events.of("warm"), await events.of("cold")
                requests = [
                    [post(ask(warm), shown)],
                    [post(ask(warm), shown)],
                    [post(ask(warm, "ben"), shown + b"Prefer: respond-async\r\n")],
                    [post(ask(cold), shown)],
                    [post(ask(NOBODY), shown)],
                    [post(b"{", shown)],
                    [post(b"{}", shown.removeprefix(JSON))],
                    [post(ask(warm, "eve"), shown + b"X-Request-Id: mine\r\n")],
                    [post(ask(warm), shown)],
                    [post(b"{}", shown)[:-2], b"{}"],
                ]
                async with Line.to(port) as line:
                    got.append([await answered(line, *each) for each in requests])
            assert [limits(each) for each in got[1]] == [
                (status, 99 - n) for n, status in enumerate(expected)
            ]
            assert [alike(each) for each in got[0]] == [alike(each) for each in got[1]]
            assert ways.went == way

    async def test_refused(self, settings: Settings, events: Events) -> None:
        """429 with Retry-After after so many; those at once are not let through either."""
        event_id = await events.of("full")
        async with self._limited(settings, 3) as ways:
            got = []
            for port in (ways.app, ways.express):
                address = somewhere()
                async with Line.to(port, address) as line:
                    got.append([await answered(line, post(ask(event_id))) for _ in range(5)])
            assert [limits(each) for each in got[1]] == [
                (409, 2),
                (409, 1),
                (409, 0),
                (429, 0),
                (429, 0),
            ]
            for each in (*got[0][3:], *got[1][3:]):
                assert int(each[1][b"retry-after"]) == pytest.approx(1200, abs=BOUND_S)
            assert [alike(each) for each in got[0]] == [alike(each) for each in got[1]]
            assert ways.went == EXPRESS_WAY * 3 + LEFT * 2
            address = somewhere()

            async def once() -> int:
                async with Line.to(ways.express, address) as line:
                    return int((await answered(line, post(ask(event_id))))[0].split()[1])

            statuses = await asyncio.gather(*[once() for _ in range(8)])
            assert sorted(statuses) == [409] * 3 + [429] * 5

    async def test_counted_and_not_admitted(self, settings: Settings) -> None:
        """Who has been let through and cannot stand in line for Redis: 503, counted once."""
        window = {"rate_limit_max": 9, "rate_limit_time_window": HOUR_MS}
        engine = await Engine.open(settings.model_copy(update=window))
        stub = Stub()
        stub.raises, stub.limiter = Overloaded("the queue is full"), engine.limiter
        try:
            async with (
                Told.by(stub, rate_limit=9) as (_, port, went),
                Line.to(port, somewhere()) as line,
            ):
                got = [await answered(line, post(ask(1))) for _ in range(2)]
                assert [limits(each) for each in got] == [(503, 8), (503, 7)]
                assert json.loads(got[0][2])["code"] == "overloaded"
                assert (stub.asked, went) == ([], LEFT * 2)
        finally:
            await engine.close()

    async def test_without_redis(self, settings: Settings, events: Events) -> None:
        """The limit goes on in this process, where Redis is away for it alone."""
        event_id = await events.of("full")
        away = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0")
        async with redis_client(away) as nowhere:
            road = Road(nowhere.connection_pool)
            limiter = Limiter(road, max_calls=2, window_ms=HOUR_MS)
            async with (
                self._limited(settings, 2, limiter=limiter) as ways,
                Line.to(ways.express) as line,
            ):
                got = [await answered(line, post(ask(event_id))) for _ in range(3)]
            assert [limits(each) for each in got] == [(409, 1), (409, 0), (429, 0)]
            assert ways.went == EXPRESS_WAY * 2 + LEFT
            await road.close()


async def gone_from(cycle: Cycle) -> None:
    """Wait until the server has seen that the caller hung up."""
    async with asyncio.timeout(BOUND_S):
        while not cycle.disconnected:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0)


class Stub:
    """An engine that hands each attempt over, and remembers what else it was asked."""

    limiter: Limiter | None = None

    def __init__(self, *, refused: Reservation | None = None) -> None:
        self.attempts: list[Attempt] = []
        self.asked: list[tuple[Any, ...]] = []
        self.fates: dict[Number, Fate] = {}
        self.waiters = Waiters(1, self._fates)
        self.raises: Exception | None = None
        self._refused = refused

    def waiters_of(self, _event_id: int) -> Waiters:
        """See ``Engine``."""
        return self.waiters

    def attempt(self, _event_id: int, _user_id: str, attempt: Attempt) -> None:
        """See ``Engine``."""
        if self.raises:
            raise self.raises
        self.attempts.append(attempt)

    async def reserve(self, event_id: int, user_id: str, **_: object) -> Reservation:
        """See ``Engine``."""
        self.asked.append(("reserve", event_id, user_id))
        if self.raises:
            raise self.raises
        return Reservation(Word.RESERVED, 7, 0, Status.CONFIRMED)

    async def refused(self, made: Reservation, event_id: int, user_id: str) -> Reservation:
        """See ``Engine``."""
        self.asked.append(("refused", made.word, event_id, user_id))
        assert self._refused
        return self._refused

    async def _fates(self, _: int, numbers: Collection[Number]) -> dict[Number, Fate]:
        return {number: self.fates[number] for number in numbers}

    async def got(self, count: int = 1) -> list[Attempt]:
        """So many attempts, as soon as they are there."""
        async with asyncio.timeout(BOUND_S):
            while len(self.attempts) < count:  # noqa: ASYNC110 - until the server has read them
                await asyncio.sleep(0)
        return self.attempts


def granted(seq: int) -> Decision:
    """A seat of Redis's."""
    return Decision(Word.RESERVED, Number(1, seq), 1000)


def drained(to: int, *rejected: tuple[int, int, str]) -> Drained:
    """The ledger has taken everything up to a number."""
    return Drained((1, 0), (1, to), list(rejected))


class Told(NamedTuple):
    """A server of a stub."""

    stub: Stub
    port: int
    went: list[str]

    @classmethod
    @asynccontextmanager
    async def by(cls, stub: Stub, **options: Any) -> AsyncIterator[Told]:
        """Serve it."""
        went: list[str] = []
        options = {"wait_ms": 9000, **options}
        app = Described(routes.build(cast("Engine", stub), **options))
        async with express_server(stub, app, went, **options) as port:
            yield cls(stub, port, went)


class TestWhatIsTold:
    """Whatever an attempt is told, its caller is answered once, and nothing is asked for twice."""

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (RedisAway("the answer was lost"), "redis_unavailable"),
            (Overloaded("the ledger is too far behind"), "overloaded"),
            (LedgerAway("away"), "ledger_unavailable"),
        ],
    )
    async def test_failure(self, error: Exception, code: str) -> None:
        """503. An answer that was lost is never asked for again."""
        async with Told.by(Stub()) as (stub, port, went), Line.to(port) as line:
            line.say(post(ask(1)))
            (attempt,) = await stub.got()
            attempt.set_exception(error)
            first, headers, body = await answered(line)
            assert first == b"HTTP/1.1 503 Service Unavailable"
            assert (json.loads(body)["code"], headers[b"retry-after"]) == (code, b"1")
            assert (stub.asked, went, attempt.done()) == ([], LEFT, True)

    async def test_not_admitted(self) -> None:
        """Who cannot even stand in line has decided nothing: the application tries, and says so."""
        stub = Stub()
        stub.raises = Overloaded("the queue is full")
        async with Told.by(stub) as (_, port, went), Line.to(port) as line:
            first, _, body = await answered(line, post(ask(1)))
            assert (first[9:12], json.loads(body)["code"]) == (b"503", "overloaded")
            assert (stub.asked, went) == ([("reserve", 1, "ann")], NOT_TAKEN)

    @pytest.mark.parametrize("told", [None, Fenced(1, 1), Dirty("the seats do not add up")])
    async def test_nothing_was_decided(self, told: Exception | None) -> None:
        """The application makes the event ready, and tries again."""
        async with Told.by(Stub()) as (stub, port, went), Line.to(port) as line:
            line.say(post(ask(1)))
            (attempt,) = await stub.got()
            if told:
                attempt.set_exception(told)
            else:
                attempt.set_result(None)
            first, _, body = await answered(line)
            assert (first, json.loads(body)["id"]) == (b"HTTP/1.1 201 Created", 7)
            assert (stub.asked, went) == ([("reserve", 1, "ann")], LEFT)

    async def test_refused_by_the_ledger(self) -> None:
        """The engine says what that is to the caller; he is not booked anew."""
        stub = Stub(refused=Reservation(Word.ALREADY_BOOKED, 77))
        async with Told.by(stub) as (_, port, went), Line.to(port) as line:
            line.say(post(ask(1)))
            (attempt,) = await stub.got()
            attempt.set_result(granted(1))
            stub.waiters.heard(drained(1, (1, 1, "already_booked")))
            first, _, body = await answered(line)
            assert (first, json.loads(body)["booking_id"]) == (b"HTTP/1.1 409 Conflict", 77)
            assert stub.asked == [("refused", Word.ALREADY_BOOKED, 1, "ann")]
            assert went == LEFT

    async def test_dead_letter(self) -> None:
        """500, and a line for the operator."""
        with capture_logs() as logs:
            async with Told.by(Stub()) as (stub, port, went), Line.to(port) as line:
                line.say(post(ask(1)))
                (attempt,) = await stub.got()
                attempt.set_result(granted(1))
                stub.waiters.heard(drained(1, (1, 1, "dead")))
                first, _, body = await answered(line)
                assert (first[9:12], json.loads(body)["code"]) == (b"500", "internal_error")
                assert (stub.asked, went) == ([], LEFT)
        assert [line["event"] for line in logs] == ["request_failed"]

    async def test_told_by_another(self) -> None:
        """Who tells us may be at work for another request: its id is not ours."""
        with capture_logs(processors=[merge_contextvars]) as logs:
            async with Told.by(Stub()) as (stub, port, _), Line.to(port) as line:
                line.say(post(ask(1)))
                (attempt,) = await stub.got()
                with bound_contextvars(request_id="another's"):
                    attempt.set_exception(Fault("a dead letter"))
                _, headers, _ = await answered(line)
        assert [line["request_id"].encode() for line in logs] == [headers[b"x-request-id"]]

    async def test_lost(self) -> None:
        """503: Redis lost the entry before the ledger took it."""
        async with Told.by(Stub()) as (stub, port, went), Line.to(port) as line:
            line.say(post(ask(1)))
            (attempt,) = await stub.got()
            attempt.set_result(granted(1))
            stub.fates[Number(1, 1)] = Fate(Status.LOST)
            stub.waiters.ask_soon()
            first, _, body = await answered(line)
            assert (first[9:12], json.loads(body)["code"]) == (b"503", "redis_unavailable")
            assert (stub.asked, went) == ([], LEFT)

    async def test_wait_runs_out(self) -> None:
        """202, and what is told later goes nowhere."""
        async with Told.by(Stub(), wait_ms=50) as (stub, port, went), Line.to(port) as line:
            line.say(post(ask(1)))
            (attempt,) = await stub.got()
            attempt.set_result(granted(1))
            assert not attempt.done()
            first, _, body = await answered(line)
            told = json.loads(body)
            assert (first, told["status"]) == (b"HTTP/1.1 202 Accepted", "pending")
            assert told["id"] == booking_id(Number(1, 1), 1)
            stub.waiters.heard(drained(1))
            first, _, body = await answered(line, HEALTH)
            assert json.loads(body)["status"] == "ok"
            assert went == EXPRESS_WAY

    async def test_ledger_was_quicker(self) -> None:
        """201 at once."""
        async with Told.by(Stub()) as (stub, port, went), Line.to(port) as line:
            stub.waiters.heard(drained(1))
            line.say(post(ask(1)))
            (attempt,) = await stub.got()
            attempt.set_result(granted(1))
            assert (await answered(line))[0] == b"HTTP/1.1 201 Created"
            assert went == EXPRESS_WAY

    @pytest.mark.parametrize("waits_for", ["redis", "the ledger"])
    async def test_hung_up(self, waits_for: str) -> None:
        """Nothing breaks, and the next connection is served."""
        with capture_logs() as logs:
            async with Told.by(Stub()) as (stub, port, went):
                async with Line.to(port) as line:
                    line.say(post(ask(1)))
                    (gone,) = await stub.got()
                    if waits_for == "the ledger":
                        gone.set_result(granted(1))
                cycle = cast("Any", gone)._cycle  # noqa: SLF001 - the server's side of the line
                await gone_from(cycle)
                async with Line.to(port) as other:
                    other.say(post(ask(1, "ben")))
                    _, next_one = await stub.got(2)
                    if waits_for == "redis":
                        gone.set_result(granted(1))
                    next_one.set_result(granted(2))
                    stub.waiters.heard(drained(2))
                    first, _, body = await answered(other)
                assert (first, json.loads(body)["user_id"]) == (b"HTTP/1.1 201 Created", "ben")
                assert gone.done()
                assert went == EXPRESS_WAY * 2
        assert logs == []

    async def test_cut_off(self) -> None:
        """Who asks for more and then talks rubbish is cut off, and his first request knows it."""
        with capture_logs() as logs:
            async with Told.by(Stub()) as (stub, port, went):
                async with Line.to(port) as line:
                    line.say(post(ask(1)) + HEALTH + b"GARBAGE\r\n\r\n")
                    (gone,) = await stub.got()
                    cycle = cast("Any", gone)._cycle  # noqa: SLF001 - the server's side
                    assert (await line.answer())[0] == b"HTTP/1.1 400 Bad Request"
                    assert await line.ended()
                    assert cycle.disconnected
                    gone.set_result(Decision(Word.SOLD_OUT))
                assert (gone.done(), went) == (True, EXPRESS_WAY)
        assert logs == []

    @pytest.mark.parametrize("told", [None, RedisAway("lost")])
    async def test_hung_up_before_the_application_serves(self, told: Exception | None) -> None:
        """It is not booked for who has gone."""
        with capture_logs() as logs:
            async with Told.by(Stub()) as (stub, port, went):
                async with Line.to(port) as line:
                    line.say(post(ask(1)))
                    (gone,) = await stub.got()
                cycle = cast("Any", gone)._cycle  # noqa: SLF001 - the server's side of the line
                await gone_from(cycle)
                if told:
                    gone.set_exception(told)
                else:
                    gone.set_result(None)
                async with Line.to(port) as other:
                    await answered(other, HEALTH)
                assert (stub.asked, went) == ([], LEFT)
        assert logs == []

    @pytest.mark.parametrize("by", ["redis", "the ledger"])
    async def test_answer_that_cannot_be_built(
        self, by: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """500 and a line in the log; others who are told in the same breath are answered."""
        answer_of = express_module.answer_of

        def failing(made: Any, request: Any, *more: Any) -> Any:
            if request.user_id == "bad":
                raise ZeroDivisionError
            return answer_of(made, request, *more)

        monkeypatch.setattr(express_module, "answer_of", failing)
        with capture_logs() as logs:
            async with Told.by(Stub()) as (stub, port, went), AsyncExitStack() as stack:
                lines = {}
                for n, user in enumerate(("ann", "bad", "ben"), 1):
                    line = lines[user] = await stack.enter_async_context(Line.to(port))
                    line.say(post(ask(1, user)))
                    await stub.got(n)
                for seq, attempt in enumerate(stub.attempts, 1):
                    attempt.set_result(
                        granted(seq) if by == "the ledger" else Decision(Word.SOLD_OUT)
                    )
                if by == "the ledger":
                    stub.waiters.heard(drained(3))
                got = {user: await answered(line) for user, line in lines.items()}
                right = b"201" if by == "the ledger" else b"409"
                assert [got[user][0][9:12] for user in ("ann", "bad", "ben")] == [
                    right,
                    b"500",
                    right,
                ]
                assert json.loads(got["bad"][2])["code"] == "internal_error"
                assert (stub.asked, went) == ([], EXPRESS_WAY * 3 + ["app"])
        (line_of_log,) = logs
        assert line_of_log["event"] == "request_failed"
        assert line_of_log["request_id"].encode() == got["bad"][1][b"x-request-id"]

    async def test_slow_reader(self) -> None:
        """Who has not read what came before gets his whole answer when he has."""
        big = b"x" * 50_000_000
        stub, went = Stub(), list[str]()
        inner = routes.build(cast("Engine", stub), wait_ms=9000)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] != "/big":
                await inner(scope, receive, send)
                return
            headers = [(b"content-length", b"%d" % len(big))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": big})

        async with express_server(stub, app, went, wait_ms=9000) as port, Line.to(port) as line:
            line.say(b"GET /big HTTP/1.1\r\nHost: here\r\n\r\n")
            await line.head()
            line.say(post(ask(1)))
            (attempt,) = await stub.got()
            cycle = cast("Any", attempt)._cycle  # noqa: SLF001 - the server's side of the line
            assert cycle.flow.write_paused
            unsent = cycle.transport.get_write_buffer_size()
            attempt.set_result(Decision(Word.SOLD_OUT))
            assert cycle.transport.get_write_buffer_size() == unsent  # nothing is piled up
            assert await line.exactly(len(big)) == big
            first, _, body = await answered(line)
            assert (first[9:12], json.loads(body)["code"]) == (b"409", "sold_out")
            assert went == ["app", "taken", "app"]


class TestItsEnd:
    """A server that ends answers everybody, and does end."""

    @asynccontextmanager
    async def _house(
        self, settings: Settings, tmp_path_factory: pytest.TempPathFactory
    ) -> AsyncIterator[House]:
        """Stores whose outbox nobody drains."""
        folder = tmp_path_factory.mktemp("undrained")
        async with House.build(folder, settings.postgres_dsn, partitions=1) as house:
            yield house

    async def test_waiters_are_released(self) -> None:
        """Who waits for the ledger gets his 202, which says that the connection ends as well."""
        stub, went = Stub(), list[str]()
        app = routes.build(cast("Engine", stub), wait_ms=9000)
        express = Express(cast("Engine", stub), app, wait_ms=9000)

        async def living(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await receive()
                scope["state"][EXPRESS] = {PLACE: express.take}
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
            else:
                went.append("app")
                await app(scope, receive, send)

        async with self._running(living) as (server, serving, port), Line.to(port) as line:
            line.say(post(ask(1)))
            (attempt,) = await stub.got()
            attempt.set_result(granted(1))
            cycle = cast("Any", attempt)._cycle  # noqa: SLF001 - the server's side of the line
            server.should_exit = True
            while cycle.keep_alive:  # noqa: ASYNC110 - until the connections were told
                await asyncio.sleep(0)
            stub.waiters.release()
            first, headers, body = await line.answer()
            assert (first, json.loads(body)["status"]) == (b"HTTP/1.1 202 Accepted", "pending")
            assert headers[b"connection"] == b"close"
            assert await line.ended()
            await asyncio.wait_for(serving, BOUND_S)
            assert went == []

    @pytest.mark.parametrize("waits_for", ["redis", "the ledger"])
    async def test_who_is_left_when_time_is_up(
        self,
        waits_for: str,
        settings: Settings,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The server waits no longer than it was told to, and the engine answers who is left."""
        monkeypatch.setattr(app_module, "calm_the_garbage_collector", lambda: None)
        async with self._house(settings, tmp_path_factory) as house:
            own = house.settings.model_copy(
                update={"reserve_wait_ms": 10_000, "redis_timeout_ms": 60_000, "rate_limit_max": 0}
            )
            statement = "INSERT INTO events (name, total_seats) VALUES ('Чайка', 9) RETURNING id"
            event_id = (await house.sql(statement))[0]["id"]
            async with (
                self._running(Application(own)) as (server, serving, port),
                Line.to(port) as line,
            ):
                made = post(ask(event_id, "ben"), JSON + b"Prefer: respond-async\r\n")
                assert (await answered(line, made))[0] == b"HTTP/1.1 202 Accepted"
                users = f"onsale:{{0}}:event:{event_id}:users"
                if waits_for == "redis":
                    os.kill(house.server.pid, signal.SIGSTOP)
                try:
                    line.say(post(ask(event_id)))
                    await line.heard()
                    if waits_for == "the ledger":

                        async def holds_a_seat() -> bool:
                            return await house.redis.hlen(users) == 2

                        await world.until(holds_a_seat)
                    server.should_exit = True
                    first, headers, body = await line.answer()
                    assert await line.ended()
                    await asyncio.wait_for(serving, BOUND_S)
                finally:
                    if waits_for == "redis":
                        os.kill(house.server.pid, signal.SIGCONT)
                told = json.loads(body)
                if waits_for == "redis":
                    assert (first[9:12], told["code"]) == (b"503", "redis_unavailable")
                else:
                    assert (first[9:12], told["status"]) == (b"202", "pending")
                assert headers[b"connection"] == b"close"

    @staticmethod
    @asynccontextmanager
    async def _running(app: Any) -> AsyncIterator[tuple[Server, asyncio.Task[None], int]]:
        """A server with a life of its own."""
        listening = socket.create_server(("127.0.0.1", 0))
        config = Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(BOUND_S):
                yield server, serving, listening.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


class TestNothingStays:
    """A request that is answered leaves nothing behind, also no cycle of references."""

    @pytest.fixture
    def cycles(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[weakref.WeakSet[Any]]:
        """The requests and connections that are still there; nobody collects garbage meanwhile."""
        alive: weakref.WeakSet[Any] = weakref.WeakSet()
        begin, connect = Cycle.__init__, Protocol.__init__

        def seen(self: Any, *args: Any, **kwargs: Any) -> None:
            alive.add(self)
            (begin if isinstance(self, Cycle) else connect)(self, *args, **kwargs)

        monkeypatch.setattr(Cycle, "__init__", seen)
        monkeypatch.setattr(Protocol, "__init__", seen)
        gc.collect()
        gc.disable()
        yield alive
        gc.enable()

    TOLD: dict[str, Callable[[Attempt, Stub], None]] = {  # noqa: RUF012  a table
        "sold out": lambda attempt, _: attempt.set_result(Decision(Word.SOLD_OUT)),
        "confirmed": lambda attempt, stub: (
            attempt.set_result(granted(1)),
            stub.waiters.heard(drained(1)),
        )[0],
        "cold": lambda attempt, _: attempt.set_result(None),
        "pending": lambda attempt, _: attempt.set_result(granted(1)),
        "an answer that was lost": lambda attempt, _: attempt.set_exception(RedisAway("lost")),
        "rejected": lambda attempt, stub: (
            attempt.set_result(granted(1)),
            stub.waiters.heard(drained(1, (1, 1, "sold_out"))),
        )[0],
    }

    @pytest.mark.parametrize("caller", ["stays", "closes", "hangs up"])
    @pytest.mark.parametrize("name", TOLD)
    async def test_nothing(self, name: str, caller: str, cycles: weakref.WeakSet[Any]) -> None:
        """Whatever came of it, and whether the caller was still there."""
        stub = Stub(refused=Reservation(Word.SOLD_OUT))
        async with Told.by(stub, wait_ms=50) as (_, port, _):
            async with Line.to(port) as line:
                line.say(
                    post(ask(1), JSON + (b"Connection: close\r\n" if caller == "closes" else b""))
                )
                attempts = await stub.got()
                if caller != "hangs up":
                    self.TOLD[name](attempts[0], stub)
                    await answered(line)
            if caller == "hangs up":
                cycle = cast("Any", attempts[0])._cycle  # noqa: SLF001 - as above
                await gone_from(cycle)
                del cycle
                self.TOLD[name](attempts[0], stub)
                while not attempts[0].done():  # noqa: ASYNC110 - until its wait is over
                    await asyncio.sleep(0)
            attempts.clear()

            async def nothing_is_left() -> bool:
                return not cycles

            await world.until(nothing_is_left, within_s=5)

    async def test_nothing_of_a_call_to_the_application(self, cycles: weakref.WeakSet[Any]) -> None:
        """Nor of what the express way never saw."""
        async with Told.by(Stub()) as (_, port, _):
            async with Line.to(port) as line:
                await answered(line, HEALTH)

            async def nothing_is_left() -> bool:
                return not cycles

            await world.until(nothing_is_left, within_s=5)
