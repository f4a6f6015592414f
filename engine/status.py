"""How a sale stands: each partition's outbox and shift, and the busiest events."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine import keys
from engine.errors import REDIS_ERRORS, Fenced, RedisAway
from engine.outbox import Outbox
from engine.reconcile import Reconciliation
from engine.scripts import Scripts, look_reply

if TYPE_CHECKING:
    from engine.ledger import PartitionRow
    from engine.model import Event
    from engine.recovery import Stores
    from engine.scripts import Look


class PartitionStatus(NamedTuple):
    """A partition; ``worked`` says whether a worker of its holder's host is alive."""

    partition: int
    epoch: int
    state: str
    depth: int
    lag_seconds: float
    shift: int
    holder: str
    worked: bool


class EventStatus(NamedTuple):
    """An event: sold says the ledger; left says Redis, or the ledger too where it is cold.

    ``drift`` has the kinds of differences that a quick check finds.
    """

    id: int
    name: str
    total_seats: int
    sold: int
    left: int
    source: str
    drift: list[str]


class Status(NamedTuple):
    """All of it; ``events`` are the busiest of ``event_count``."""

    partitions: list[PartitionStatus]
    events: list[EventStatus]
    event_count: int


async def status(stores: Stores, *, events: int) -> Status:
    """Look, and change nothing. At most ``events`` of them, the most booked first.

    Raises:
        LedgerAway, RedisAway: a store does not answer.
    """
    rows = await stores.ledger.partitions()
    holders = await stores.ledger.holders()
    try:
        partitions = [await _partition(stores, row, holders[row.partition]) for row in rows]
        busiest, count = await stores.ledger.busiest(events)
        by_number = {row.partition: row for row in rows}
        found = [
            await _event(stores, by_number[event.id % len(rows)], event, booked)
            for event, booked in busiest
        ]
    except REDIS_ERRORS as error:
        raise RedisAway(f"Redis does not answer: {error}") from error
    return Status(partitions, found, count)


async def _partition(stores: Stores, row: PartitionRow, holder: str) -> PartitionStatus:
    depth, lag_seconds = await Outbox(stores.redis, row.partition).debt(row.mark)
    host = holder.rpartition(":")[0]
    return PartitionStatus(
        row.partition,
        row.epoch,
        "recovering" if row.recovering else "open",
        depth,
        round(lag_seconds, 3),
        row.shift,
        holder,
        bool(host and await stores.redis.exists(keys.worker(host))),
    )


async def _event(stores: Stores, row: PartitionRow, event: Event, booked: int) -> EventStatus:
    scripts = Scripts(row.partition, row.epoch)
    look: Look | None = None
    drift: list[str] = []
    try:
        look = look_reply(await scripts.call(stores.redis, scripts.look(event.id)))
        checking = Reconciliation(stores.ledger, stores.redis, scripts)
        checked = await checking.event(event.id, dry_run=True, full=False)
        drift = sorted({each.kind for each in checked.drift})
    except Fenced:
        drift = ["fenced"] if row.epoch and not row.recovering else []
    left, source = (look.left, "redis") if look else (event.total_seats - booked, "ledger")
    return EventStatus(event.id, event.name, event.total_seats, booked, left, source, drift)
