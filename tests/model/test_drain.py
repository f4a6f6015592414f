"""The drain's SQL: a batch written at once is its entries written one by one."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.model import Item, Number, booking_id
from tests.engine.house import Shop, as_entries

if TYPE_CHECKING:
    from tests.engine.house import House

# Relative to the first event; a row by hand has no number and no time of its own.
BOOKINGS = """
SELECT event_id - $1, user_id,
    CASE WHEN id & 127 <> 127 THEN (id >> 7) & 4294967295 END,
    CASE WHEN id & 127 <> 127 THEN created_at END
FROM bookings WHERE event_id = ANY($2) ORDER BY 1, 2"""
EVENTS = "SELECT id - $1, total_seats, booked FROM events WHERE id = ANY($2) ORDER BY 1"
ENDED = """
SELECT nullif(event_id, 2147483647) - $1, user_id, (id >> 7) & 4294967295, outcome, reason,
    created_at
FROM ended_bookings WHERE event_id = ANY($2) AND id & 127 = $3 ORDER BY 3"""

AT_MS = 1_763_816_400_000
_used = count(0, 2)


class Move(NamedTuple):
    """What a caller did: reserve, or cancel the booking of an earlier move."""

    kind: str
    event: int
    user: str
    of: int


moves = st.builds(
    Move,
    st.sampled_from(["reserve", "reserve", "cancel"]),
    st.integers(0, 2),
    st.sampled_from("abc"),
    st.integers(1, 10),
)


class Copy:
    """One of two equal sales: a partition with its own events, numbers from 1."""

    def __init__(self, shop: Shop, events: list[int]) -> None:
        self.shop = shop
        self.events = events

    @classmethod
    async def of(cls, house: House, partition: int, totals: list[int], by_hand: str) -> Copy:
        """Two events with these seats, of which hands have taken some; a third does not exist."""
        shop = await Shop(house, partition).open()
        events = [await shop.insert_event(total) for total in totals]
        for user, event, total in zip(by_hand, events, totals, strict=False):
            if total:
                statement = "INSERT INTO bookings (event_id, user_id) VALUES ($1, $2)"
                await shop.sql(statement, event, user)
        return cls(shop, [*events, 2**31 - 1])

    def items(self, drawn: list[Move]) -> list[Item]:
        """The log of what callers did."""
        return [
            Item(
                Number(1, seq), move.kind, self.events[move.event], move.user, AT_MS + seq // 3,
                Number(1, move.of) if move.kind == "cancel" else None,
            )
            for seq, move in enumerate(drawn, start=1)
        ]  # fmt: skip

    async def write(self, batch: list[Item]) -> None:
        """One transaction, or one statement."""
        drain, entries = self.shop.drains, as_entries(batch)
        after = batch[0].number._replace(seq=batch[0].number.seq - 1)
        taking = drain._take_entries(entries, after, epoch=1, shift=self.shop.shift)  # noqa: SLF001 - it is the subject
        assert [taken.to async for taken in taking] == [batch[-1].number]

    async def write_the_long_way(self, item: Item) -> None:
        """One transaction, in which the entry is looked at."""
        await self.shop.drains._apply([item], epoch=1, shift=self.shop.shift)  # noqa: SLF001 - it is the measure

    async def state(self) -> list[list[tuple[object, ...]]]:
        """Everything the ledger has of it, without what differs between the two."""
        first, _, missing = self.events
        partition = self.shop.partition
        known = [*self.events, missing]
        found = [await self.shop.sql(text, first, known) for text in (BOOKINGS, EVENTS)]
        found.append(await self.shop.sql(ENDED, first, known, partition))
        return [[tuple(row) for row in rows] for rows in found]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    drawn=st.lists(moves, min_size=1, max_size=10),
    totals=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    by_hand=st.text("ab", max_size=2),
)
async def test_batch_equals_its_entries_one_by_one(
    house: House, drawn: list[Move], totals: list[int], by_hand: str
) -> None:
    """Rows, what ended and why, counts and times: however the log is cut, they are the same."""
    first = next(_used) % 126
    for partition in (first, first + 1):
        await _forget(house, partition)
    at_once = await Copy.of(house, first, totals, by_hand)
    one_by_one = await Copy.of(house, first + 1, totals, by_hand)
    await at_once.write(at_once.items(drawn))
    for item in one_by_one.items(drawn):
        await one_by_one.write_the_long_way(item)
    assert await at_once.state() == await one_by_one.state()
    assert await at_once.shop.mark() == await one_by_one.shop.mark() == Number(1, len(drawn))
    rows = await at_once.shop.rows(at_once.events[0])
    assert len(rows) <= totals[0]
    assert booking_id(Number(1, 1), first) > 0


async def _forget(house: House, partition: int) -> None:
    """Make a partition as new as before its first epoch, so that numbers begin again."""
    ids = "id & 127 = $1"
    await house.sql(f"DELETE FROM bookings WHERE {ids}", partition)  # noqa: S608
    await house.sql(f"DELETE FROM ended_bookings WHERE {ids}", partition)  # noqa: S608
    await house.sql("DELETE FROM epochs WHERE p = $1", partition)
    await house.sql(
        "UPDATE partitions SET epoch = 0, mark_epoch = 0, mark_seq = 0 WHERE p = $1", partition
    )
    async for key in house.redis.scan_iter(f"onsale:{{{partition}}}:*"):
        await house.redis.delete(key)
