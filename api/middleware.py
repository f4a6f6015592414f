"""What stands around every call: its caller's limit, and an answer to whatever it raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.languages import language_of
from api.problems import BARE, FAULTS, Refused, fault, problem, refusal
from engine.log import get_logger

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.answers import Header
    from engine.engine import Engine
    from engine.limiter import Allowance

log = get_logger(__name__)
_FAULTS = tuple(FAULTS)


class RateLimit:
    """Lets each caller make only so many calls below ``/api/``, and says how many are left.

    A caller is who his token says he is, else the address that he comes from.
    """

    def __init__(self, app: ASGIApp, engine: Engine, *, max_calls: int) -> None:
        self._app = app
        self._engine = engine
        self._limit: Header = (b"x-ratelimit-limit", b"%d" % max_calls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say when to come again."""
        if not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        made = await self._engine.admit(_name_of(scope))
        marked = _marked(send, self._limit, *_left(made))
        if made.wait_ms:
            seconds, language = _seconds(made.wait_ms), language_of(scope)
            await problem("rate_limited", language, retry_after_seconds=seconds).send(marked)
        else:
            await self._app(scope, receive, marked)


def _name_of(scope: Scope) -> str:
    caller = scope.get("caller")
    if caller and caller.name:
        name: str = caller.name
        return name
    return scope["client"][0] if scope.get("client") else ""


def _left(made: Allowance) -> tuple[Header, Header]:
    """What is left of a limit, and in how many seconds it is whole again."""
    return (
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

    Endpoints send their answer as their last act, so nothing has been sent yet when one raises.
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
            log.exception("request_failed", method=scope["method"], path=path)
            await BARE[language_of(scope)]["internal_error"].send(send)
