"""Each check of ``onsale doctor`` fires where its risk is there, and not before.

What can be changed while a server runs is changed on the real one, and put back. What cannot is
given: readings of the real servers, with one of them replaced.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine import doctor, keys
from engine.doctor import CHECKS, findings
from engine.errors import LedgerAway, RedisAway
from engine.readings import Disk, Machine, Readings, read
from tests import world
from tests.engine.house import House, Shop, database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.settings import Settings

USUAL = {"redis_memory_unbounded", "idle_in_transaction", "no_worker"}
"""What is to be said of servers as they are started here, with nobody at work."""
OF_THE_MACHINE = {"huge_pages", "overcommit", "redis_is_swapped", "disks", "redis_forks_slowly"}


@pytest.fixture(scope="module")
async def house(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """Few partitions, all open: each reading looks at every one."""
    folder = tmp_path_factory.mktemp("house")
    async with House.build(folder, settings.postgres_dsn, partitions=3) as house:
        for partition in range(3):
            await Shop(house, partition).open()
        await house.sql("UPDATE partitions SET holder = ''")
        yield house


async def found(settings: Settings) -> set[str]:
    """The checks that fire, but for those of the machine on which the tests happen to run."""
    return {each.check for each in findings(await read(settings))} - OF_THE_MACHINE


async def test_servers_as_they_should_be(house: House) -> None:
    """Nothing is said but what is so; each sentence is whole, and so is the advice."""
    said = findings(await read(house.settings))
    assert {each.check for each in said} - OF_THE_MACHINE == USUAL
    for each in said:
        assert each.risk.endswith(".")
        assert each.advice.endswith((".", "onsale sets its own)."))


@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis_evicts"),
        ("appendonly", "no", "redis_keeps_no_file"),
        ("appendfsync", "no", "redis_seldom_syncs"),
        ("maxmemory", "1mb", "redis_memory_near_its_bound"),
        ("min-replicas-to-write", "1", "redis_misses_its_replicas"),
    ],
)
async def test_redis_settings(house: House, name: str, value: str, check: str) -> None:
    """On the real server, while it runs."""
    before = (await house.redis.config_get(name))[name]
    await house.redis.config_set(name, value)
    try:
        fired = await found(house.settings)
    finally:
        await house.redis.config_set(name, before)
    assert check in fired
    assert check not in await found(house.settings)


async def test_redis_that_is_a_replica(house: House) -> None:
    """Of a master that is not there."""
    await house.redis.replicaof("127.0.0.1", "1")
    try:
        assert "redis_is_a_replica" in await found(house.settings)
    finally:
        await house.redis.replicaof("NO", "ONE")


@asynccontextmanager
async def altered(house: House, name: str, value: str) -> AsyncIterator[None]:
    """Postgres with another setting."""

    async def is_seen(wanted: str | None) -> bool:
        ((seen,),) = await house.sql("SELECT setting FROM pg_settings WHERE name = $1", name)
        return bool(seen == wanted)

    ((before,),) = await house.sql("SELECT setting FROM pg_settings WHERE name = $1", name)
    await house.sql(f"ALTER SYSTEM SET {name} = '{value}'")
    await house.sql("SELECT pg_reload_conf()")
    try:
        await world.until(lambda: is_seen(value))
        yield
    finally:
        await house.sql(f"ALTER SYSTEM RESET {name}")
        await house.sql("SELECT pg_reload_conf()")
        await world.until(lambda: is_seen(before))


@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
        ("full_page_writes", "off", "full_page_writes"),
        ("synchronous_standby_names", "nobody", "synchronous_standby_missing"),
        ("autovacuum", "off", "autovacuum"),
    ],
)
async def test_postgres_settings(house: House, name: str, value: str, check: str) -> None:
    """On the real server, while it runs."""
    async with altered(house, name, value):
        assert check in await found(house.settings)
    assert check not in await found(house.settings)


async def test_synchronous_commit(house: House) -> None:
    """Of the database, whatever a session of onsale has."""
    name = house.settings.postgres_dsn.rpartition("/")[2]
    await house.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    assert "synchronous_commit" in await found(house.settings)
    await house.sql(f"ALTER DATABASE {name} RESET synchronous_commit")
    assert "synchronous_commit" not in await found(house.settings)


async def test_a_bound_on_idle_transactions(house: House) -> None:
    """The one thing that is to be said of every Postgres is not said where it is dealt with."""
    async with altered(house, "idle_in_transaction_session_timeout", "300000"):
        assert "idle_in_transaction" not in await found(house.settings)


async def test_a_table_without_autovacuum(house: House) -> None:
    """It is named."""
    await house.sql("ALTER TABLE bookings SET (autovacuum_enabled = off)")
    try:
        said = {each.check: each for each in findings(await read(house.settings))}
    finally:
        await house.sql("ALTER TABLE bookings RESET (autovacuum_enabled)")
    assert "for bookings:" in said["autovacuum"].risk
    assert "autovacuum" not in await found(house.settings)


async def test_a_ledger_of_another_version(house: House) -> None:
    """What is missing or changed is named; the sale is not looked at."""
    own = house.settings.postgres_dsn
    async with database(own) as empty:
        fresh = house.settings.model_copy(update={"database_url": empty})
        readings = await read(fresh)
        assert "0001_ledger.sql is not applied" in findings(readings)[-1].risk
        assert readings.sale is None
    await house.sql("UPDATE schema_migrations SET checksum = 'x' || checksum")
    try:
        said = {each.check: each for each in findings(await read(house.settings))}
    finally:
        await house.sql("UPDATE schema_migrations SET checksum = substr(checksum, 2)")
    assert "0001_ledger.sql was changed" in said["migrations"].risk


async def test_another_number_of_partitions(house: House) -> None:
    """What the setting must be."""
    other = house.settings.model_copy(update={"partitions": 5})
    said = {each.check: each for each in findings(await read(other))}
    assert said["partitions"].advice == "PARTITIONS=3."


async def test_a_worker_is_seen(house: House) -> None:
    """By the sign of life of the host whose worker began the last shifts."""
    await house.sql("UPDATE partitions SET holder = 'somewhere:17'")
    await house.redis.set(keys.worker("somewhere"), "alive", ex=60)
    try:
        assert "no_worker" not in await found(house.settings)
        await house.redis.delete(keys.worker("somewhere"))
        assert "no_worker" in await found(house.settings)
    finally:
        await house.sql("UPDATE partitions SET holder = ''")


async def test_dead_letters(house: House) -> None:
    """A person must look."""
    await house.sql(
        "INSERT INTO ended_bookings (id, created_at, outcome, entry) VALUES (1, now(), 'dead', '')"
    )
    assert "dead_letters" in await found(house.settings)
    await house.sql("DELETE FROM ended_bookings")
    assert "dead_letters" not in await found(house.settings)


async def test_drift(house: House) -> None:
    """The event is named."""
    event_id = 0
    while event_id % 3 != 1:
        ((event_id,),) = await house.sql(
            "INSERT INTO events (name, total_seats) VALUES ('Чайка', 5) RETURNING id"
        )
    shop = Shop(house, 1)
    shop.scripts = type(shop.scripts)(1, (await house.ledger.partition(1)).epoch)
    await shop.warm(event_id)
    assert "drift" not in await found(house.settings)
    await house.redis.hset(keys.event(1, event_id), "left", 4)
    said = {each.check: each for each in findings(await read(house.settings))}
    assert f"event {event_id}." in said["drift"].risk
    await house.redis.hset(keys.event(1, event_id), "left", 5)


async def test_recoveries(house: House) -> None:
    """More than a few in an hour."""
    await house.sql("INSERT INTO epochs (p, epoch) SELECT 2, n FROM generate_series(101, 104) n")
    assert "recoveries" in await found(house.settings)
    await house.sql("UPDATE epochs SET opened_at = now() - interval '61 min' WHERE epoch > 100")
    assert "recoveries" not in await found(house.settings)
    await house.sql("DELETE FROM epochs WHERE epoch > 100")


async def test_recovering(house: House) -> None:
    """A partition that is not open."""
    await house.sql("UPDATE partitions SET state = 'recovering' WHERE p = 2")
    assert "recovering" in await found(house.settings)
    await house.sql("UPDATE partitions SET state = 'open' WHERE p = 2")
    assert "recovering" not in await found(house.settings)


async def test_servers_that_are_away(house: House) -> None:
    """Nothing can be said: it could not run."""
    nowhere = {"redis_url": "redis://127.0.0.1:1/0"}
    with pytest.raises(RedisAway):
        await read(house.settings.model_copy(update=nowhere))
    nowhere = {"database_url": "postgresql://127.0.0.1:1/x"}
    with pytest.raises(LedgerAway):
        await read(house.settings.model_copy(update=nowhere))


def _redis(readings: Readings, **info: Any) -> Readings:
    return readings._replace(redis={**readings.redis, **info})


def _config(readings: Readings, **config: str) -> Readings:
    named = {name.replace("_", "-"): value for name, value in config.items()}
    return readings._replace(redis_config={**readings.redis_config, **named})


def _postgres(readings: Readings, **settings: str) -> Readings:
    ledger = readings.ledger
    return readings._replace(ledger=ledger._replace(settings={**ledger.settings, **settings}))


def _ledger(readings: Readings, **facts: Any) -> Readings:
    return readings._replace(ledger=readings.ledger._replace(**facts))


def _machine(readings: Readings, **facts: Any) -> Readings:
    return readings._replace(machine=Machine(**facts))


def _partition(readings: Readings, **facts: Any) -> Readings:
    assert readings.sale is not None
    status = readings.sale.status
    first, *rest = status.partitions
    changed = status._replace(partitions=[first._replace(**facts), *rest])
    return readings._replace(sale=readings.sale._replace(status=changed))


GIVEN = {
    "redis_version": lambda r: _redis(r, redis_version="6.2.14"),
    "redis_settings_hidden": lambda r: r._replace(redis_config={}),
    "redis_cannot_write_its_file": lambda r: _redis(r, aof_last_write_status="err"),
    "redis_cannot_rewrite_its_file": lambda r: _redis(r, aof_last_bgrewrite_status="err"),
    "redis_rewrites_for_long": lambda r: _redis(r, aof_current_rewrite_time_sec=601),
    "redis_cannot_save": lambda r: _redis(r, rdb_last_bgsave_status="err"),
    "redis_forks_slowly": lambda r: _redis(r, latest_fork_usec=200_001),
    "redis_is_swapped": lambda r: _machine(r, redis_swapped_kb=4),
    "huge_pages": lambda r: _config(_machine(r, huge_pages="always"), disable_thp="no"),
    "overcommit": lambda r: _machine(r, overcommit="2"),
    "postgres_version": lambda r: _postgres(r, server_version_num="140011"),
    "fsync": lambda r: _postgres(r, fsync="off"),
    "standby_asynchronous": lambda r: _ledger(r, standbys=[("s1", "async")]),
    "max_connections": lambda r: _postgres(r, max_connections="30"),
    "wal_level": lambda r: _postgres(r, wal_level="minimal"),
    "postgres_in_recovery": lambda r: _ledger(r, in_recovery=True),
    "clocks": lambda r: r._replace(redis_ahead_s=-1.5),
    "disks": lambda r: _machine(r, disks=(Disk("Redis", 9, 100),)),
    "outbox_lag": lambda r: _partition(r, lag_seconds=10.1),
    "outbox_near_its_bound": lambda r: _partition(r, depth=160_000),
}


@pytest.mark.parametrize("check", GIVEN)
async def test_by_given_readings(house: House, check: str) -> None:
    """One reading is replaced, and its check fires; with a healthy one it does not."""
    healthy = _machine(await read(house.settings), huge_pages="madvise", overcommit="1")
    healthy = _redis(healthy, latest_fork_usec=500)
    assert check not in {each.check for each in findings(healthy)}
    assert check in {each.check for each in findings(GIVEN[check](healthy))}


async def test_what_excuses(house: House) -> None:
    """A failed snapshot that stops nothing, huge pages that Redis turned off, a standby in step."""
    healthy = await read(house.settings)
    harmless = _config(
        _redis(healthy, rdb_last_bgsave_status="err"), stop_writes_on_bgsave_error="no"
    )
    assert doctor.redis_cannot_save(harmless) is None
    off = _config(_machine(healthy, huge_pages="always"), disable_thp="yes")
    assert doctor.huge_pages(off) is None
    in_step = _postgres(_ledger(healthy, standbys=[("s1", "sync")]), synchronous_standby_names="s1")
    assert doctor.synchronous_standby_missing(in_step) is None
    assert doctor.standby_asynchronous(in_step) is None


def test_every_check_is_run_and_tested() -> None:
    """The table has each function once, and this file names each."""
    named = {
        n for n, each in vars(doctor).items() if getattr(each, "__module__", "") == "engine.doctor"
    }
    checks = named - {"Finding", "Said", "findings"}
    assert sorted(each.__name__ for each in CHECKS) == sorted(checks)
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in checks if f'"{name}"' not in text] == []
    docs = (Path(__file__).parents[2] / "docs/operating.md").read_text(encoding="utf-8")
    assert [name for name in checks if f"`{name}`" not in docs] == []
