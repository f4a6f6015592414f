"""The drain's SQL and hands in psql, one after the other: the ledger is what a small book says.

Batches come as they come: cut anywhere, delivered again after a crash, with items that the ledger
can never take. Between them hands insert, delete and truncate rows, change capacities and delete
events. The book takes one item at a time, and knows neither batches nor halving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.drain import Drain
from engine.errors import Fenced, Gap, LedgerRefuses, Superseded
from engine.model import Fate, Item, Number, Status, Word, booking_id
from tests.engine.house import Shop, as_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

    from tests.engine.house import House

Place: TypeAlias = tuple[int, str]

MISSING = 2**31 - 1
LONG = "x" * 256
UNWRITABLE = "a\0b"
AT_MS = 1_763_816_400_000


class Move(NamedTuple):
    """What a caller did: reserve, cancel what is held, or cancel it under an old number.

    ``of`` says which one.
    """

    kind: str
    event: int
    user: str
    of: int


class Batch(NamedTuple):
    """Moves that are drained ``size`` items at a time, after ``again`` that were drained before."""

    moves: list[Move]
    size: int
    again: int


class Hand(NamedTuple):
    """What somebody does in psql."""

    what: str
    event: int
    user: str
    seats: int


class Intruder(NamedTuple):
    """A drain that must be refused."""

    why: type[Exception]


events = st.sampled_from([0, 0, 0, 1, 1, 1, 2])
users = st.sampled_from(["ann", "bob", "cem"])
moves = st.builds(
    Move,
    st.sampled_from(["reserve"] * 4 + ["cancel"] * 3 + ["stale"]),
    events,
    st.sampled_from(["ann", "bob", "cem"] * 5 + [LONG, UNWRITABLE]),
    st.integers(1, 8),
)
batches = st.builds(
    Batch, st.lists(moves, min_size=4, max_size=12), st.integers(1, 12), st.integers(0, 3)
)
hands = st.builds(
    Hand,
    st.sampled_from(
        ["insert"] * 3 + ["delete", "clear"] * 2 + ["total"] * 2 + ["drop", "truncate"]
    ),
    st.integers(0, 1),
    users,
    st.integers(0, 3),
)
intruders = st.builds(Intruder, st.sampled_from([Superseded, Fenced, Gap]))


CANCELLED = ("cancelled", None)
DEAD = ("dead", None)


class Book:
    """What the ledger must hold: seats by event, bookings by place, and what ended how."""

    def __init__(self, totals: dict[int, int]) -> None:
        self.totals = totals
        self.rows: dict[Place, Number] = {}
        self.ended: dict[Number, tuple[str, str | None]] = {}
        self.fates: dict[Number, Fate] = {}  # as they were when the ledger took them

    def booked(self, event: int) -> int:
        """How many seats of an event are taken."""
        return sum(place[0] == event for place in self.rows)

    def take(self, item: Item) -> None:
        """One item."""
        number, place = item.number, (item.event_id, item.user_id)
        self.fates[number] = Fate(Status.CONFIRMED)
        settles = item.booking and self.ended.get(item.booking) == DEAD
        writes_user = item.kind == "reserve" or settles
        if item.user_id == UNWRITABLE or (item.user_id == LONG and writes_user):
            self.fates[number] = Fate(Status.REJECTED, "dead")
            self.ended[number] = DEAD
        elif item.kind == "cancel":
            if item.booking and self.rows.get(place) == item.booking:
                del self.rows[place]
                self.ended[item.booking] = CANCELLED
            elif item.booking and settles:
                self.ended[item.booking] = CANCELLED
        elif word := self._refusal(place):
            self.fates[number] = Fate(Status.REJECTED, word)
            self.ended[number] = ("rejected", word)
        else:
            self.rows[place] = number

    def _refusal(self, place: Place) -> Word | None:
        if place[0] not in self.totals:
            return Word.EVENT_NOT_FOUND
        if place in self.rows:
            return Word.ALREADY_BOOKED
        full = self.booked(place[0]) >= self.totals[place[0]]
        return Word.SOLD_OUT if full else None


class Sale:
    """One sale of a partition, and its book."""

    def __init__(self, shop: Shop, known: list[int], book: Book, mark: Number) -> None:
        self.shop = shop
        self.events = [*known, MISSING]
        self.book = book
        self.mark = mark
        self.log: list[Item] = []

    def items(self, moves: list[Move]) -> Iterator[Item]:
        """The entries that these moves make."""
        for move in moves:
            number = Number(self.mark.epoch, self.mark.seq + len(self.log) + 1)
            place, held = (self.events[move.event], move.user), self.book.rows
            booking = None
            if move.kind != "reserve" and held:
                place = sorted(held)[move.of % len(held)]
                booking = held[place]
            if move.kind == "stale":
                booking = self.mark._replace(seq=self.mark.seq + move.of)
            kind: Literal["reserve", "cancel"] = "cancel" if booking else "reserve"
            self.log.append(Item(number, kind, *place, AT_MS + number.seq // 3, booking))
            yield self.log[-1]

    async def drain(self, batch: Batch) -> None:
        """As shifts do: in pieces, some of which were drained before."""
        first = max(0, len(self.log) - batch.again)
        for item in self.items(batch.moves):  # a cancel names what is held by then
            self.book.take(item)
        for start in range(first, len(self.log), batch.size):
            piece = self.log[start : start + batch.size]
            await self.take(piece, self.shop.shift)

    async def take(self, piece: list[Item], shift: int, epoch: int = 1) -> None:
        """One drain of one batch, and what it says it took."""
        drain = Drain(self.shop.partition, ledger=self.shop.ledger, redis=self.shop.redis)
        mark, entries = await self.shop.mark(), as_entries(piece)
        async for taken in drain._take_entries(entries, mark, epoch=epoch, shift=shift):  # noqa: SLF001 - the subject
            assert taken.after == mark
            mark = taken.to
            said = {rejection.item.number: rejection.word for rejection in taken.rejected}
            numbers = [item.number for item in piece if taken.after < item.number <= taken.to]
            fates = {number: self.book.fates[number] for number in numbers}
            assert said == {n: f.reason for n, f in fates.items() if f.reason not in (None, "dead")}
            dead = [item.number for item in taken.dead]
            assert dead == [n for n, fate in fates.items() if fate.reason == "dead"]
        assert mark >= piece[-1].number

    async def refuse(self, intruder: Intruder) -> None:
        """Who is not in his turn takes nothing."""
        seq = self.mark.seq + len(self.log) + 1
        item = Item(Number(1, seq), "reserve", self.events[0], "ann", AT_MS)
        shift, epoch = self.shop.shift, 1
        if intruder.why is Superseded:
            shift -= 1
        elif intruder.why is Fenced:
            epoch = 2
        else:
            item = item._replace(number=Number(1, seq + 1))
        with pytest.raises(intruder.why):
            await self.take([item], shift, epoch)

    async def by_hand(self, hand: Hand) -> None:
        """Do it, or be refused where the book says so."""
        event, book = self.events[hand.event], self.book
        place, there = (event, hand.user), event in self.book.totals
        match hand.what:
            case "insert":
                free = there and place not in book.rows and book.booked(event) < book.totals[event]
                statement = "INSERT INTO bookings (event_id, user_id) VALUES ($1, $2) RETURNING id"
                if rows := await self.sql(statement, event, hand.user, allowed=free):
                    book.rows[place] = Number.of_booking(rows[0]["id"])
            case "delete":
                place = min(book.rows, default=place)
                statement = "DELETE FROM bookings WHERE event_id = $1 AND user_id = $2"
                await self.sql(statement, *place)
                book.rows.pop(place, None)
            case "clear":
                await self.sql("DELETE FROM bookings WHERE event_id = $1", event)
                book.rows = {at: number for at, number in book.rows.items() if at[0] != event}
            case "total":
                enough = book.booked(event) <= hand.seats
                statement = "UPDATE events SET total_seats = $2 WHERE id = $1"
                await self.sql(statement, event, hand.seats, allowed=enough or not there)
                if there and enough:
                    book.totals[event] = hand.seats
            case "drop":
                empty = book.booked(event) == 0
                await self.sql("DELETE FROM events WHERE id = $1", event, allowed=empty)
                if empty:
                    book.totals.pop(event, None)
            case _:
                await self.sql("TRUNCATE bookings")
                book.rows.clear()

    async def sql(
        self, statement: str, *args: object, allowed: bool = True
    ) -> list[asyncpg.Record]:
        """A person's statement."""
        try:
            async with self.shop.ledger.connection() as connection:
                rows: list[asyncpg.Record] = await connection.fetch(statement, *args)
        except LedgerRefuses:
            assert not allowed
            return []
        assert allowed
        return rows

    async def agree(self) -> None:
        """The ledger is what the book says."""
        known, book, partition = self.events[:2], self.book, self.shop.partition
        rows = await self.sql(
            "SELECT event_id, user_id, id FROM bookings WHERE event_id = ANY($1)", known
        )
        found = {(row["event_id"], row["user_id"]): row["id"] for row in rows}
        assert found == {place: booking_id(n, partition) for place, n in book.rows.items()}
        seats = await self.sql(
            "SELECT id, total_seats, booked FROM events WHERE id = ANY($1)", known
        )
        assert {tuple(row) for row in seats} == {
            (event, total, book.booked(event)) for event, total in book.totals.items()
        }
        assert await self.ended() == {
            booking_id(number, partition): end for number, end in book.ended.items()
        }
        assert await self.shop.mark() == Number(1, self.mark.seq + len(self.log))
        fates = await self.shop.ledger.fates(partition, list(book.fates))
        assert {n: fate.status for n, fate in fates.items()} == {
            n: Status.CONFIRMED if book.ended.get(n) == CANCELLED else fate.status
            for n, fate in book.fates.items()
        }

    async def ended(self) -> dict[int, tuple[str, str | None]]:
        """Outcome and reason of what ended; Postgres says in its own words why one is dead."""
        ids = [booking_id(item.number, self.shop.partition) for item in self.log]
        by_hand = [booking_id(n, 0) for n in self.book.ended if n.epoch == 0]
        rows = await self.sql(
            "SELECT id, outcome, reason FROM ended_bookings WHERE id = ANY($1)", ids + by_hand
        )
        return {
            row["id"]: (row["outcome"], None if row["outcome"] == "dead" else row["reason"])
            for row in rows
        }


@pytest.fixture(scope="module")
async def shop(house: House) -> Shop:
    """A partition whose numbers go on from story to story."""
    return await Shop(house, 0).open()


# A cancel of what is set aside, by a user whom the ledger cannot name, is set aside itself.
UNNAMEABLE = [Batch([Move("reserve", 0, LONG, 1), Move("stale", 0, LONG, 1)], size=1, again=0)]


@example(totals=[0, 0], story=UNNAMEABLE)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    totals=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    story=st.lists(batches | batches | hands | hands | intruders, min_size=3, max_size=10),
)
async def test_the_ledger_is_what_the_book_says(
    shop: Shop, totals: list[int], story: list[Batch | Hand | Intruder]
) -> None:
    """Rows, seats, outcomes, fates and mark, after every step."""
    known = [await shop.insert_event(total) for total in totals]
    book = Book(dict(zip(known, totals, strict=True)))
    sale = Sale(shop, known, book, await shop.mark())
    for step in story:
        if isinstance(step, Batch):
            await sale.drain(step)
        elif isinstance(step, Hand):
            await sale.by_hand(step)
        else:
            await sale.refuse(step)
        await sale.agree()
