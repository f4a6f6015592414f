"""Postgres alone, as the first system did it: lock the event's row, count, insert."""

from __future__ import annotations

from typing import Final

import asyncpg

from bench.contenders.face import Away, Face, Peer, Verdict
from bench.contenders.postgres import TABLES, open_pool
from bench.contenders.serve import serve
from engine.model import Word

SCHEMA: Final = TABLES
CONNECTIONS: Final = 16

LOCK = "SELECT total_seats FROM events WHERE id = $1 FOR UPDATE"
COUNT = "SELECT count(*) FROM bookings WHERE event_id = $1"
INSERT = """
INSERT INTO bookings (event_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING
RETURNING id, (extract(epoch FROM created_at) * 1000)::bigint
"""
HELD = "SELECT id FROM bookings WHERE event_id = $1 AND user_id = $2"


class ForUpdate(Peer):
    """One transaction of three statements a request."""

    async def open(self) -> None:
        """Connect."""
        self._pool = await open_pool(CONNECTIONS)

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close()

    async def reserve(self, event_id: int, user_id: str) -> Verdict:
        """Lock, count, insert."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                return await self._decide(connection, event_id, user_id)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise Away from error

    async def _decide(self, connection: asyncpg.Connection, event_id: int, user_id: str) -> Verdict:
        total = await connection.fetchval(LOCK, event_id)
        if total is None:
            return Verdict(Word.EVENT_NOT_FOUND)
        if await connection.fetchval(COUNT, event_id) < total:
            booked = await connection.fetchrow(INSERT, event_id, user_id)
            if booked:
                return Verdict(Word.RESERVED, *booked)
        held = await connection.fetchval(HELD, event_id, user_id)
        return Verdict(Word.ALREADY_BOOKED, held) if held else Verdict(Word.SOLD_OUT)


if __name__ == "__main__":
    serve(Face(ForUpdate()))
