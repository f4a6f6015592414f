"""Migrations: numbered files, each applied once, in order, under a lock."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import asyncpg

from engine.errors import LedgerAway, Misconfigured
from engine.ledger import QUERY, SQL

if TYPE_CHECKING:
    from pathlib import Path


async def migrate(dsn: str, partitions: int) -> list[str]:
    """Bring the ledger's schema up to date; answers the names of what was applied.

    The first migration fixes the number of partitions for good.

    Raises:
        Misconfigured: an applied migration was changed since, or the ledger was made with another
            number of partitions.
        LedgerAway: Postgres does not answer.
    """
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise LedgerAway(f"Postgres does not answer: {error}") from error
    try:
        await connection.execute(QUERY["lock_history"])
        return await _migrate(connection, partitions)
    finally:
        await connection.close()


async def _migrate(connection: asyncpg.Connection, partitions: int) -> list[str]:
    await connection.execute(QUERY["make_history"])
    rows = await connection.fetch(QUERY["history"])
    known = {row["name"]: row["checksum"] for row in rows}
    applied = []
    for path, checksum in _files():
        if known.get(path.name, checksum) != checksum:
            raise Misconfigured(f"migration {path.name} was changed after it was applied")
        if path.name in known:
            continue
        async with connection.transaction():
            await connection.execute(path.read_text(encoding="utf-8"))
            await connection.execute(QUERY["note_migration"], path.name, checksum)
        applied.append(path.name)
    await _fix_partitions(connection, partitions)
    return applied


async def outstanding(connection: asyncpg.Connection) -> list[str]:
    """What ``migrate`` would apply or refuse, each in a few words; nothing is changed."""
    try:
        rows = await connection.fetch(QUERY["history"])
    except asyncpg.UndefinedTableError:
        rows = []
    known = {row["name"]: row["checksum"] for row in rows}
    found = []
    for path, checksum in _files():
        if path.name not in known:
            found.append(f"{path.name} is not applied")
        elif known[path.name] != checksum:
            found.append(f"{path.name} was changed after it was applied")
    return found


def _files() -> list[tuple[Path, str]]:
    """The migrations in their order, each with its checksum."""
    paths = sorted((SQL / "migrations").glob("*.sql"))
    return [(path, sha256(path.read_bytes()).hexdigest()) for path in paths]


async def _fix_partitions(connection: asyncpg.Connection, partitions: int) -> None:
    made_with = await connection.fetchval(QUERY["count_partitions"])
    if made_with == 0:
        await connection.execute(QUERY["make_partitions"], partitions)
    elif made_with != partitions:
        raise Misconfigured(
            f"PARTITIONS is {partitions}, but the ledger was made with {made_with}: "
            f"set PARTITIONS={made_with}"
        )
