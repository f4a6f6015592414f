"""What is around every endpoint: problems for what it raises, request ids, the rate limit."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
from structlog.contextvars import bound_contextvars, get_contextvars

from api.problems import FAULTS, Refused, fault, problem, refusal
from engine.log import get_logger

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.answers import Header
    from engine.engine import Engine

log = get_logger(__name__)
_FAULTS = tuple(FAULTS)
_REQUEST_ID = b"x-request-id"
_GOOD_ID = re.compile(rb"[!-~]{1,128}")


class RateLimit:
    """Lets each caller, known by his address, make only so many calls below ``/api/``."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say when to come again."""
        if scope["path"].startswith("/api/"):
            caller = scope["client"][0] if scope.get("client") else ""
            wait_ms = await self._engine.admit(caller)
            if wait_ms:
                seconds = -(-wait_ms // 1000)
                await problem("rate_limited", retry_after_seconds=seconds).send(send)
                return
        await self._app(scope, receive, send)


class Problems:
    """Answers what ``app`` raises.

    Endpoints send their answer as their last act, so nothing has been sent yet when one raises; a
    stream, which sends for long, raises nothing.

    A caller's ``X-Request-Id`` is in his answer and in every line that is written for his request.
    Who sends none is not given one, unless his request fails: ids are not free.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer a refusal, a fault, or a defect."""
        for name, value in scope["headers"]:
            if name == _REQUEST_ID:
                await self._named(value, scope, receive, send)
                return
        try:
            await self._app(scope, receive, send)
        except Refused as refused:
            await refusal(refused).send(send)
        except _FAULTS as error:
            await fault(error).send(send)
        except Exception:
            # The raw path: the decoded one may hold line feeds.
            path = scope["raw_path"].decode("ascii", "replace")
            known = get_contextvars().get("request_id")
            request_id = known or uuid4().hex
            log.exception(
                "request_failed", method=scope["method"], path=path, request_id=request_id
            )
            named = () if known else ((_REQUEST_ID, request_id.encode()),)
            await problem("internal_error", *named).send(send)

    async def _named(self, request_id: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """The same for a request with an id; one that is no 1 to 128 visible characters is none."""
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != _REQUEST_ID]
        if not _GOOD_ID.fullmatch(request_id):
            await self(scope, receive, send)
            return
        header: Header = (_REQUEST_ID, request_id)

        async def echo(message: Message) -> None:
            if message["type"] == "http.response.start":  # built once for many: never changed
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        with bound_contextvars(request_id=request_id.decode()):
            await self(scope, receive, echo)


class _Facts(msgspec.Struct):
    """What a body of a booking's call may name."""

    id: int | None = None
    event_id: int | None = None
    user_id: str | None = None
    booking_id: int | None = None


class RequestLog:
    """Writes a line for each request, for who has asked for them (``LOG_LEVEL=debug``)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note what is said on the way."""
        begun_s = time.perf_counter()
        path = scope["raw_path"].decode("ascii", "replace")
        small = path.startswith("/api/bookings")
        bodies = [b"", b""]
        facts: dict[str, Any] = {"status": None}

        async def heard() -> Message:
            message = await receive()
            if small:
                bodies[0] += message.get("body", b"")
            return message

        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts["status"] = message["status"]
                for name, value in message["headers"]:
                    if name == _REQUEST_ID:
                        facts["request_id"] = value.decode()
            if small:
                bodies[1] += message.get("body", b"")
            await send(message)

        try:
            await self._app(scope, heard, said)
        finally:
            facts |= _named_in(*bodies)
            ms = round((time.perf_counter() - begun_s) * 1000, 3)
            log.debug("request_answered", method=scope["method"], path=path, ms=ms, **facts)


def _named_in(asked: bytes, answered: bytes) -> dict[str, Any]:
    """The event, user and booking that a call is about."""
    named: dict[str, Any] = {}
    for body in (asked, answered):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            facts = msgspec.structs.asdict(msgspec.json.decode(body, type=_Facts))
            facts["booking_id"] = facts["booking_id"] or facts.pop("id", None)
            named |= {name: value for name, value in facts.items() if value is not None}
    named.pop("id", None)
    return named
