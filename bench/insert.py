"""``python -m bench.insert``: what a batch of bookings costs to write, one way and another.

Starts a Postgres of its own with the ledger's schema, and writes batches within one open
transaction each (what a commit costs is the disk's), by ``unnest`` of arrays and by binary COPY, in
turns; then again without the foreign key, the index on the user, and the trigger that counts.
Prints the least time for a row, in µs, of all rounds: what others do on the machine adds to the
rest.
"""

from __future__ import annotations

import gc
import tempfile
import time
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import uvloop

from bench.reconcile import say
from engine.embedded import PostgresServer
from engine.migrate import migrate
from engine.model import Number, booking_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Rows = list[tuple[int, int, str, datetime]]

SIZES: Final = (1, 30, 500, 2000)
ROUNDS: Final = 40
COLUMNS: Final = ("id", "event_id", "user_id", "created_at")
UNNEST: Final = (
    "INSERT INTO bookings (id, event_id, user_id, created_at) "
    "SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::timestamptz[])"
)
LESS: Final = {
    "as it is": "",
    "without the foreign key": "ALTER TABLE bookings DROP CONSTRAINT bookings_event_id_fkey",
    "nor the index on the user": "DROP INDEX bookings_of_user",
    "nor the trigger that counts": "ALTER TABLE bookings DISABLE TRIGGER count_inserted",
}

_seqs = count(1)


async def by_unnest(connection: asyncpg.Connection, rows: Rows) -> None:
    """One statement with an array a column."""
    await connection.execute(UNNEST, *map(list, zip(*rows, strict=True)))


async def by_copy(connection: asyncpg.Connection, rows: Rows) -> None:
    """Binary COPY."""
    await connection.copy_records_to_table("bookings", records=rows, columns=COLUMNS)


WAYS: Final[dict[str, Callable[[Any, Rows], Awaitable[None]]]] = {
    "unnest": by_unnest,
    "COPY": by_copy,
}


async def least_us(connection: asyncpg.Connection, event_id: int, size: int) -> dict[str, float]:
    """The least time for a row of a batch of this size, by each way."""
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(ROUNDS):
        for name, write in WAYS.items():
            seqs = [next(_seqs) for _ in range(size)]
            now = datetime.now(UTC)
            rows = [(booking_id(Number(1, s), 0), event_id, f"user {s}", now) for s in seqs]
            async with connection.transaction():
                await connection.execute("SELECT set_config('onsale.engine', 'on', true)")
                begun_s = time.perf_counter()
                await write(connection, rows)
                took_s = time.perf_counter() - begun_s
            least[name] = min(least[name], took_s / size * 1e6)
    return least


async def measure(dsn: str) -> None:
    """Print a line for each size and each schema."""
    await migrate(dsn, 1)
    connection = await asyncpg.connect(dsn)
    event_id = await connection.fetchval(
        "INSERT INTO events (name, total_seats) VALUES ('bench', 2000000000) RETURNING id"
    )
    for schema, change in LESS.items():
        if change:
            await connection.execute(change)
        for size in SIZES:
            least = await least_us(connection, event_id, size)
            figures = ", ".join(f"{name} {us:.1f} µs a row" for name, us in least.items())
            say(f"{schema}, batches of {size:,}: {figures}")
    await connection.close()


def main() -> None:
    """Start a Postgres, measure, stop it."""
    gc.freeze()
    gc.disable()
    with tempfile.TemporaryDirectory() as name, PostgresServer(Path(name) / "postgres") as postgres:
        uvloop.run(measure(postgres.url))


if __name__ == "__main__":
    main()
