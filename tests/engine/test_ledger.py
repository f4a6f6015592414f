"""The ledger: what it refuses by name, how it counts, whom it tells, and its kinds of errors."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from engine.errors import LedgerAway, LedgerBroken, LedgerRefuses
from engine.ledger import Ledger
from engine.model import MAX_SEQ, Booking, Number, Status, booking_id
from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.engine.house import House, Shop

BOOK = "INSERT INTO bookings (event_id, user_id) VALUES "
WITH_ID = "INSERT INTO bookings (id, event_id, user_id) VALUES "
END = "INSERT INTO ended_bookings (id, created_at, outcome, entry) VALUES "


async def _events(house: House, *totals: int) -> list[int]:
    statement = "INSERT INTO events (name, total_seats) VALUES ('Чайка', $1) RETURNING id"
    return [(await house.sql(statement, total))[0]["id"] for total in totals]


async def _booked(house: House, *event_ids: int) -> list[int]:
    """What each event says, which must be what its rows say."""
    counted = await house.sql(
        "SELECT id, booked, (SELECT count(*) FROM bookings WHERE event_id = e.id) AS rows "
        "FROM events e WHERE id = ANY($1::int[])",
        event_ids,
    )
    assert all(row["booked"] == row["rows"] for row in counted)
    by_id = {row["id"]: row["booked"] for row in counted}
    return [by_id[event_id] for event_id in event_ids]


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (BOOK + "({full}, 'bob')", "no_overselling"),
        (BOOK + "({one}, 'b'), ({one}, 'c'), ({one}, 'd'), ({one}, 'e')", "no_overselling"),
        ("UPDATE events SET total_seats = 0 WHERE id = {full}", "no_overselling"),
        ("UPDATE events SET booked = -1 WHERE id = {full}", "no_overselling"),
        ("INSERT INTO events (name, total_seats) VALUES ('x', -1)", "no_overselling"),
        (BOOK + "({one}, 'ann')", "one_booking_per_user"),
        (BOOK + "({one}, 'b'), ({one}, 'b')", "one_booking_per_user"),
        (BOOK + "({one}, '')", "user_id_not_empty"),
        (BOOK + "(2147483647, 'ann')", "bookings_event_id_fkey"),
        ("DELETE FROM events WHERE id = {one}", "bookings_event_id_fkey"),
        (WITH_ID + "(0, {one}, 'b')", "id_names_its_epoch"),
        (WITH_ID + "(129, {one}, 'b')", "id_names_its_epoch"),
        (WITH_ID + "((1::bigint << 39) + 127, {one}, 'b')", "id_names_its_epoch"),
        (END + "(1, now(), 'gone', NULL)", "known_outcome"),
        (END + "(1, now(), 'dead', NULL)", "dead_letters_are_whole"),
        (END + "(1, now(), 'cancelled', '{{}}')", "dead_letters_are_whole"),
        ("UPDATE partitions SET mark_epoch = epoch + 1 WHERE p = 100", "mark_not_ahead"),
        ("UPDATE partitions SET epoch = 16384 WHERE p = 100", "partitions_epoch_check"),
    ],
)  # fmt: skip
async def test_constraints_by_name(house: House, statement: str, name: str) -> None:
    """What must never be is refused by whoever writes, and says which promise it would break."""
    full, one = await _events(house, 1, 4)
    await house.sql(BOOK + "($1, 'ann'), ($2, 'ann')", full, one)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        await house.sql(statement.format(full=full, one=one))
    assert refused.value.constraint_name == name
    assert await _booked(house, full, one) == [1, 1]


async def test_counts_whatever_a_hand_does(house: House) -> None:
    """Inserts, deletes and updates of many rows of many events; a move from one to another."""
    first, second, third = await _events(house, 9, 9, 9)
    await house.sql(BOOK + "($1, 'a'), ($1, 'b'), ($2, 'a'), ($2, 'b'), ($2, 'c')", first, second)
    assert await _booked(house, first, second, third) == [2, 3, 0]
    await house.sql("DELETE FROM bookings WHERE event_id IN ($1, $2) AND user_id = 'a'",
                    first, second)  # fmt: skip
    assert await _booked(house, first, second, third) == [1, 2, 0]
    await house.sql("UPDATE bookings SET event_id = $2 WHERE event_id = $1", second, third)
    assert await _booked(house, first, second, third) == [1, 0, 2]
    await house.sql("UPDATE bookings SET user_id = user_id || '!' WHERE event_id = $1", third)
    assert await _booked(house, first, second, third) == [1, 0, 2]


async def test_counts_a_truncate(own_house: House) -> None:
    """All events are empty afterwards."""
    events = await _events(own_house, 9, 9)
    await own_house.sql(BOOK + "($1, 'a'), ($2, 'a')", *events)
    await own_house.sql("TRUNCATE bookings")
    assert await _booked(own_house, *events) == [0, 0]


async def test_rows_by_hand_have_ids_of_their_own(house: House) -> None:
    """Of epoch 0 and partition 127, so that no booking of Redis has one of them."""
    (event_id,) = await _events(house, 9)
    rows = await house.sql(BOOK + "($1, 'a'), ($1, 'b') RETURNING id", event_id)
    assert {row["id"] & 127 for row in rows} == {127}
    assert {Number.of_booking(row["id"]).epoch for row in rows} == {0}


@asynccontextmanager
async def _news(house: House) -> AsyncIterator[list[str]]:
    """What is notified meanwhile."""
    heard: list[str] = []
    connection = await asyncpg.connect(house.settings.postgres_dsn)
    await connection.add_listener("onsale", lambda *args: heard.append(args[3]))
    yield heard
    await house.sql("SELECT pg_notify('onsale', 'end')")

    async def ended() -> bool:
        return "end" in heard

    await world.until(ended)
    heard.remove("end")
    await connection.close()


async def test_tells_of_events(house: House) -> None:
    """Of a new one, of a changed one, of one that is gone; a count that changes is no news."""
    async with _news(house) as heard:
        (event,) = await _events(house, 9)
        await house.sql("UPDATE events SET total_seats = 8 WHERE id = $1", event)
        await house.sql("UPDATE events SET name = 'x' WHERE id = $1", event)
        await house.sql("UPDATE events SET booked = 0 WHERE id = $1", event)
        await house.sql("UPDATE events SET id = id + 500000 WHERE id = $1", event)
        await house.sql("DELETE FROM events WHERE id = $1", event + 500_000)
    moved = event + 500_000
    assert heard[0] == f"new {event}"
    assert heard[1:] == [
        f"event {event} []", f"event {event} []",
        f"event {event} []", f"event {moved} []", f"event {moved} []",
    ]  # fmt: skip


async def test_tells_of_rows(house: House) -> None:
    """One message an event, with its users."""
    first, second = await _events(house, 9, 9)
    async with _news(house) as heard:
        await house.sql(BOOK + "($1, 'a'), ($2, 'b'), ($1, '\"')", first, second)
        await house.sql("DELETE FROM bookings WHERE event_id = $1 AND user_id = 'a'", first)
        await house.sql("UPDATE bookings SET event_id = $1 WHERE event_id = $2", first, second)
    assert sorted(heard[:2]) == [f'event {first} ["a","\\""]', f'event {second} ["b"]']
    assert heard[2] == f'event {first} ["a"]'
    assert sorted(heard[3:]) == [f'event {first} ["b"]', f'event {second} ["b"]']


async def test_tells_of_many_rows_without_their_users(house: House) -> None:
    """A message has 8,000 bytes: more users than that are not named."""
    (event,) = await _events(house, 900)
    async with _news(house) as heard:
        await house.sql(
            "INSERT INTO bookings (event_id, user_id) SELECT $1, 'long name of user ' || n "
            "FROM generate_series(1, 900) n",
            event,
        )
    assert heard == [f"event {event}"]


async def test_tells_of_a_truncate(own_house: House) -> None:
    """Of all events at once."""
    async with _news(own_house) as heard:
        await own_house.sql("TRUNCATE bookings")
    assert heard == ["truncate"]


async def test_does_not_tell_of_its_own(shop: Shop) -> None:
    """What the drain writes, Redis knows already."""
    event_id = await shop.open_event(9)
    await shop.reserve(event_id, "a", "b")
    await shop.cancel(event_id, "a", Number(1, 1))
    async with _news(shop.house) as heard:
        await shop.drain()
    assert heard == []


async def test_hears_until_the_connection_breaks(house: House) -> None:
    """At first that everything may have changed, then each change; then that it hears no more."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(house.ledger.listen(heard.put_nowait))
    assert await heard.get() == "all"
    (event,) = await _events(house, 9)
    assert await heard.get() == f"new {event}"
    await house.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query ~* 'listen' AND pid <> pg_backend_pid()"
    )
    with pytest.raises(LedgerAway):
        await asyncio.wait_for(listening, 15)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", LedgerAway), ("40001", LedgerAway), ("40P01", LedgerAway), ("57P01", LedgerAway),
        ("57014", LedgerAway), ("53300", LedgerAway), ("55P03", LedgerAway), ("25P03", LedgerAway),
        ("22001", LedgerRefuses), ("22021", LedgerRefuses), ("23505", LedgerRefuses),
        ("23514", LedgerRefuses), ("53100", LedgerBroken), ("25006", LedgerBroken),
        ("42P01", LedgerBroken), ("42501", LedgerBroken), ("58030", LedgerBroken),
        ("XX001", LedgerBroken), ("P0001", LedgerBroken),
    ],
)  # fmt: skip
async def test_kinds_of_errors(house: House, state: str, kind: type[Exception]) -> None:
    """To try again, to tell a person, or to set the data aside: each SQLSTATE is one of them."""
    with pytest.raises(LedgerAway if kind is LedgerBroken else kind) as raised:
        async with house.ledger.connection() as connection:
            await connection.execute(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")
    assert raised.type is kind


async def test_ledger_away() -> None:
    """A server that does not answer is away."""
    ledger = Ledger("postgresql://x@127.0.0.1:1/x")
    with pytest.raises(LedgerAway):
        await ledger.partition(1)
    await ledger.close()


async def test_connections_that_the_server_ended(house: House) -> None:
    """A restart of Postgres is an absence, however soon somebody asks; then it works again."""

    async def works() -> bool:
        try:
            return (await house.ledger.partition(1)).partition == 1
        except LedgerAway:
            return False

    await asyncio.gather(*(works() for _ in range(4)))
    await house.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await asyncio.gather(*(works() for _ in range(4)))
    await world.until(works)


async def test_missing_partition(house: House) -> None:
    """A ledger without the partition is broken, and says so."""
    with pytest.raises(LedgerBroken):
        await house.ledger.partition(999)
    with pytest.raises(LedgerBroken):
        async with house.ledger.locked(999):
            pass
    with pytest.raises(LedgerBroken):
        await house.ledger.begin_shift(999, "x")


async def test_nothing_is_written_by_a_transaction_that_fails(shop: Shop) -> None:
    """The mark moves together with the rows, or not at all."""
    mark = await shop.mark()

    async def fail() -> None:
        async with shop.ledger.locked(shop.partition) as locked:
            await locked.set_mark(shop.partition, Number(1, 99))
            await locked.held({(1, "\x00")})

    with pytest.raises(LedgerRefuses):
        await fail()
    assert await shop.mark() == mark


async def test_lock_is_of_one_partition(shop: Shop) -> None:
    """Who holds one keeps nobody from another."""
    async with shop.ledger.locked(shop.partition), shop.ledger.locked(126) as other:
        assert other.row.partition == 126


async def test_lock_waits(shop: Shop) -> None:
    """One at a time."""
    order = []

    async def take(name: str) -> None:
        async with shop.ledger.locked(shop.partition):
            order.append(name)
            await asyncio.sleep(0)
            order.append(name)

    await asyncio.gather(take("a"), take("b"))
    assert order in (["a", "a", "b", "b"], ["b", "b", "a", "a"])


async def test_commits_are_on_disk(house: House) -> None:
    """Whatever the server's default, a 201 survives a crash of Postgres."""
    async with house.ledger.connection() as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"


async def test_reads_a_booking(shop: Shop) -> None:
    """While it is there, and after it ended."""
    event_id = await shop.open_event(9, "ann")
    booking = booking_id(Number(1, 1), shop.partition)
    found = await shop.ledger.booking(booking)
    assert isinstance(found, Booking)
    assert (found.event_id, found.user_id, found.status) == (event_id, "ann", Status.CONFIRMED)
    assert found.event is not None
    assert found.event.total_seats == 9
    await shop.cancel(event_id, "ann", Number(1, 1))
    await shop.drain()
    ended = await shop.ledger.booking(booking)
    assert ended is not None
    assert (ended.status, ended.created_at_ms) == (Status.CANCELLED, found.created_at_ms)
    assert await shop.ledger.booking(booking_id(Number(1, 77), shop.partition)) is None


async def test_fates_of_numbers(shop: Shop) -> None:
    """Beyond the mark: pending. A cancel's number is confirmed as a reserve's is."""
    event_id = await shop.open_event(1, "ann")
    await shop.cancel(event_id, "ann", Number(1, 1))
    await shop.drain()
    numbers = [Number(1, 1), Number(1, 2), Number(1, 3), Number(1, MAX_SEQ), Number(9, 1)]
    fates = await shop.ledger.fates(shop.partition, numbers)
    assert [fates[number].status for number in numbers] == [
        "confirmed", "confirmed", "pending", "pending", "pending",
    ]  # fmt: skip


async def test_statistics(shop: Shop) -> None:
    """What a user has, what he gave back, and when he booked first and last."""
    user = f"fan {shop.partition}"
    other = await shop.open_event(5)
    event_id = await shop.open_event(5, user)
    await shop.cancel(event_id, user, Number(1, 1))
    await shop.reserve(event_id, user)
    await shop.reserve(other, user)
    await shop.drain()
    found = await shop.ledger.user_statistics(user)
    assert (found.active, found.cancelled) == (2, 1)
    assert found.first_at_ms is not None
    assert found.last_at_ms is not None
    assert found.first_at_ms <= found.last_at_ms
    assert (await shop.ledger.user_statistics("nobody"))[1:] == (0, 0, None, None)


async def test_epoch_is_given_out_once(shop: Shop) -> None:
    """By compare-and-set: of two who saw the same epoch, one gets the next."""
    given = await asyncio.gather(*(shop.ledger.advance_epoch(shop.partition, 1) for _ in range(2)))
    assert sorted(given, key=str) == [2, None]
    assert await shop.ledger.advance_epoch(shop.partition, 2) is None  # it is being recovered
    assert await shop.ledger.keep_recovering(shop.partition, 2)
    assert not await shop.ledger.keep_recovering(shop.partition, 1)


async def test_process_that_is_stopped_within_a_statement(shop: Shop) -> None:
    """Its session does not idle, so Postgres lets it keep its locks; we do not."""
    ledger = shop.ledger
    frozen = await asyncpg.connect(
        shop.house.settings.postgres_dsn, server_settings={"application_name": "onsale"}
    )
    await frozen.execute("BEGIN")
    await frozen.execute(f"SELECT lock_partition({shop.partition})")
    await frozen.prepare("SELECT $1::int")  # ends with a Flush, as a process that is stopped
    taking = asyncio.create_task(ledger.begin_shift(shop.partition, "ann's"))
    await world.until(lambda: ledger.end_frozen(older_than_s=0.2))
    await taking
    frozen.terminate()


async def test_process_that_works_is_not_taken_for_stopped(shop: Shop) -> None:
    """Sessions without a transaction, and those that a moment ago did something, stay."""
    async with shop.ledger.locked(shop.partition):
        assert await shop.ledger.end_frozen(older_than_s=10.0) == []
