"""Start-up refuses servers that cannot keep what onsale promises, and says what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.embedded import RedisServer
from engine.errors import Misconfigured, RedisAway
from engine.model import Number
from engine.recovery import check_servers, redis_client
from tests.engine.house import Shop

if TYPE_CHECKING:
    from pathlib import Path

    from engine.ledger import PartitionRow
    from engine.settings import Settings
    from tests.engine.house import House


class Older:
    """A Redis that says it is older than it is."""

    def __init__(self, version: str) -> None:
        self._info = {"redis_version": version}

    async def info(self) -> dict[str, str]:
        """What INFO says."""
        return self._info


async def _check(house: House, folder: Path, **redis_settings: str) -> list[PartitionRow]:
    with RedisServer(folder / "redis", settings=redis_settings) as server:
        settings = house.settings.model_copy(update={"redis_url": server.url})
        return await _checked(house, settings)


async def _checked(house: House, settings: Settings) -> list[PartitionRow]:
    async with redis_client(settings) as redis:
        return await check_servers(house.ledger, redis, settings)


async def test_redis_that_evicts(house: House, tmp_path: Path) -> None:
    """Keys that are evicted are seats sold twice."""
    with pytest.raises(Misconfigured, match="CONFIG SET maxmemory-policy noeviction"):
        await _check(house, tmp_path, **{"maxmemory-policy": "allkeys-lru"})


async def test_redis_without_a_file(house: House, tmp_path: Path) -> None:
    """Without its append-only file a restart of Redis loses what is pending."""
    with pytest.raises(Misconfigured, match="CONFIG SET appendonly yes"):
        await _check(house, tmp_path, appendonly="no")


async def test_redis_without_a_file_on_request(house: House, tmp_path: Path) -> None:
    """ALLOW_VOLATILE_REDIS=1 accepts that."""
    volatile = house.settings.model_copy(update={"allow_volatile_redis": True})
    with RedisServer(tmp_path / "redis", settings={"appendonly": "no"}) as server:
        settings = volatile.model_copy(update={"redis_url": server.url})
        assert len(await _checked(house, settings)) == settings.partitions


async def test_old_redis(house: House) -> None:
    """Redis 6 has neither the shebang's checks nor effects replication by default."""
    with pytest.raises(Misconfigured, match=r"Redis is 6\.2\.14: 7\.0 or newer is needed"):
        await check_servers(house.ledger, Older("6.2.14"), house.settings)  # type: ignore[arg-type]


async def test_other_partitions(house: House) -> None:
    """The number of partitions is the ledger's, for good."""
    settings = house.settings.model_copy(update={"partitions": 5})
    with pytest.raises(Misconfigured, match=f"set PARTITIONS={house.settings.partitions}"):
        await _checked(house, settings)


async def test_no_redis(house: House) -> None:
    """A Redis that is away is no mistake of the settings."""
    settings = house.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with pytest.raises(RedisAway):
        await _checked(house, settings)


async def test_master_that_misses_its_replicas(own_house: House) -> None:
    """With ``min-replicas-to-write``, nothing is sold without them, and nothing half written."""
    shop = await Shop(own_house, 0).open()
    event_id = await shop.open_event(2, "ann")
    before = await shop.snapshot()
    await shop.redis.config_set("min-replicas-to-write", 1)
    with pytest.raises(RedisAway, match="NOREPLICAS"):
        await shop.reserve(event_id, "bob")
    with pytest.raises(RedisAway, match="NOREPLICAS"):
        await shop.cancel(event_id, "ann", (await shop.rows(event_id))["ann"])
    assert await shop.snapshot() == before
    await shop.redis.config_set("min-replicas-to-write", 0)
    assert await shop.reserve(event_id, "bob") == [Number(1, 2)]
