"""Postgres alone, one statement a request, with a row per seat and ``SKIP LOCKED``.

No row is wanted by everybody, so commits go to the disk together. Each seat is there before the
sale; the bench does not count what that takes.
"""

from __future__ import annotations

from typing import Final

from bench.contenders.face import Face
from bench.contenders.postgres_statement import Statement
from bench.contenders.serve import serve

SCHEMA: Final = """
CREATE TABLE events (
    id          serial PRIMARY KEY,
    name        varchar(255) NOT NULL,
    total_seats integer NOT NULL
);

CREATE TABLE seats (
    id         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (CACHE 1),
    event_id   integer NOT NULL,
    user_id    varchar(255),
    created_at timestamptz
);
CREATE UNIQUE INDEX one_booking_per_user ON seats (event_id, user_id) WHERE user_id IS NOT NULL;
CREATE INDEX free ON seats (event_id, id) WHERE user_id IS NULL;

CREATE FUNCTION make_seats() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seats (event_id) SELECT NEW.id FROM generate_series(1, NEW.total_seats);
    RETURN NULL;
END $$;
CREATE TRIGGER make_seats AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION make_seats();

CREATE VIEW bookings AS SELECT id, event_id, user_id, created_at FROM seats
WHERE user_id IS NOT NULL;
"""

BOOK = """
WITH held AS (
    SELECT id FROM seats WHERE event_id = $1 AND user_id = $2
), seat AS (
    SELECT id FROM seats
    WHERE event_id = $1 AND user_id IS NULL AND NOT EXISTS (SELECT FROM held)
    ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE seats SET user_id = $2, created_at = now() FROM seat WHERE seats.id = seat.id
    RETURNING seats.id, (extract(epoch FROM created_at) * 1000)::bigint AS at_ms
)
SELECT 'reserved', id, at_ms FROM taken
UNION ALL SELECT 'already_booked', id, 0 FROM held
UNION ALL SELECT 'sold_out', 0, 0 FROM events
          WHERE id = $1 AND NOT EXISTS (SELECT FROM taken) AND NOT EXISTS (SELECT FROM held)
"""


class SeatRows(Statement):
    """The same with another statement."""

    statement = BOOK


if __name__ == "__main__":
    serve(Face(SeatRows()))
