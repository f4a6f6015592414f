"""Where seats are put on sale and sold ones are counted, without asking who sold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
import redis

from bench.contenders.arq_job import QUEUE
from bench.contenders.redis_evalsha import event_key, users_key
from bench.speed.servers import PARTITIONS
from engine import keys

if TYPE_CHECKING:
    from bench.speed.contender import Contender
    from bench.speed.servers import Servers

TAKEN_BOUND_S: Final = 300.0

OPEN = """
INSERT INTO events (name, total_seats) SELECT 'bench', $2 FROM generate_series(1, $1) RETURNING id
"""
COUNT = """
SELECT coalesce(sum(rows), 0)::bigint, coalesce(sum(users), 0)::bigint,
       coalesce(sum(greatest(rows - total_seats, 0)), 0)::bigint
FROM events e LEFT JOIN LATERAL (
    SELECT count(*) AS rows, count(DISTINCT user_id) AS users FROM bookings b WHERE event_id = e.id
) b ON true
WHERE e.id BETWEEN $1 AND $2
"""


class Events(NamedTuple):
    """Events whose ids follow one another."""

    first: int
    last: int
    seats: int


class Sold(msgspec.Struct, frozen=True):
    """What was sold of some events; ``oversold`` is how many more than there are seats."""

    rows: int
    users: int
    oversold: int


class Store(Protocol):
    """A place in which seats are."""

    def open_events(self, count: int, seats: int) -> Events:
        """Put events on sale."""

    def sold(self, events: Events) -> Sold:
        """Count, once nothing is on its way any more."""


class InPostgres:
    """Rows of ``bookings``. What is queued for a worker is waited for."""

    def __init__(self, servers: Servers, contender: Contender) -> None:
        self._servers = servers
        self._contender = contender

    def open_events(self, count: int, seats: int) -> Events:
        """Insert them, as a person would."""
        rows = self._servers.sql(self._contender, OPEN, count, seats)
        ids = [event_id for (event_id,) in rows]
        return Events(min(ids), max(ids), seats)

    def sold(self, events: Events) -> Sold:
        """Count the rows."""
        with redis.Redis.from_url(self._servers.redis_url(self._contender)) as client:
            self._servers.await_fact(
                lambda: self.waiting(client) == 0,
                within_s=TAKEN_BOUND_S,
                what=f"the worker of {self._contender.name} has nothing to do",
            )
        (row,) = self._servers.sql(self._contender, COUNT, events.first, events.last)
        return Sold(*row)

    def waiting(self, client: redis.Redis) -> int:
        """How many bookings are not in Postgres yet."""
        queued: Any = client.zcard(QUEUE)
        return int(queued)


class InLedger(InPostgres):
    """Our own: what is in an outbox is waited for."""

    def waiting(self, client: redis.Redis) -> int:
        """Numbers that were given out and not taken, of all partitions."""
        return depth(client)


class InRedis:
    """Hashes of Redis, for who has no ledger."""

    def __init__(self, servers: Servers, contender: Contender) -> None:
        self._url = servers.redis_url(contender)

    def open_events(self, count: int, seats: int) -> Events:
        """Write them."""
        with redis.Redis.from_url(self._url) as client:
            last: Any = client.incrby("evalsha:events", count)
            for event_id in range(last - count + 1, last + 1):
                client.hset(event_key(event_id), mapping={"left": seats, "sold": 0})
        return Events(last - count + 1, last, seats)

    def sold(self, events: Events) -> Sold:
        """Count the users, all at one instant: a last call may still be on its way."""
        with redis.Redis.from_url(self._url) as client, client.pipeline() as together:
            for event_id in range(events.first, events.last + 1):
                together.hlen(users_key(event_id))
                together.hget(event_key(event_id), "sold")
            counts = [int(found or 0) for found in together.execute()]
        held, gone = counts[::2], counts[1::2]
        return Sold(sum(gone), sum(held), sum(max(0, count - events.seats) for count in held))


class Nowhere:
    """For who sells nothing."""

    def open_events(self, count: int, seats: int) -> Events:
        """Ids are all that is wanted."""
        return Events(1, count, seats)

    def sold(self, _events: Events) -> Sold:
        """Nothing."""
        return Sold(0, 0, 0)


def store_of(servers: Servers, contender: Contender) -> Store:
    """Where a contender's seats are."""
    if contender.store == "onsale":
        return InLedger(servers, contender)
    if contender.store == "postgres":
        return InPostgres(servers, contender)
    return InRedis(servers, contender) if contender.store == "redis" else Nowhere()


def depth(client: redis.Redis) -> int:
    """How many numbers of all outboxes the ledger is not known to have."""
    with client.pipeline(transaction=False) as together:
        for partition in range(PARTITIONS):
            together.hmget(keys.log(partition), ["seq", "acked"])
        return sum(int(seq or 0) - int(acked or 0) for seq, acked in together.execute())
