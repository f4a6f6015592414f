"""Postgres alone, micro-batched: our strongest peer.

Requests gather while a statement runs; one statement then decides and books the whole batch, and
its commit answers all of them. Built as if it were our product:

- Ids come in blocks from a sequence, so that nothing has to be sent back but how many rows went
  in. As many as were sent: each has his seat, under the id that he was sent with.
- Fewer: somebody holds a seat already, or an event has too few left for its part of the batch. One
  look tells who. What is still open then goes through a statement that fills an event's last seats.
- An event that was found full is remembered, and who asks for it goes straight to the look, on a
  connection of its own and without a commit. The look sees at once when a seat came back.
- A batch that follows one of refusals begins with that look: without a commit.
- Events are locked in the order of their ids before anything else, so that several such processes
  cannot deadlock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from bench.contenders.face import Away, ExpressPeer, Face, Seats, Verdict
from bench.contenders.gather import Gather
from bench.contenders.postgres import TABLES, connect
from bench.contenders.serve import serve
from engine.model import Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model import Sink

BLOCK: Final = 100_000
MAX_BATCH: Final = 1000
MAX_PASSES: Final = 8

SCHEMA: Final = f"{TABLES}\nCREATE SEQUENCE blocks INCREMENT {BLOCK};\n"

NEXT_BLOCK = "SELECT nextval('blocks')"

BOOK_ONE = """
WITH event AS MATERIALIZED (
    SELECT id FROM events WHERE id = $1 AND total_seats - booked >= cardinality($2::bigint[])
    FOR NO KEY UPDATE
), taken AS (
    INSERT INTO bookings (id, event_id, user_id)
    SELECT a.id, event.id, a.user_id
    FROM event CROSS JOIN unnest($2::bigint[], $3::text[]) AS a (id, user_id)
    ON CONFLICT (event_id, user_id) DO NOTHING RETURNING 1
), counted AS (
    UPDATE events SET booked = booked + (SELECT count(*) FROM taken)
    WHERE id = (SELECT id FROM event)
)
SELECT count(*), (extract(epoch FROM now()) * 1000)::bigint FROM taken
"""

BOOK_MANY = """
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[]) AS a (event_id, id, user_id)
), wanted AS MATERIALIZED (
    SELECT event_id, count(*) AS count FROM asked GROUP BY event_id
), roomy AS MATERIALIZED (
    SELECT e.id FROM events e JOIN wanted w ON w.event_id = e.id
    WHERE e.total_seats - e.booked >= w.count ORDER BY e.id FOR NO KEY UPDATE OF e
), taken AS (
    INSERT INTO bookings (id, event_id, user_id)
    SELECT a.id, a.event_id, a.user_id FROM asked a JOIN roomy ON roomy.id = a.event_id
    ON CONFLICT (event_id, user_id) DO NOTHING RETURNING event_id
), counted AS (
    UPDATE events e SET booked = e.booked + t.count
    FROM (SELECT event_id, count(*) FROM taken GROUP BY event_id) t WHERE e.id = t.event_id
)
SELECT count(*), (extract(epoch FROM now()) * 1000)::bigint FROM taken
"""

FILL = """
WITH event AS MATERIALIZED (
    SELECT id, total_seats - booked AS seats FROM events WHERE id = $1 FOR NO KEY UPDATE
), fresh AS (
    SELECT a.id, a.user_id, row_number() OVER (ORDER BY n) AS place
    FROM unnest($2::bigint[], $3::text[]) WITH ORDINALITY AS a (id, user_id, n)
    WHERE NOT EXISTS (SELECT FROM bookings b WHERE b.event_id = $1 AND b.user_id = a.user_id)
), taken AS (
    INSERT INTO bookings (id, event_id, user_id)
    SELECT fresh.id, event.id, user_id FROM event CROSS JOIN fresh WHERE place <= seats
    ON CONFLICT (event_id, user_id) DO NOTHING RETURNING 1
), counted AS (
    UPDATE events SET booked = booked + (SELECT count(*) FROM taken)
    WHERE id = (SELECT id FROM event)
)
SELECT count(*), (extract(epoch FROM now()) * 1000)::bigint FROM taken
"""

LOOK = """
SELECT e.total_seats - e.booked, b.id
FROM unnest($1::int[], $2::text[]) WITH ORDINALITY AS a (event_id, user_id, n)
LEFT JOIN events e ON e.id = a.event_id
LEFT JOIN bookings b ON b.event_id = a.event_id AND b.user_id = a.user_id
ORDER BY n
"""

CANCEL = """
WITH event AS MATERIALIZED (
    SELECT id FROM events
    WHERE id IN (SELECT event_id FROM bookings WHERE id = ANY($1::bigint[]))
    ORDER BY id FOR NO KEY UPDATE
), gone AS (
    DELETE FROM bookings b USING event WHERE b.id = ANY($1::bigint[]) AND b.event_id = event.id
    RETURNING b.id, event_id
), counted AS (
    UPDATE events e SET booked = e.booked - t.count
    FROM (SELECT event_id, count(*) FROM gone GROUP BY event_id) t WHERE e.id = t.event_id
)
SELECT id FROM gone
"""

SEATS = "SELECT id, total_seats, total_seats - booked FROM events WHERE id = ANY($1::int[])"


class Ask(NamedTuple):
    """Somebody who wants a seat, the id it would have, and who is told."""

    event_id: int
    user_id: str
    booking_id: int
    answer: Sink[Verdict]


class Question(NamedTuple):
    """An id to be given back or looked at, and who is told."""

    id: int
    answer: asyncio.Future[Any]


class Line:
    """A connection that is used by one batch at a time, and made anew when it fails."""

    def __init__(self) -> None:
        self._connection: asyncpg.Connection | None = None

    async def fetch(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        """Run a statement, prepared at its first use.

        Raises:
            Away: Postgres did not answer in time, or refused; what became of it is not known.
        """
        try:
            if self._connection is None:
                self._connection = await connect()
            rows: list[asyncpg.Record] = await self._connection.fetch(statement, *args)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            self.hang_up()
            raise Away from error
        return rows

    def hang_up(self) -> None:
        """Close the connection, without waiting for the server."""
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None


class Batched(ExpressPeer):
    """Four lines, each with its own batches: bookings, looks, cancels and seats."""

    async def open(self) -> None:
        """Connect when first asked."""
        self._lines = [Line() for _ in range(4)]
        self._booking, self._looking, self._cancelling, self._reading = self._lines
        self._ids = range(0)
        self._full: set[int] = set()
        self._refusing = False
        self._books = Gather(self._book, max_batch=MAX_BATCH)
        self._looks = Gather(self._look, max_batch=MAX_BATCH)
        self._cancels = Gather(self._give_back, max_batch=MAX_BATCH)
        self._reads = Gather(self._read, max_batch=MAX_BATCH)

    async def close(self) -> None:
        """Disconnect."""
        for gather in (self._books, self._looks, self._cancels, self._reads):
            await gather.close()
        for line in self._lines:
            line.hang_up()

    async def reserve(self, event_id: int, user_id: str) -> Verdict:
        """Go with the next batch."""
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.ask(event_id, user_id, answer)
        return await answer

    def ask(self, event_id: int, user_id: str, answer: Sink[Verdict]) -> None:
        """The same from outside a task."""
        gather = self._looks if event_id in self._full else self._books
        gather.add(Ask(event_id, user_id, 0, answer))

    async def cancel(self, booking_id: int) -> bool:
        """Go with the next batch."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._cancels.add(Question(booking_id, answer))
        return await answer

    async def seats(self, event_id: int) -> Seats | None:
        """Go with the next batch."""
        answer: asyncio.Future[Seats | None] = asyncio.get_running_loop().create_future()
        self._reads.add(Question(event_id, answer))
        return await answer

    async def _book(self, batch: list[Ask]) -> None:
        """Serve a batch; look first if the last one was refused for the most part."""
        try:
            asks = await self._settle(self._booking, batch, 0) if self._refusing else batch
            booked = await self._sell(await self._numbered(asks)) if asks else 0
            self._refusing = 2 * booked < len(batch)
        except Away:
            fail(batch)

    async def _sell(self, asks: list[Ask]) -> int:
        """Book, then look and fill until each has his answer; answers how many it booked."""
        booked, at_ms = await self._take(asks)
        if booked == len(asks):
            for ask in asks:
                tell(ask.answer, Verdict(Word.RESERVED, ask.booking_id, at_ms))
            return booked
        asks = await self._settle(self._booking, asks, at_ms)
        for _ in range(MAX_PASSES):
            if not asks:
                return booked
            at_ms = await self._fill(asks)
            asks = await self._settle(self._booking, asks, at_ms)
        raise Away

    async def _numbered(self, batch: list[Ask]) -> list[Ask]:
        if len(self._ids) < len(batch):
            ((first,),) = await self._booking.fetch(NEXT_BLOCK)
            self._ids = range(first, first + BLOCK)
        ids, self._ids = self._ids[: len(batch)], self._ids[len(batch) :]
        return [
            Ask(event_id, user_id, booking_id, answer)
            for (event_id, user_id, _, answer), booking_id in zip(batch, ids, strict=True)
        ]

    async def _take(self, asks: list[Ask]) -> tuple[int, int]:
        """How many were booked, and when: of each event all that are new, or none."""
        events, users, ids, _ = zip(*asks, strict=True)
        if len(set(events)) == 1:
            ((booked, at_ms),) = await self._booking.fetch(BOOK_ONE, events[0], ids, users)
        else:
            ((booked, at_ms),) = await self._booking.fetch(BOOK_MANY, events, ids, users)
        return booked, at_ms

    async def _fill(self, asks: list[Ask]) -> int:
        """Give each event's last seats to those who came first; answers when."""
        at_ms = 0
        for event_id in sorted({ask.event_id for ask in asks}):
            mine = [ask for ask in asks if ask.event_id == event_id]
            ids, users = [ask.booking_id for ask in mine], [ask.user_id for ask in mine]
            ((_, at_ms),) = await self._booking.fetch(FILL, event_id, ids, users)
        return at_ms

    async def _settle(self, line: Line, asks: list[Ask], at_ms: int) -> list[Ask]:
        """Answer whoever has a booking or can have none; answers who is left."""
        events, users = [ask.event_id for ask in asks], [ask.user_id for ask in asks]
        seen = await line.fetch(LOOK, events, users)
        still = []
        for ask, (left, held) in zip(asks, seen, strict=True):
            if held is None and left is not None and left > 0:
                self._full.discard(ask.event_id)
                still.append(ask)
            else:
                tell(ask.answer, self._verdict(ask, left, held, at_ms))
        return still

    def _verdict(self, ask: Ask, left: int | None, held: int | None, at_ms: int) -> Verdict:
        if held is not None:
            mine = held == ask.booking_id
            return Verdict(Word.RESERVED if mine else Word.ALREADY_BOOKED, held, at_ms)
        if left is None:
            return Verdict(Word.EVENT_NOT_FOUND)
        self._full.add(ask.event_id)
        return Verdict(Word.SOLD_OUT)

    async def _look(self, batch: list[Ask]) -> None:
        """Refuse a batch whose events were full; who can have a seat after all goes to book."""
        try:
            for ask in await self._settle(self._looking, batch, 0):
                self._books.add(ask)
        except Away:
            fail(batch)

    async def _give_back(self, batch: list[Question]) -> None:
        try:
            rows = await self._cancelling.fetch(CANCEL, [question.id for question in batch])
        except Away:
            fail(batch)
            return
        gone = {booking_id for (booking_id,) in rows}
        for question in batch:
            tell(question.answer, question.id in gone)

    async def _read(self, batch: list[Question]) -> None:
        try:
            rows = await self._reading.fetch(SEATS, list({question.id for question in batch}))
        except Away:
            fail(batch)
            return
        found = {event_id: Seats(total, left) for event_id, total, left in rows}
        for question in batch:
            tell(question.answer, found.get(question.id))


def tell(answer: Sink[Any], what: object) -> None:
    """Answer a caller, unless he went away."""
    if not answer.done():
        answer.set_result(what)


def fail(batch: Sequence[Ask | Question]) -> None:
    """Tell those who were not answered yet that Postgres is away."""
    for asked in batch:
        if not asked.answer.done():
            asked.answer.set_exception(Away())


if __name__ == "__main__":
    serve(Face(Batched()))
