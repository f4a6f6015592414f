"""A desk of its own for every test."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from engine.recovery import redis_client
from tests.lua.desk import Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from engine.settings import Settings

_partitions = count(1000)  # far from those that a worker drains


@pytest.fixture(scope="session")
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """The engine's own kind of client."""
    async with redis_client(settings) as client:
        yield client


@pytest.fixture
async def desk(redis: Redis) -> Desk:
    """A partition nobody else uses, open at epoch 3; its event is cold."""
    return await Desk(redis, next(_partitions)).open()
