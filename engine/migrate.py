"""Migrations: numbered files, each applied once, in order, under a lock."""

from __future__ import annotations

from hashlib import sha256

import asyncpg

from engine.errors import LedgerAway, Misconfigured
from engine.ledger import QUERY, SQL


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
    for path in sorted((SQL / "migrations").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        checksum = sha256(text.encode()).hexdigest()
        if known.get(path.name, checksum) != checksum:
            raise Misconfigured(f"migration {path.name} was changed after it was applied")
        if path.name in known:
            continue
        async with connection.transaction():
            await connection.execute(text)
            await connection.execute(QUERY["note_migration"], path.name, checksum)
        applied.append(path.name)
    await _fix_partitions(connection, partitions)
    return applied


async def _fix_partitions(connection: asyncpg.Connection, partitions: int) -> None:
    made_with = await connection.fetchval(QUERY["count_partitions"])
    if made_with == 0:
        await connection.execute(QUERY["make_partitions"], partitions)
    elif made_with != partitions:
        raise Misconfigured(
            f"PARTITIONS is {partitions}, but the ledger was made with {made_with}: "
            f"set PARTITIONS={made_with}"
        )
