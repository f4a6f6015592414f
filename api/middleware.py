"""What stands around every call: its id, its caller's limit, an answer to whatever it raises."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
from structlog.contextvars import bound_contextvars, get_contextvars

from api.auth import caller_of, name_of
from api.languages import language_of
from api.problems import FAULTS, Refused, fault, problem, refusal
from engine.log import get_logger

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.answers import Header
    from api.auth import Caller
    from engine.engine import Engine
    from engine.limiter import Allowance

log = get_logger(__name__)
_FAULTS = tuple(FAULTS)
_REQUEST_ID = b"x-request-id"
_GOOD_ID = re.compile(rb"[!-~]{1,128}")


class RateLimit:
    """Lets each caller make only so many calls below ``/api/``, and says how many are left.

    A caller is who his token says he is, else the address that he comes from. A call that has an
    ``allowance`` in its scope was counted already.
    """

    def __init__(self, app: ASGIApp, engine: Engine, *, max_calls: int) -> None:
        self._app = app
        self._engine = engine
        self._max_calls = max_calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say when to come again."""
        if not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        made = scope.get("allowance")
        if made is None:
            name = limited_by(caller_of(scope), scope.get("client"))
            made = await self._engine.admit(name)
        marked = _marked(send, *limits_of(made, self._max_calls))
        if made.wait_ms:
            seconds, language = _seconds(made.wait_ms), language_of(scope)
            await problem("rate_limited", language, retry_after_seconds=seconds).send(marked)
        else:
            await self._app(scope, receive, marked)


def limited_by(caller: Caller | None, client: tuple[str, int] | None) -> str:
    """Under which name a caller's calls are counted."""
    return name_of(caller) or (client[0] if client else "")


def limits_of(made: Allowance, max_calls: int) -> tuple[Header, ...]:
    """What a limit is, what is left of it, and in how many seconds it is whole again."""
    return (
        (b"x-ratelimit-limit", b"%d" % max_calls),
        (b"x-ratelimit-remaining", b"%d" % made.remaining),
        (b"x-ratelimit-reset", b"%d" % _seconds(made.reset_ms)),
    )


def _seconds(ms: int) -> int:
    return -(-ms // 1000)


def _marked(send: Send, *headers: Header) -> Send:
    """Send an answer with more headers; it is copied, since many are shared."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return marked


class Problems:
    """Answers what ``app`` raises.

    Endpoints send their answer as their last act, so nothing has been sent yet when one raises; a
    stream, which sends for long, raises nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer a refusal, a fault, or a defect."""
        try:
            await self._app(scope, receive, send)
        except Refused as refused:
            await refusal(refused, language_of(scope)).send(send)
        except _FAULTS as error:
            await fault(error, language_of(scope)).send(send)
        except Exception:
            # The raw path: the decoded one may hold line feeds.
            path = scope["raw_path"].decode("ascii", "replace")
            known = get_contextvars().get("request_id")
            request_id = known or uuid4().hex
            log.exception(
                "request_failed", method=scope["method"], path=path, request_id=request_id
            )
            named = () if known else ((_REQUEST_ID, request_id.encode()),)
            await problem("internal_error", language_of(scope), *named).send(send)


class RequestIds:
    """Has a caller's ``X-Request-Id`` in his answer, and in every line written for his request.

    Who sends none is not given one, unless his request fails: ids are not free.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; an id that is no 1 to 128 visible characters is none."""
        for name, value in scope["headers"]:
            if name == _REQUEST_ID:
                if _GOOD_ID.fullmatch(value):
                    with bound_contextvars(request_id=value.decode()):
                        await self._app(scope, receive, _marked(send, (_REQUEST_ID, value)))
                    return
                break
        await self._app(scope, receive, send)


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
