"""The rate limit: so many calls in a window, evenly, in all processes together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from httpx2 import ASGITransport, AsyncClient

from api import routes
from engine.engine import Engine
from engine.limiter import Limiter
from engine.recovery import redis_client
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

HOUR_MS = 3_600_000


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the Redis that is there."""
    async with redis_client(settings) as redis:
        yield redis


@pytest.fixture
async def nowhere() -> AsyncIterator[Redis]:
    """A client of a Redis that is away."""
    away = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0")
    async with redis_client(away) as redis:
        yield redis


async def _passed(limiter: Limiter, calls: int) -> int:
    caller = uuid4().hex
    made = await asyncio.gather(*[limiter.admit(caller) for _ in range(calls)])
    return [allowance.wait_ms for allowance in made].count(0)


async def test_so_many_pass_and_no_more(redis: Redis) -> None:
    """Of any number of calls at once, as many pass as the window holds."""
    assert await _passed(Limiter(redis, max_calls=100, window_ms=HOUR_MS), 250) == 100


async def test_without_redis_the_limit_holds_in_this_process(nowhere: Redis) -> None:
    """A Redis that is away neither stops the calls nor lifts the limit."""
    assert await _passed(Limiter(nowhere, max_calls=100, window_ms=HOUR_MS), 250) == 100


async def test_two_processes_share_one_limit(settings: Settings, redis: Redis) -> None:
    """A caller has one limit, whichever process he reaches."""
    caller = uuid4().hex
    async with redis_client(settings) as other:
        limiters = [Limiter(r, max_calls=10, window_ms=HOUR_MS) for r in (redis, other)]
        waits = [(await limiter.admit(caller)).wait_ms for _ in range(8) for limiter in limiters]
    assert waits[:10] == [0] * 10
    assert all(0 < wait <= HOUR_MS / 10 for wait in waits[10:])


async def test_the_window_moves_on(redis: Redis) -> None:
    """Who waits as long as he was told passes."""
    limiter, caller = Limiter(redis, max_calls=2, window_ms=200), uuid4().hex
    while not (wait_ms := (await limiter.admit(caller)).wait_ms):
        pass
    await asyncio.sleep(wait_ms / 1000)
    assert (await limiter.admit(caller)).wait_ms == 0


async def test_http_says_when_to_come_again(settings: Settings) -> None:
    """The call after the last one is a 429 with Retry-After; other paths are not counted."""
    limited = settings.model_copy(update={"rate_limit_max": 2, "rate_limit_time_window": HOUR_MS})
    engine = await Engine.open(limited)
    transport = ASGITransport(
        app=routes.build(engine, wait_ms=0, rate_limit=2), client=(uuid4().hex, 1)
    )
    async with AsyncClient(transport=transport, base_url="http://onsale") as client:
        statuses = [(await client.get("/api/bookings/1")).status_code for _ in range(2)]
        refused = await client.get("/api/bookings/1")
        assert (await client.get("/health")).status_code == 200
    await engine.close()
    assert statuses == [404, 404]
    assert refused.status_code == 429
    assert refused.json()["code"] == "rate_limited"
    assert refused.headers.get_list("retry-after") == ["1800"]
