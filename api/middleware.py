"""The last resort: whatever an endpoint raises becomes a problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.problems import BARE, FAULTS, Refused, fault, problem, refusal
from engine.log import get_logger

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from engine.engine import Engine

log = get_logger(__name__)
_FAULTS = tuple(FAULTS)


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
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer a refusal, a fault, or a defect."""
        try:
            await self._app(scope, receive, send)
        except Refused as refused:
            await refusal(refused).send(send)
        except _FAULTS as error:
            await fault(error).send(send)
        except Exception:
            # The raw path: the decoded one may hold line feeds.
            path = scope["raw_path"].decode("ascii", "replace")
            log.exception("request_failed", method=scope["method"], path=path)
            await BARE["internal_error"].send(send)
