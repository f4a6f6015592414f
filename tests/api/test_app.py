"""The life of a process: it says why it does not start, and lets no waiter wait at the end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, cast

import pytest
from httpx2 import ASGITransport, AsyncClient
from opentelemetry.trace import NoOpTracer

from api import app as app_module
from api.answers import answer
from api.app import Application, behind, released_on_signal
from api.protocol import EXPRESS
from engine import tracing
from engine.engine import Engine
from engine.errors import Misconfigured
from engine.settings import Settings

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


async def test_refused_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start-up that the engine refuses is told in one line, without a traceback."""

    async def refuse(_: Settings) -> Engine:
        raise Misconfigured("maxmemory-policy is allkeys-lru")

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    monkeypatch.setattr(Engine, "open", refuse)
    await Application(Settings())({"type": "lifespan"}, receive, send)
    message = "onsale: maxmemory-policy is allkeys-lru"
    assert sent == [{"type": "lifespan.startup.failed", "message": message}]


async def _state(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> dict[str, Any]:
    """What an application leaves in the state of its lifespan, with these settings."""
    monkeypatch.setattr(app_module, "calm_the_garbage_collector", lambda: None)
    heard = iter(["lifespan.startup", "lifespan.shutdown"])
    said: list[str] = []
    scope: dict[str, Any] = {"type": "lifespan", "state": {}}

    async def receive() -> dict[str, Any]:
        return {"type": next(heard)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    await Application(settings.model_copy(update=changes))(scope, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    return cast("dict[str, Any]", scope["state"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"log_level": "info", "rate_limit_max": 0},
        {"trusted_proxies": "10.0.0.0/8", "rate_limit_max": 0},
        {"trusted_proxies": "10.0.0.0/8", "auth": "jwt", "jwt_secret": "s" * 32},
        {"auth": "jwt", "jwt_secret": "s" * 32},
    ],
)
async def test_express_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """It is there, for the one call."""
    state = await _state(settings, monkeypatch, **changes)
    assert list(state) == [EXPRESS]
    assert list(state[EXPRESS]) == [(b"POST", b"/api/bookings/reserve")]


@pytest.mark.parametrize(
    "changes",
    [
        {"log_level": "debug"},
        {"trusted_proxies": "10.0.0.0/8", "rate_limit_max": 100},
    ],
)
async def test_no_express_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """Where each request is a line of the log, or a proxy says whose limit counts."""
    assert await _state(settings, monkeypatch, **changes) == {}


async def test_no_express_way_while_tracing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has a span around it."""
    monkeypatch.setattr(tracing, "tracer", NoOpTracer())
    assert await _state(settings, monkeypatch) == {}


async def test_signal_releases_waiters() -> None:
    """A signal to end releases the waiters, then goes to whom it would have gone."""
    released, passed_on = asyncio.Event(), list[int]()

    class Waiting:
        def release_waiters(self) -> None:
            released.set()

    before = signal.signal(signal.SIGTERM, lambda number, _: passed_on.append(number))
    try:
        with released_on_signal(cast("Engine", Waiting())):
            signal.raise_signal(signal.SIGTERM)
            async with asyncio.timeout(1):
                await released.wait()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert passed_on == [signal.SIGTERM, signal.SIGTERM]


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "address"),
    [
        ("", "203.0.113.7", "127.0.0.1"),
        ("10.0.0.0/8", "203.0.113.7", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.0/8, 10.0.0.0/8", "203.0.113.7, 10.0.0.1", "203.0.113.7"),
        ("127.0.0.1", "203.0.113.7, 198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "", "127.0.0.1"),
    ],
)
async def test_trusted_proxies(trusted: str, forwarded_for: str, address: str) -> None:
    """A caller's address is what the last proxy that we trust says it is; strangers say nothing."""

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        await answer(200, scope["client"][0].encode()).send(send)

    wrapped = behind(trusted, app) if trusted else app
    transport = ASGITransport(app=wrapped, client=("127.0.0.1", 1))
    async with AsyncClient(transport=transport, base_url="http://onsale") as client:
        answered = await client.get("/", headers={"x-forwarded-for": forwarded_for})
    assert answered.text == address
