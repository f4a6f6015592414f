"""The ASGI application: opens the engine, serves, and lets no request be cut at the end."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import auth, routes
from api.express import PLACE, Express
from api.protocol import EXPRESS
from engine import tracing
from engine.engine import Engine
from engine.errors import Misconfigured
from engine.log import configure
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from starlette.types import ASGIApp, Receive, Scope, Send

_PR_SET_PDEATHSIG = 1


class Application:
    """One process of the API."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http: ASGIApp = routes.nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or live through the life of the process."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the engine, wait for the end, close it.

        A start-up that is refused is told in one line: Starlette's own lifespan sends a traceback.
        """
        await receive()
        try:
            flush = tracing.start("onsale-api") if self._settings.otel else None
            engine = await Engine.open(self._settings)
            verifier = auth.verifier(self._settings, engine)
        except Misconfigured as refused:
            await send({"type": "lifespan.startup.failed", "message": f"onsale: {refused}"})
            return
        self._http = routes.build(
            engine,
            wait_ms=self._settings.reserve_wait_ms,
            rate_limit=self._settings.rate_limit_max,
            log_requests=self._settings.log_level == "debug",
            verifier=verifier,
        )
        if self._settings.trusted_proxies:
            self._http = behind(self._settings.trusted_proxies, self._http)
        if tracing.tracer:
            from api.tracing import Trace  # noqa: PLC0415  an extra

            self._http = Trace(self._http, tracing.tracer)
        if not self._is_watched:
            express = Express(
                engine,
                self._http,
                wait_ms=self._settings.reserve_wait_ms,
                rate_limit=self._settings.rate_limit_max,
                verifier=verifier,
            )
            scope["state"][EXPRESS] = {PLACE: express.take}
        calm_the_garbage_collector()
        with released_on_signal(engine):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await engine.close()
        if flush:
            await asyncio.to_thread(flush)
        await send({"type": "lifespan.shutdown.complete"})

    @property
    def _is_watched(self) -> bool:
        """Whether something must stand around each request that only an application can be."""
        settings = self._settings
        counts_addresses = settings.rate_limit_max and settings.auth in (None, "none")
        told_by_a_proxy = counts_addresses and settings.trusted_proxies
        return bool(tracing.tracer or settings.log_level == "debug" or told_by_a_proxy)


def create() -> Application:
    """Build the application of a server process: what uvicorn calls."""
    die_with_parent()
    settings = Settings()
    configure(settings)
    return Application(settings)


def behind(proxies: str, app: ASGIApp) -> ASGIApp:
    """An app whose callers' addresses are those that these proxies say; strangers say nothing."""
    return cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), proxies))


def calm_the_garbage_collector() -> None:
    """Set aside what start-up made, and collect seldom: requests leave next to no cycles.

    A collection over all that was imported stops every request; after this there is next to none.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


@contextmanager
def released_on_signal(engine: Engine) -> Iterator[None]:
    """Give every waiter his 202 as soon as the process is told to end.

    uvicorn waits for the requests that are under way, so its own handlers, which are in place by
    now, are called after the waiters are released.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def release(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(engine.release_waiters)
        after = before[signal.Signals(number)]
        if callable(after):
            after(number, frame)

    for number in before:
        signal.signal(number, release)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with_parent() -> None:
    """End this process, if another one started it to serve, when that one dies (Linux)."""
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent.pid:  # it died before the line above
        signal.raise_signal(signal.SIGTERM)
