"""Postgres alone, micro-batched, with the tables as ours are: a foreign key, an index on the user.

What these cost is the difference to ``postgres_batched``, which does without.
"""

from __future__ import annotations

from typing import Final

from bench.contenders.face import Face
from bench.contenders.postgres_batched import SCHEMA as LEAN
from bench.contenders.postgres_batched import Batched
from bench.contenders.serve import serve

SCHEMA: Final = f"""{LEAN}
ALTER TABLE bookings ADD FOREIGN KEY (event_id) REFERENCES events;
CREATE INDEX bookings_of_user ON bookings (user_id);
"""

if __name__ == "__main__":
    serve(Face(Batched()))
