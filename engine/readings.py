"""What ``onsale doctor`` reads: both servers, the machine where it can be seen, and the sale."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
from redis.exceptions import ResponseError

from engine import migrate
from engine.errors import REDIS_ERRORS, LedgerAway, RedisAway
from engine.ledger import QUERY
from engine.recovery import connected
from engine.status import Status, status

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from engine.recovery import Stores
    from engine.settings import Settings

EVENTS: Final = 20
"""So many events, the busiest, are checked for drift."""

THP: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
OVERCOMMIT: Final = Path("/proc/sys/vm/overcommit_memory")


class Disk(NamedTuple):
    """How much of a file system is free, in bytes."""

    whose: str
    free: int
    total: int


class Machine(NamedTuple):
    """What this machine says of the Redis and the Postgres on it; None where it does not."""

    huge_pages: str | None = None
    overcommit: str | None = None
    redis_swapped_kb: int | None = None
    disks: tuple[Disk, ...] = ()


class Ledger(NamedTuple):
    """Postgres: its settings, and what stands beside them.

    ``standbys`` are names with their ``sync_state``; ``sessions`` those of others than onsale.
    ``vacuum_off`` are tables for which autovacuum is off. ``migrations`` are missing or changed.
    """

    settings: dict[str, str]
    ahead_s: float
    in_recovery: bool
    standbys: list[tuple[str, str | None]]
    sessions: int
    vacuum_off: list[str]
    migrations: list[str]
    partitions: int


class Sale(NamedTuple):
    """What onsale itself knows; ``recoveries`` is the most that a partition had in an hour."""

    status: Status
    dead_letters: int
    recoveries: int


class Readings(NamedTuple):
    """All that is read. ``sale`` is None where the ledger is not one that this version can use."""

    settings: Settings
    redis: dict[str, Any]
    redis_config: dict[str, str]
    redis_ahead_s: float
    ledger: Ledger
    machine: Machine
    sale: Sale | None


async def read(settings: Settings) -> Readings:
    """Read everything, and change nothing.

    Raises:
        LedgerAway, RedisAway: a server does not answer.
    """
    ledger = await _ledger(settings)
    async with connected(settings, connections=2) as stores:
        info, config, ahead_s = await _redis(stores.redis)
        usable = not ledger.migrations and ledger.partitions == settings.partitions
        return Readings(
            settings,
            info,
            config,
            ahead_s,
            ledger,
            _machine(settings, ledger, info, config),
            await _sale(stores) if usable else None,
        )


async def _redis(redis: Redis) -> tuple[dict[str, Any], dict[str, str], float]:
    config: dict[str, str] = {}
    try:
        before_s = time.time()
        seconds, micros = await redis.time()
        after_s = time.time()
        info = await redis.info("everything")
        with suppress(ResponseError):  # a Redis that somebody else runs may not tell
            config = await redis.config_get("*")
    except REDIS_ERRORS as error:
        raise RedisAway(f"Redis does not answer: {error}") from error
    return info, config, seconds + micros / 1e6 - (before_s + after_s) / 2


async def _ledger(settings: Settings) -> Ledger:
    """Read over a session without any settings of ours: they would hide the server's."""
    try:
        connection = await asyncpg.connect(settings.postgres_dsn, timeout=5, command_timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise LedgerAway(f"Postgres does not answer: {error}") from error
    try:
        return await _ledger_over(connection)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise LedgerAway(f"Postgres does not answer: {error}") from error
    finally:
        await connection.close()


async def _ledger_over(connection: asyncpg.Connection) -> Ledger:
    before_s = time.time()
    facts = await connection.fetchrow(QUERY["server_facts"])
    ahead_s = facts["now_s"] - (before_s + time.time()) / 2
    migrations = await migrate.outstanding(connection)
    return Ledger(
        dict(await connection.fetch(QUERY["server_settings"])),
        ahead_s,
        facts["in_recovery"],
        [tuple(row) for row in await connection.fetch(QUERY["standbys"])],
        facts["sessions"],
        [row["relname"] for row in await connection.fetch(QUERY["vacuum_off"])],
        migrations,
        0 if migrations else await connection.fetchval(QUERY["count_partitions"]),
    )


async def _sale(stores: Stores) -> Sale:
    return Sale(
        await status(stores, events=EVENTS),
        await stores.ledger.letters_waiting(),
        await stores.ledger.most_recoveries(),
    )


def _machine(
    settings: Settings, ledger: Ledger, info: dict[str, Any], config: dict[str, str]
) -> Machine:
    """What is to be seen from here; nothing of a server on another machine."""
    here_redis, here_postgres = _is_here(settings.redis_dsn), _is_here(settings.postgres_dsn)
    disks = [
        ("Redis", config.get("dir") if here_redis else None),
        ("Postgres", ledger.settings.get("data_directory") if here_postgres else None),
    ]
    found = tuple(disk for whose, folder in disks if folder and (disk := _disk(whose, folder)))
    if not here_redis:
        return Machine(disks=found)
    swapped = _line(Path(f"/proc/{info['process_id']}/status"), "VmSwap:")
    return Machine(
        _chosen(THP),
        _text(OVERCOMMIT),
        int(swapped.split()[0]) if swapped else None,
        found,
    )


def _is_here(address: str) -> bool:
    """Whether it is loopback or a Unix socket; Postgres's may be named as ``?host=`` as well."""
    parts = urlsplit(address)
    host = unquote(parts.hostname or parse_qs(parts.query).get("host", [""])[-1])
    return parts.scheme == "unix" or host[:1] == "/" or host in ("127.0.0.1", "::1", "localhost")


def _disk(whose: str, folder: str) -> Disk | None:
    with suppress(OSError):
        usage = shutil.disk_usage(folder)
        return Disk(whose, usage.free, usage.total)
    return None


def _text(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace").strip()
    return None


def _chosen(path: Path) -> str | None:
    """The word in brackets: ``always [madvise] never``."""
    text = _text(path)
    return text.partition("[")[2].partition("]")[0] if text else None


def _line(path: Path, name: str) -> str | None:
    for line in (_text(path) or "").splitlines():
        if line.startswith(name):
            return line.removeprefix(name).strip()
    return None
