"""Postgres alone, one statement a request, with a counter in the event's row."""

from __future__ import annotations

from typing import Final

import asyncpg

from bench.contenders.face import Away, Face, Peer, Verdict
from bench.contenders.postgres import TABLES, open_pool
from bench.contenders.serve import serve
from engine.model import Word

SCHEMA: Final = TABLES
CONNECTIONS: Final = 16

BOOK = """
WITH held AS (
    SELECT id FROM bookings WHERE event_id = $1 AND user_id = $2
), seat AS (
    UPDATE events SET booked = booked + 1
    WHERE id = $1 AND booked < total_seats AND NOT EXISTS (SELECT FROM held)
    RETURNING id
), taken AS (
    INSERT INTO bookings (event_id, user_id) SELECT id, $2 FROM seat
    RETURNING id, (extract(epoch FROM created_at) * 1000)::bigint AS at_ms
)
SELECT 'reserved', id, at_ms FROM taken
UNION ALL SELECT 'already_booked', id, 0 FROM held
UNION ALL SELECT 'sold_out', 0, 0 FROM events
          WHERE id = $1 AND NOT EXISTS (SELECT FROM taken) AND NOT EXISTS (SELECT FROM held)
"""


class Statement(Peer):
    """One prepared statement a request, on one of a few connections."""

    statement = BOOK

    async def open(self) -> None:
        """Connect."""
        self._pool = await open_pool(CONNECTIONS)

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close()

    async def reserve(self, event_id: int, user_id: str) -> Verdict:
        """Send the statement."""
        try:
            row = await self._pool.fetchrow(self.statement, event_id, user_id)
        except asyncpg.UniqueViolationError:  # the same user at the same time: now he is seen
            return await self.reserve(event_id, user_id)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise Away from error
        return Verdict(Word(row[0]), row[1], row[2]) if row else Verdict(Word.EVENT_NOT_FOUND)


if __name__ == "__main__":
    serve(Face(Statement()))
