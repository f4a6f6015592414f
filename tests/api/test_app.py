"""The life of a process: it says why it does not start, and lets no waiter wait at the end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, cast

import pytest
from httpx2 import ASGITransport, AsyncClient

from api.answers import answer
from api.app import Application, behind, released_on_signal
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
