"""The ledger: Postgres, and every statement that onsale sends to it.

The statements are in ``sql/queries.sql``, by name. Errors of Postgres leave here as three kinds:

- ``LedgerAway``: connection, deadlock, serialization. The same thing may be tried again.
- ``LedgerBroken`` (a kind of ``LedgerAway``): disk full, read-only, a missing table. It may be
  tried again too, but a person must be told.
- ``LedgerRefuses``: the data cannot be written (SQLSTATE classes 22 and 23).
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from engine import metrics
from engine.errors import LedgerAway, LedgerBroken, LedgerRefuses
from engine.model import (
    MAX_EVENT_ID,
    Booking,
    Event,
    Fate,
    Item,
    Number,
    Place,
    Status,
    UserStatistics,
    Window,
    booking_id,
)
from engine.ruling import Seats
from engine.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence

    from engine.model import Bound, NewEvent, Reserves
    from engine.ruling import Plain, Ruling

SQL: Final = Path(__file__).parent / "sql"
SESSIONS: Final = 9
"""A process has at most so many: eight to ask, and the one that listens."""
ACQUIRE_S: Final = 2.0
COMMAND_S: Final = 10.0
LISTEN_CHECK_S: Final = 5.0
MARK_POLL_S: Final = 0.01

_SESSION: Final = {
    "application_name": "onsale",
    # What was answered 201 must survive a crash of Postgres, whatever the server's default.
    "synchronous_commit": "on",
    # A worker that was stopped (SIGSTOP, a frozen host) must not keep its locks.
    "idle_in_transaction_session_timeout": "5s",
    # A plan made while a table was nearly empty would stay a sequential scan as it grows.
    "enable_seqscan": "off",
    "jit": "off",
    # To count a million rows with all cores would take them from the sale.
    "max_parallel_workers_per_gather": "0",
}
# The server ends the session, or is not ready, or chose us as a deadlock's victim.
_TRY_AGAIN: Final = ("08", "40", "57", "53300", "55P03", "25P03")
_NOT_OURS: Final = ("22", "23")


def _named(text: str) -> dict[str, str]:
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


QUERY: Final = _named((SQL / "queries.sql").read_text(encoding="utf-8"))


class PartitionRow(NamedTuple):
    """A partition as the ledger has it; ``stale`` says that a recovery stands still."""

    partition: int
    epoch: int
    recovering: bool
    mark: Number
    shift: int
    stale: bool


class LedgerRow(NamedTuple):
    """A row of ``bookings`` in the words of Redis: the number is ``epoch-seq``."""

    user_id: str
    number: str


class Letter(NamedTuple):
    """A dead letter: its booking's id, when it was set aside (Unix ms), and the entry as JSON."""

    id: int
    set_aside_at_ms: int
    event_id: int | None
    reason: str
    entry: str


class KeyRow(NamedTuple):
    """A service key: its name, the SHA-256 of it, what it is for, when it was made (Unix ms)."""

    name: str
    digest: bytes
    scopes: tuple[str, ...]
    created_at_ms: int


class Ledger:
    """What Postgres has, and a few sessions to ask it."""

    def __init__(self, dsn: str, *, connections: int = 8, command_s: float = COMMAND_S) -> None:
        self._dsn = dsn
        self._sessions = Sessions(
            partial(_connect, dsn, command_s), most=connections, wait_s=ACQUIRE_S
        )

    async def close(self) -> None:
        """Give the sessions back."""
        self._sessions.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A session of our own for a while, with errors in onsale's words."""
        with _in_our_words():
            async with self._sessions.one() as session:
                yield session

    async def _fetch(self, name: str, *args: Any) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(QUERY[name], *args)
            return rows

    async def _fetchrow(self, name: str, *args: Any) -> asyncpg.Record | None:
        async with self.connection() as connection:
            return await connection.fetchrow(QUERY[name], *args)

    # Partitions and epochs

    async def partitions(self) -> list[PartitionRow]:
        """Every partition, in order."""
        return [_partition(row) for row in await self._fetch("partitions")]

    async def partition(self, partition: int) -> PartitionRow:
        """One partition."""
        row = await self._fetchrow("partition", partition)
        if row is None:
            raise LedgerBroken(f"the ledger has no partition {partition}")
        return _partition(row)

    async def holders(self) -> dict[int, str]:
        """Who began each partition's last shift: host and process."""
        return {row["p"]: row["holder"] for row in await self._fetch("holders")}

    async def most_recoveries(self) -> int:
        """How often the partition was recovered in the last hour that was recovered most."""
        (row,) = await self._fetch("most_recoveries")
        most: int = row["most"]
        return most

    async def mark_reaches(self, partition: int, number: Number) -> None:
        """Wait until the ledger has taken a number; the caller bounds the wait."""
        while (await self.partition(partition)).mark < number:  # noqa: ASYNC110 - in Postgres
            await asyncio.sleep(MARK_POLL_S)

    async def begin_shift(self, partition: int, holder: str) -> int:
        """Take the turn to drain a partition from whoever has it; answers the shift's number."""
        row = await self._fetchrow("begin_shift", partition, holder)
        if row is None:
            raise LedgerBroken(f"the ledger has no partition {partition}")
        number: int = row["shift"]
        return number

    async def end_frozen(self, *, older_than_s: float) -> list[int]:
        """End our sessions whose process left them in a transaction; answers their pids.

        Postgres does that itself where a session *idles* in its transaction. One whose process was
        stopped between the messages of one statement (asyncpg prepares with a Flush, not a Sync)
        does not idle, and would keep its locks for as long as the process is stopped.
        """
        return [row["pid"] for row in await self._fetch("end_frozen", older_than_s)]

    async def advance_epoch(self, partition: int, epoch: int) -> int | None:
        """Begin a recovery: the new epoch; None if somebody else began one, or there were many."""
        row = await self._fetchrow("advance_epoch", partition, epoch)
        return row["epoch"] if row else None

    async def keep_recovering(self, partition: int, epoch: int) -> bool:
        """Say that a recovery goes on; False if a later one began."""
        return await self._fetchrow("keep_recovering", partition, epoch) is not None

    async def give_up_recovering(self, partition: int, epoch: int) -> None:
        """Say that a recovery failed, so that the next one may begin in a moment."""
        await self._fetch("give_up_recovering", partition, epoch)

    # Reads

    async def event(self, event_id: int) -> tuple[Event, int] | None:
        """An event and how many of its seats are booked."""
        row = await self._fetchrow("event", event_id)
        return (_event(row, row["id"]), row["booked"]) if row else None

    async def events_after(self, event_id: int, limit: int) -> list[tuple[Event, int]]:
        """A page of the events in the order of their ids, each with how many seats are booked."""
        rows = await self._fetch("events_after", event_id, limit)
        return [(_event(row, row["id"]), row["booked"]) for row in rows]

    async def busiest(self, limit: int) -> tuple[list[tuple[Event, int]], int]:
        """The events with the most bookings, each with how many; and how many events there are."""
        rows = await self._fetch("busiest_events", limit)
        found = [(_event(row, row["id"]), row["booked"]) for row in rows]
        return found, rows[0]["total"] if rows else 0

    async def event_ids(self) -> list[int]:
        """Every event's id, in order."""
        return [row["id"] for row in await self._fetch("event_ids")]

    async def booking(self, booking: int) -> Booking | None:
        """A booking that the ledger has or had, with its event if it is confirmed."""
        row = await self._fetchrow("booking", booking)
        if row is not None:
            return Booking(
                booking,
                row["event_id"],
                row["user_id"],
                _ms(row["created_at"]),
                Status.CONFIRMED,
                event=_event(row, row["event_id"]),
            )
        row = await self._fetchrow("ended_booking", booking)
        if row is None:
            return None
        status = Status.CANCELLED if row["outcome"] == "cancelled" else Status.REJECTED
        return Booking(
            booking,
            row["event_id"] or 0,
            row["user_id"] or "",
            _ms(row["created_at"]),
            status,
            row["reason"],
        )

    async def user_bookings(
        self, user_id: str, after: Place | None, limit: int
    ) -> list[tuple[Booking, Place]]:
        """A page of what a user has and had, the newest first, each with its place."""
        at_us, booking = after or (None, None)
        rows = await self._fetch("user_bookings", user_id, at_us, booking, limit)
        return [(_of_user(row, user_id), Place(row["at_us"], row["id"])) for row in rows]

    async def event_bookings(self, event_id: int, user_id: str, limit: int) -> list[Booking]:
        """A page of an event's bookings after a user, in the order of users."""
        rows = await self._fetch("event_bookings", event_id, user_id, limit)
        return [
            Booking(row["id"], event_id, row["user_id"], _ms(row["created_at"]), Status.CONFIRMED)
            for row in rows
        ]

    async def create_events(self, wanted: Sequence[NewEvent]) -> list[Event]:
        """Make events, all or none; in the same order."""
        names, seats, windows = zip(*wanted, strict=True)
        opens = [_time_or_none(window.opens_ms) for window in windows]
        closes = [_time_or_none(window.closes_ms) for window in windows]
        rows = await self._fetch("create_events", names, seats, opens, closes)
        return [_event(row, row["id"]) for row in rows]

    async def change_event(
        self, event_id: int, name: str | None, total_seats: int | None, opens: Bound, closes: Bound
    ) -> tuple[Event, int] | None:
        """Change an event; or leave it, if it is not there, or cannot be so."""
        bounds: list[object] = []
        for bound in (opens, closes):
            bounds += (False, None) if bound == "keep" else (True, _time_or_none(bound))
        row = await self._fetchrow("change_event", event_id, name, total_seats, *bounds)
        return (_event(row, row["id"]), row["booked"]) if row else None

    async def fates(self, partition: int, numbers: Collection[Number]) -> dict[Number, Fate]:
        """What became of a partition's numbers; ``confirmed`` also means a cancel was taken."""
        by_id = {booking_id(number, partition): number for number in numbers}
        rows = await self._fetch(
            "fates",
            partition,
            list(by_id),
            [number.epoch for number in by_id.values()],
            [number.seq for number in by_id.values()],
        )
        return {by_id[row["id"]]: Fate(Status(row["status"]), row["reason"]) for row in rows}

    async def user_statistics(self, user_id: str) -> UserStatistics:
        """How many bookings a user has and had, and when he made the first and the last."""
        row = await self._fetchrow("user_statistics", user_id)
        assert row is not None  # noqa: S101 - an aggregate has one row
        first, last = row["first_at"], row["last_at"]
        return UserStatistics(
            user_id,
            row["active"],
            row["cancelled"],
            _ms(first) if first else None,
            _ms(last) if last else None,
        )

    async def bookings_after(self, event_id: int, user_id: str, limit: int) -> list[LedgerRow]:
        """A page of an event's bookings, in the order of users."""
        rows = await self._fetch("event_bookings_after", event_id, user_id, limit)
        return [LedgerRow(*row) for row in rows]

    async def held_with_mark(
        self, partition: int, event_id: int, users: Sequence[str]
    ) -> tuple[Number, dict[str, Number]]:
        """The mark and these users' rows, both of one instant."""
        rows = await self._fetch("held_with_mark", partition, event_id, list(users))
        mark = Number(rows[0]["mark_epoch"], rows[0]["mark_seq"])
        return mark, {row["user_id"]: Number.of_booking(row["id"]) for row in rows if row["id"]}

    async def count(self, event_id: int) -> tuple[int, int]:
        """How many of its seats an event says are booked, and how many rows it has."""
        async with self.connection() as connection:
            return await _count(connection, event_id)

    async def mend_count(self, event_id: int) -> tuple[int, int]:
        """Correct an event's count by as much as it is off; what it was, and how many rows it has.

        Sales go on meanwhile, since to count a million rows takes a while. What they change, they
        change in both numbers alike; two who correct at once would do it twice, hence their lock.
        """
        async with self.connection() as connection, connection.transaction():
            await connection.execute(QUERY["lock_count"], event_id)
            booked, count = await _count(connection, event_id)
            if booked != count:
                await connection.execute(QUERY["add_booked"], event_id, count - booked)
        return booked, count

    async def booked_with_mark(self, partition: int, event_id: int) -> tuple[Number, int] | None:
        """The mark, and how many seats of an event are booked, both of one instant."""
        row = await self._fetchrow("booked_with_mark", partition, event_id)
        return (Number(row["mark_epoch"], row["mark_seq"]), row["booked"]) if row else None

    async def letters(self, limit: int) -> tuple[list[Letter], int]:
        """The newest dead letters, at most ``limit`` (from 1), and how many there are in all."""
        rows = await self._fetch("dead_letters", limit)
        return [_letter(row) for row in rows], rows[0]["total"] if rows else 0

    async def letters_waiting(self) -> int:
        """How many dead letters there are."""
        (row,) = await self._fetch("count_dead_letters")
        waiting: int = row["count"]
        return waiting

    async def letter_ids(self) -> list[int]:
        """Every dead letter's id, in the order in which they were set aside."""
        return [row["id"] for row in await self._fetch("dead_letter_ids")]

    async def letter(self, booking: int) -> Letter | None:
        """One dead letter."""
        row = await self._fetchrow("dead_letter", booking)
        return _letter(row) if row else None

    @asynccontextmanager
    async def discarded(self, booking: int) -> AsyncIterator[Letter | None]:
        """A transaction that makes a dead letter a rejected booking; it commits at its end.

        Gives the letter as it was, or None where there is none.
        """
        async with self.connection() as connection, connection.transaction():
            row = await connection.fetchrow(QUERY["discard_dead_letter"], booking)
            yield _letter(row) if row else None

    # Service keys

    async def keys(self) -> list[KeyRow]:
        """Every service key, by name."""
        return [
            KeyRow(row["name"], row["digest"], tuple(row["scopes"]), _ms(row["created_at"]))
            for row in await self._fetch("service_keys")
        ]

    async def insert_key(self, name: str, digest: bytes, scopes: Sequence[str]) -> bool:
        """Keep a service key; False if its name is taken."""
        return await self._fetchrow("insert_key", name, digest, list(scopes)) is not None

    async def delete_key(self, name: str) -> bool:
        """Forget a service key; False if there is none of that name."""
        return await self._fetchrow("delete_key", name) is not None

    # News

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Hear of changes by hand until the connection breaks.

        What is heard: ``new E`` (an event was made), ``event E`` (it, or bookings of it, changed),
        ``event E [users…]`` (these bookings of it changed), ``truncate``, ``keys`` (the service
        keys changed), ``all``. The first is ``all``, since something may have been missed.

        Raises:
            LedgerAway: the connection broke.
        """
        with _in_our_words():
            connection = await _connect(self._dsn, COMMAND_S)
            closed = asyncio.Event()
            connection.add_termination_listener(lambda _: closed.set())
            try:
                await connection.add_listener("onsale", lambda *args: heard(args[3]))
                heard("all")
                while not closed.is_set():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(closed.wait(), LISTEN_CHECK_S)
                    await connection.execute("SELECT 1")
            finally:
                connection.terminate()

    # The drain's plain cases

    async def take_reserves(self, partition: int, shift: int, batch: Reserves) -> bool:
        """Take reserves, all or none, in one statement.

        False if the partition is not at ``batch.after``, or not this shift's: nothing was written.

        Raises:
            LedgerRefuses: one of them cannot be written, whichever it is; nothing was.
            LedgerAway: nothing was written, or the answer was lost.
        """
        sold = sorted(batch.seats)
        row = await self._fetchrow(
            "take_reserves",
            *(partition, batch.after.epoch, shift, batch.after.seq),
            *(sold, [batch.seats[event_id] for event_id in sold]),
            *(batch.event_ids, batch.users, batch.at_ms),
        )
        return row is not None and row["take_reserves"]

    async def take(
        self, partition: int, shift: int, after: Number, to: Number, batch: Plain
    ) -> bool:
        """Take the entries from ``after`` to a number, all or none, in one statement.

        False if the partition is not at ``after``, or not this shift's: nothing was written.

        Raises:
            LedgerRefuses: an item cannot be written, whichever it is; nothing was.
            LedgerAway: nothing was written, or the answer was lost.
        """
        row = await self._fetchrow(
            "take_entries",
            *(partition, after.epoch, shift, after.seq, to.seq),
            *(column for rows in batch for column in _columns(rows)),
        )
        return row is not None and row["take_entries"]

    # Under the lock

    @asynccontextmanager
    async def locked(self, partition: int) -> AsyncIterator[Locked]:
        """A transaction that holds a partition: nothing of it is drained meanwhile.

        Raises:
            LedgerRefuses: the data cannot be written; nothing was.
            LedgerAway: nothing was written, or the answer to the commit was lost.
        """
        async with self.connection() as connection, connection.transaction():
            row = await connection.fetchrow(QUERY["lock_partition"], partition)
            if row["p"] is None:
                raise LedgerBroken(f"the ledger has no partition {partition}")
            yield Locked(connection, _partition(row))


class Locked:
    """What can be done while a partition is locked."""

    def __init__(self, connection: asyncpg.Connection, row: PartitionRow) -> None:
        self._connection = connection
        self.row = row

    async def seats(self, event_ids: Collection[int]) -> dict[int, Seats]:
        """Lock events, in the order of their ids, and read their seats."""
        rows = await self._connection.fetch(QUERY["lock_events"], sorted(event_ids))
        return {row["id"]: Seats(row["total_seats"], row["booked"]) for row in rows}

    async def held(self, places: Collection[tuple[int, str]]) -> dict[tuple[int, str], int]:
        """Which of these users (event id, user) have a row, and its id."""
        events, users = zip(*places, strict=True)
        rows = await self._connection.fetch(QUERY["held"], events, users)
        return {(row["event_id"], row["user_id"]): row["id"] for row in rows}

    async def write(self, ruling: Ruling, partition: int) -> list[int]:
        """Write a ruling: first what ends, so that its seats are free for what begins.

        Answers the dead letters that are none any more: their callers have given them back.
        """
        execute = self._connection.execute
        if ruling.ended:
            ended_at = [_time(cancel.at_ms) for cancel in ruling.ended.values()]
            await execute(QUERY["end_held"], list(ruling.ended), ended_at)
        if ruling.inserted:
            await execute(QUERY["insert_bookings"], *_columns(ruling.inserted))
        ended: list[tuple[int, Item, str, str | None]] = [
            (booking, item, "cancelled", None) for booking, item in ruling.passed.items()
        ]
        ended += [
            (booking_id(item.number, partition), item, "rejected", str(word))
            for item, word, _ in ruling.rejected
        ]
        if ended:
            bookings, items_, outcomes, reasons = zip(*ended, strict=True)
            await execute(
                QUERY["insert_ended"],
                bookings,
                [item.event_id for item in items_],
                [item.user_id for item in items_],
                [_time(item.at_ms) for item in items_],
                outcomes,
                reasons,
            )
        if not ruling.void:
            return []
        users = [cancel.user_id for cancel in ruling.void.values()]
        rows = await self._connection.fetch(QUERY["cancel_dead_letters"], list(ruling.void), users)
        return [row["id"] for row in rows]

    async def set_aside(self, item: Item, reason: str, *, entry: str, booking: int | None) -> None:
        """Write a dead letter. ``booking`` is its id, or None to be given one."""
        await self._connection.execute(
            QUERY["insert_dead"],
            booking,
            item.event_id if 0 < item.event_id <= MAX_EVENT_ID else None,
            None,  # the user may be what cannot be written; he is in the entry
            datetime.now(UTC),
            reason,
            entry,
        )

    async def lock_letter(self, booking: int) -> bool:
        """Lock a dead letter; False if it is none any more."""
        return await self._connection.fetchrow(QUERY["lock_dead_letter"], booking) is not None

    async def remove_letter(self, booking: int) -> None:
        """Make room for what a dead letter becomes."""
        await self._connection.execute(QUERY["delete_dead_letter"], booking)

    async def note_gap(self, partition: int, epoch: int, first_seq: int, last_seq: int) -> None:
        """Remember numbers that disappeared from the outbox."""
        await self._connection.execute(QUERY["insert_gap"], partition, epoch, first_seq, last_seq)

    async def set_mark(self, partition: int, mark: Number) -> None:
        """Say how far the ledger has taken the outbox."""
        await self._connection.execute(QUERY["set_mark"], partition, *mark)

    async def close_epoch(self, partition: int, last: Number) -> None:
        """Say that an epoch ended with this number: the outbox goes on with a later one."""
        await self._connection.execute(QUERY["close_epoch"], partition, *last)

    async def open_epoch(self, partition: int, epoch: int, mark: Number) -> None:
        """End a recovery: close the older epochs at the mark, and begin the new one."""
        await self._connection.execute(QUERY["close_epochs"], partition, *mark)
        await self._connection.execute(QUERY["open_epoch"], partition, epoch)
        await self._connection.execute(QUERY["open_partition"], partition, epoch)

    async def event(self, event_id: int) -> Event | None:
        """Lock an event, and read it."""
        row = await self._connection.fetchrow(QUERY["lock_event"], event_id)
        return _event(row, row["id"]) if row else None


async def _connect(dsn: str, command_s: float) -> asyncpg.Connection:
    return await asyncpg.connect(
        dsn, timeout=ACQUIRE_S, command_timeout=command_s, server_settings=_SESSION
    )


async def _count(connection: asyncpg.Connection, event_id: int) -> tuple[int, int]:
    row = await connection.fetchrow(QUERY["count_bookings"], event_id)
    return (row["booked"], row["count"]) if row else (0, 0)


def _partition(row: asyncpg.Record) -> PartitionRow:
    return PartitionRow(
        row["p"],
        row["epoch"],
        row["state"] == "recovering",
        Number(row["mark_epoch"], row["mark_seq"]),
        row["shift"],
        row["stale"],
    )


def _of_user(row: asyncpg.Record, user_id: str) -> Booking:
    event_id, ended_at = row["event_id"] or 0, row["ended_at"]
    return Booking(
        row["id"],
        event_id,
        user_id,
        _ms(row["created_at"]),
        Status(row["outcome"]),
        row["reason"],
        _event(row, event_id) if row["name"] is not None else None,
        _ms(ended_at) if ended_at else None,
    )


def _event(row: asyncpg.Record, event_id: int) -> Event:
    opens, closes = row["opens_at"], row["closes_at"]
    window = Window(opens and _ms(opens), closes and _ms(closes))
    return Event(event_id, row["name"], row["total_seats"], window)


def _letter(row: asyncpg.Record) -> Letter:
    return Letter(
        row["id"], _ms(row["ended_at"]), row["event_id"], row["reason"] or "", row["entry"]
    )


def _columns(rows: dict[int, Item]) -> tuple[list[Any], ...]:
    """Rows as the statements take them: ids, event ids, users, times."""
    items = rows.values()
    events, users = [item.event_id for item in items], [item.user_id for item in items]
    return list(rows), events, users, [_time(item.at_ms) for item in items]


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _time_or_none(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else _time(at_ms)


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Errors of asyncpg become onsale's."""
    try:
        yield
    except (
        asyncpg.PostgresError
    ) as error:  # asyncpg raises class 22 itself for what it can't encode
        state = error.sqlstate or ""
        if state.startswith(_NOT_OURS):
            raise LedgerRefuses(f"{state}: {error}") from error
        metrics.LEDGER_ERRORS.inc()
        if state.startswith(_TRY_AGAIN):
            raise LedgerAway(f"{state}: {error}") from error
        raise LedgerBroken(f"{state}: {error}") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        metrics.LEDGER_ERRORS.inc()
        raise LedgerAway(f"Postgres does not answer: {error!r}") from error
