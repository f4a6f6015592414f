"""Dead letters: a replay is a booking again under its own id, and takes no seat from anybody."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from engine import dead_letters, keys
from engine import drain as drain_module
from engine.dead_letters import Outcome, Settlement, discard, find, foresee, newest, replay
from engine.hydrate import Hydration
from engine.ledger import Ledger, Locked
from engine.model import Number, Status, booking_id
from engine.scripts import Scripts
from tests import world
from tests.engine import house
from tests.engine.house import PARTITIONS, House, crash_after_commit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from redis.asyncio import Redis

    from engine.ledger import Letter
    from engine.ruling import Ruling
    from engine.scripts import Command


_rounds = count(1)


class Shop(house.Shop):
    """A partition whose events are its own, by their ids: a replay goes by them."""

    async def insert_event(self, total: int) -> int:
        """Insert an event by hand; it is cold."""
        event_id = next(_rounds) * PARTITIONS + self.partition
        statement = "INSERT INTO events (id, name, total_seats) VALUES ($1, 'Чайка', $2)"
        await self.sql(statement, event_id, total)
        return event_id


@pytest.fixture
async def shop(house: House, partitions: Iterator[int]) -> Shop:
    """A partition of this test's own, open."""
    shop = Shop(house, next(partitions))
    await shop.open()
    return shop


@asynccontextmanager
async def refusing(shop: Shop, what: str, table: str = "bookings") -> AsyncIterator[None]:
    """Within, the ledger refuses what is so; a person's mistake, that a person removes."""
    await shop.sql(f"ALTER TABLE {table} ADD CONSTRAINT odd CHECK (NOT ({what})) NOT VALID")
    try:
        yield
    finally:
        await shop.sql(f"ALTER TABLE {table} DROP CONSTRAINT odd")


async def dead_letter(shop: Shop, event_id: int, user: str) -> Number:
    """A reserve that the ledger refused once, and would take now."""
    async with refusing(shop, f"user_id = '{user}'"):
        (number,) = await shop.reserve(event_id, user)
        await shop.drain()
    assert isinstance(number, Number)
    assert await shop.fate(number) == ("rejected", (await shop.dead())[-1]["reason"])
    return number


async def dead_cancel(shop: Shop, event_id: int, user: str) -> Number:
    """A cancel that the ledger refused once, and would take now."""
    held = (await shop.rows(event_id))[user]
    async with refusing(shop, f"outcome = 'cancelled' AND user_id = '{user}'", "ended_bookings"):
        seq = await shop.cancel(event_id, user, held)
        await shop.drain()
    assert len(await shop.dead()) == 1
    return Number(shop.scripts.epoch, seq)


async def replayed(shop: Shop, number: Number) -> tuple[str, str]:
    """Replay a letter: what became of it, as was foretold."""
    booking = booking_id(number, shop.partition)
    letter = await shop.ledger.letter(booking)
    forecast = letter and await foresee(shop.house.stores, letter)
    mark = await shop.mark()
    settlement = await replay(shop.house.stores, booking)
    assert settlement.id == booking
    if letter:
        assert forecast == settlement.forecast
    assert await shop.mark() == mark
    return settlement.outcome, settlement.detail


async def letter_of(shop: Shop, number: Number) -> list[Any]:
    """The row of a letter, whole."""
    booking = booking_id(number, shop.partition)
    return await shop.sql("SELECT * FROM ended_bookings WHERE id = $1", booking)


async def test_replayed_it_is_the_booking_it_was_to_be(shop: Shop) -> None:
    """Under its own number, at its own time, in both stores, and in the letters no more."""
    event_id = await shop.open_event(2, "bob")
    number = await dead_letter(shop, event_id, "ann")
    _, fields = (await shop.redis.xrevrange(keys.outbox(shop.partition), count=1))[0]
    assert await replayed(shop, number) == ("confirmed", "")
    assert (await shop.rows(event_id))["ann"] == number
    assert await shop.agree(event_id)
    assert await shop.dead() == []
    assert await shop.fate(number) == ("confirmed", None)
    booking = await shop.ledger.booking(booking_id(number, shop.partition))
    assert booking
    assert (booking.status, booking.created_at_ms) == (Status.CONFIRMED, int(fields[b"at"]))
    assert await shop.reserve(event_id, "cem", "ann") == ["sold_out", f"already_booked {number}"]


async def test_twice_is_harmless(shop: Shop) -> None:
    """The second one finds no letter, one after the other as well as both at once."""
    event_id = await shop.open_event(3)
    ann, bob = [await dead_letter(shop, event_id, user) for user in ("ann", "bob")]
    assert await replayed(shop, ann) == ("confirmed", "")
    assert await replayed(shop, ann) == ("gone", "")
    both = [replay(shop.house.stores, booking_id(bob, shop.partition)) for _ in range(2)]
    assert {each.outcome for each in await asyncio.gather(*both)} == {"confirmed", "gone"}
    assert await shop.agree(event_id)


async def test_settled_by_somebody_else_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A letter that was read before is looked for again, under the lock."""
    event_id = await shop.open_event(3)
    number = await dead_letter(shop, event_id, "ann")
    booking = booking_id(number, shop.partition)
    seen = await shop.ledger.letter(booking)
    assert await replayed(shop, number) == ("confirmed", "")

    async def letter(*_: object) -> Letter | None:
        return seen

    monkeypatch.setattr(Ledger, "letter", letter)
    assert (await replay(shop.house.stores, booking)).outcome == "gone"
    assert await shop.ended(event_id) == []
    assert await shop.agree(event_id)


async def test_says_what_it_did(shop: Shop) -> None:
    """In one line of the log, with all there is to know of the letter."""
    event_id = await shop.open_event(1)
    number = await dead_letter(shop, event_id, "ann")
    (row,) = await letter_of(shop, number)
    with capture_logs() as logs:
        await replay(shop.house.stores, row["id"])
    (line,) = [line for line in logs if line["event"] == "dead_letter_replayed"]
    assert line == {
        "event": "dead_letter_replayed", "log_level": "info", "module": "engine.dead_letters",
        "booking_id": row["id"], "event_id": event_id, "user_id": "ann", "outcome": "confirmed",
        "reason": row["reason"], "entry": row["entry"],
    }  # fmt: skip
    assert not [line for line in logs if line["event"] == "drift"]


# Who was first


async def test_booked_again_meanwhile(shop: Shop) -> None:
    """The later booking stands, and the letter is rejected for it."""
    event_id = await shop.open_event(5)
    number = await dead_letter(shop, event_id, "ann")
    (later,) = await shop.reserve(event_id, "ann")
    await shop.drain()
    assert await replayed(shop, number) == ("rejected", "already_booked")
    assert await shop.ended(event_id) == [("ann", "rejected", "already_booked")]
    assert await shop.rows(event_id) == {"ann": later}
    assert await shop.agree(event_id)


async def test_booked_again_and_on_its_way(shop: Shop) -> None:
    """The same, while the ledger has yet to hear of the later booking."""
    event_id = await shop.open_event(5)
    number = await dead_letter(shop, event_id, "ann")
    (later,) = await shop.reserve(event_id, "ann")
    assert await replayed(shop, number) == ("rejected", "already_booked")
    await shop.drain()
    assert await shop.rows(event_id) == {"ann": later}
    assert await shop.agree(event_id)


async def test_full(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seat was sold to somebody else, and the ledger has that; in Redis nothing changes."""
    event_id = await shop.open_event(1)
    number = await dead_letter(shop, event_id, "ann")
    (bob,) = await shop.reserve(event_id, "bob")
    await shop.drain()
    async with at_the_take(monkeypatch) as taken:
        assert await replayed(shop, number) == ("rejected", "sold_out")
    assert taken == []
    assert await shop.ended(event_id) == [("ann", "rejected", "sold_out")]
    assert await shop.rows(event_id) == {"bob": bob}
    assert await shop.agree(event_id)


async def test_last_seat_is_promised_and_on_its_way(shop: Shop) -> None:
    """The ledger has a free seat, but somebody was answered 202 for it: his it is."""
    event_id = await shop.open_event(1)
    number = await dead_letter(shop, event_id, "ann")
    (bob,) = await shop.reserve(event_id, "bob")
    assert await replayed(shop, number) == ("rejected", "sold_out")
    await shop.drain()
    assert await shop.rows(event_id) == {"bob": bob}
    assert await shop.fate(bob) == ("confirmed", None)
    assert await shop.agree(event_id)


async def test_last_seat_is_promised_far_behind(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox is read to its end, page by page."""
    monkeypatch.setattr(dead_letters, "READ_AT_ONCE", 2)
    event_id = await shop.open_event(5)
    number = await dead_letter(shop, event_id, "ann")
    others = [(await shop.reserve(event_id, user))[0] for user in "bcdef"]
    assert await replayed(shop, number) == ("rejected", "sold_out")
    await shop.cancel(event_id, "f", Number.parse(str(others[-1])))
    await shop.drain()
    assert await shop.rows(event_id) == dict(zip("bcde", others, strict=False))
    assert await shop.agree(event_id)


async def test_event_that_was_deleted(shop: Shop) -> None:
    """There is nothing to be booked any more."""
    event_id = await shop.open_event(1)
    number = await dead_letter(shop, event_id, "ann")
    await shop.sql("DELETE FROM events WHERE id = $1", event_id)
    assert await replayed(shop, number) == ("rejected", "event_not_found")
    assert await shop.ended(event_id) == [("ann", "rejected", "event_not_found")]


async def test_capacity_that_redis_has_not_heard_of(shop: Shop) -> None:
    """The ledger's count of seats is the one that is gone by."""
    event_id = await shop.open_event(1, "bob")
    await shop.cancel(event_id, "bob", (await shop.rows(event_id))["bob"])
    number = await dead_letter(shop, event_id, "ann")
    await shop.reserve(event_id, "cem")
    await shop.drain()
    await shop.sql("UPDATE events SET total_seats = 2 WHERE id = $1", event_id)
    assert await replayed(shop, number) == ("confirmed", "")
    assert await shop.agree(event_id)


# The race for the seat


@asynccontextmanager
async def at_the_take(
    monkeypatch: pytest.MonkeyPatch, *, before: Any = None, after: Any = None
) -> AsyncIterator[list[str]]:
    """Within, something happens just before or just after a letter's seat is taken in Redis."""
    whole, taken = Scripts.call, []

    async def call(scripts: Scripts, redis: Redis, command: Command) -> Any:
        takes = command[1] == scripts.repair(1, [])[1] and not taken
        if takes:
            taken.append("once")
            if before:
                await before()
        reply = await whole(scripts, redis, command)
        if takes and after:
            await after()
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(Scripts, "call", call)
        yield taken


async def test_last_seat_is_sold_just_before_it_is_taken(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was seen to have a seat, and then sold it: it is given back, and his who bought it."""
    event_id = await shop.open_event(1)
    number = await dead_letter(shop, event_id, "ann")
    sold: list[Number | str] = []

    async def sell() -> None:
        sold.extend(await shop.reserve(event_id, "bob"))

    async with at_the_take(monkeypatch, before=sell):
        settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement[1:] == ("rejected", "sold_out")
    await shop.drain()
    assert await shop.rows(event_id) == {"bob": sold[0]}
    assert await shop.agree(event_id)


async def test_user_books_again_just_before_it_is_taken(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He holds the later one, then and afterwards."""
    event_id = await shop.open_event(5)
    number = await dead_letter(shop, event_id, "ann")
    sold: list[Number | str] = []

    async def sell() -> None:
        sold.extend(await shop.reserve(event_id, "ann"))

    async with at_the_take(monkeypatch, before=sell):
        settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement[1:] == ("rejected", "already_booked")
    await shop.drain()
    assert await shop.rows(event_id) == {"ann": sold[0]}
    assert await shop.agree(event_id)


async def test_taken_seat_is_sold_to_nobody(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes between the take and the commit gets what is left, and keeps it."""
    event_id = await shop.open_event(2)
    number = await dead_letter(shop, event_id, "ann")
    sold: list[Number | str] = []

    async def sell() -> None:
        sold.extend(await shop.reserve(event_id, "bob", "cem", "ann"))

    async with at_the_take(monkeypatch, after=sell):
        settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement.outcome == "confirmed"
    assert sold[1:] == ["sold_out", f"already_booked {number}"]
    await shop.drain()
    assert await shop.rows(event_id) == {"ann": number, "bob": sold[0]}
    assert await shop.agree(event_id)


async def test_cut_that_redis_has_not_heard_of(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis has many seats left, and sells none after the ledger's last one is taken."""
    event_id = await shop.open_event(5, "bob")
    number = await dead_letter(shop, event_id, "ann")
    await shop.sql("UPDATE events SET total_seats = 2 WHERE id = $1", event_id)
    sold: list[Number | str] = []

    async def sell() -> None:
        sold.extend(await shop.reserve(event_id, "cem"))

    async with at_the_take(monkeypatch, after=sell):
        settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement.outcome == "confirmed"
    assert sold == ["sold_out"]
    assert await shop.agree(event_id)


async def test_event_is_closed_before_the_commit(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded again without the letter: nothing stays written, the seat is taken anew."""
    event_id = await shop.open_event(1)
    number = await dead_letter(shop, event_id, "ann")
    whole, sold = Locked.write, []

    async def write(locked: Locked, ruling: Ruling, partition: int) -> list[int]:
        given_back = await whole(locked, ruling, partition)
        if not sold:
            await shop.scripts.call(shop.redis, shop.scripts.close(event_id))
            await shop.warm(event_id)
            sold.extend(await shop.reserve(event_id, "bob"))
        return given_back

    monkeypatch.setattr(Locked, "write", write)
    settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement[1:] == ("rejected", "sold_out")
    await shop.drain()
    assert await shop.rows(event_id) == {"bob": sold[0]}
    assert await shop.agree(event_id)


async def test_seat_that_is_free_at_the_logs_end_only(shop: Shop) -> None:
    """Redis has a seat, but the last one was sold before the cancel that freed it: not yet."""
    event_id = await shop.open_event(2, "bob")
    number = await dead_letter(shop, event_id, "ann")
    (cem,) = await shop.reserve(event_id, "cem")
    await shop.cancel(event_id, "bob", (await shop.rows(event_id))["bob"])
    before = await letter_of(shop, number)
    assert await replayed(shop, number) == ("stays", dead_letters.NOT_YET)
    assert await letter_of(shop, number) == before
    assert set(await shop.held(event_id)) == {"cem"}
    await shop.drain()
    assert await shop.rows(event_id) == {"cem": cem}
    assert await replayed(shop, number) == ("confirmed", "")
    assert await shop.agree(event_id)


async def test_seat_whose_cancel_is_on_its_way(shop: Shop) -> None:
    """The ledger is full, Redis is not: not yet, but soon."""
    event_id = await shop.open_event(1)
    number = await dead_letter(shop, event_id, "ann")
    (bob,) = await shop.reserve(event_id, "bob")
    await shop.drain()
    await shop.cancel(event_id, "bob", bob)
    assert await replayed(shop, number) == ("stays", dead_letters.NOT_YET)
    await shop.drain()
    assert await replayed(shop, number) == ("confirmed", "")
    assert await shop.agree(event_id)


async def test_others_on_their_way_do_not_stand_in_it(shop: Shop) -> None:
    """Also one whom the ledger will refuse anyhow."""
    event_id = await shop.open_event(5)
    number = await dead_letter(shop, event_id, "ann")
    await shop.reserve(event_id, "bob", "nul \x00", "cem")
    assert await replayed(shop, number) == ("confirmed", "")
    await shop.drain()
    assert set(await shop.rows(event_id)) == {"ann", "bob", "cem"}
    assert await shop.agree(event_id)


class Crowd:
    """Callers and a person, who do this and that; what they were promised is remembered."""

    def __init__(self, shop: Shop, event_id: int, seed: int) -> None:
        self.shop = shop
        self.event_id = event_id
        self.dice = random.Random(seed)
        self.letters: set[Number] = set()
        self.held: dict[str, Number] = {}
        self.promised: set[Number] = set()

    async def reserve(self) -> None:
        """Somebody asks for a seat."""
        user = self.dice.choice("abcde")
        (answer,) = await self.shop.reserve(self.event_id, user)
        if isinstance(answer, Number):
            self.held[user] = answer
            self.promised.add(answer)

    async def cancel(self) -> None:
        """Somebody gives a seat back."""
        if self.held:
            user = self.dice.choice(sorted(self.held))
            await self.shop.cancel(self.event_id, user, self.held.pop(user))

    async def drain(self) -> None:
        """The ledger takes all of it."""
        await self.shop.drain()

    async def die(self) -> None:
        """Somebody's reserve is set aside."""
        user = self.dice.choice("abcde")
        await self.drain()
        async with refusing(self.shop, f"user_id = '{user}'"):
            (answer,) = await self.shop.reserve(self.event_id, user)
            await self.drain()
        if isinstance(answer, Number):
            self.letters.add(answer)

    async def replay(self) -> None:
        """A letter is replayed."""
        if self.letters:
            number = self.dice.choice(sorted(self.letters))
            outcome, _ = await replayed(self.shop, number)
            if outcome == "confirmed":
                self.promised.add(number)
            if outcome != "stays":
                self.letters.remove(number)


@pytest.mark.parametrize("seed", range(10))
async def test_no_replay_costs_anybody_his_seat(shop: Shop, seed: int) -> None:
    """Whatever happens in whatever order, who was given a seat is never rejected."""
    crowd = Crowd(shop, await shop.open_event(1 + seed % 3), seed)
    moves = [crowd.reserve, crowd.reserve, crowd.cancel, crowd.drain, crowd.die, crowd.replay]
    for _ in range(40):
        await crowd.dice.choice(moves)()
    await shop.drain()
    for number in crowd.promised:
        booking = await shop.ledger.booking(booking_id(number, shop.partition))
        assert booking
        assert booking.status in (Status.CONFIRMED, Status.CANCELLED)
    assert await shop.agree(crowd.event_id)


async def sell(shop: Shop, event_id: int, seller: int, over: asyncio.Event) -> list[Number]:
    """Sell to four users, most of whom give it back at once; who was given a seat."""
    dice, given = random.Random(seller), []
    while not over.is_set():
        user = f"{seller} {dice.randrange(4)}"
        (answer,) = await shop.reserve(event_id, user)
        if isinstance(answer, Number):
            given.append(answer)
            if dice.random() < 0.8:
                await shop.cancel(event_id, user, answer)
    return given


async def drain(shop: Shop, over: asyncio.Event) -> None:
    """Bring what is sold to the ledger."""
    while not over.is_set():
        await shop.drain()


async def test_while_it_is_on_sale(shop: Shop) -> None:
    """With sales, cancels and drains all the time, and several replays at once."""
    event_id = await shop.open_event(12)
    letters = [await dead_letter(shop, event_id, f"late {i}") for i in range(5)]

    async def settle(number: Number) -> list[Number]:
        booking = booking_id(number, shop.partition)
        while (made := await replay(shop.house.stores, booking)).outcome is Outcome.STAYS:
            pass
        assert made.outcome in ("confirmed", "rejected")
        return [number] if made.outcome == "confirmed" else []

    over = asyncio.Event()
    selling = [asyncio.create_task(sell(shop, event_id, i, over)) for i in range(4)]
    draining = asyncio.create_task(drain(shop, over))
    async with asyncio.timeout(world.BOUND_S):
        given = await asyncio.gather(*map(settle, letters))
    over.set()
    given += await asyncio.gather(*selling)
    await draining
    await shop.drain()
    fates = await shop.ledger.fates(shop.partition, [n for numbers in given for n in numbers])
    assert {fate.status for fate in fates.values()} == {"confirmed"}
    assert await shop.agree(event_id)


# Given back


@pytest.mark.parametrize("entries", [1, 64])
async def test_given_back_before_it_was_set_aside(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """Its caller cancelled while it was pending: he has no booking, and reads that he cancelled.

    Whether the drain meets both in one batch or not; and without the outbox, which may be trimmed.
    """
    monkeypatch.setattr(drain_module, "ENTRIES_A_READ", entries)
    event_id = await shop.open_event(5)
    (bob,) = await shop.reserve(event_id, "bob")
    async with refusing(shop, "user_id = 'ann'"):
        (number,) = await shop.reserve(event_id, "ann")
        await shop.cancel(event_id, "ann", number)
        await shop.drain()
    assert await shop.dead() == []
    await shop.redis.xtrim(keys.outbox(shop.partition), maxlen=0)
    assert await replayed(shop, number) == ("gone", "")
    assert await shop.rows(event_id) == {"bob": bob}
    assert await shop.ended(event_id) == [("ann", "cancelled", None)]
    assert await shop.agree(event_id)


async def test_given_back_but_not_drained(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller's cancel is on its way: to replay it is to cancel it."""
    monkeypatch.setattr(drain_module, "ENTRIES_A_READ", 1)
    event_id = await shop.open_event(5)
    async with refusing(shop, "user_id = 'ann'"):
        (number,) = await shop.reserve(event_id, "ann")
        mark = await shop.mark()
        await shop.cancel(event_id, "ann", number)
        await shop.drains.once(shop.scripts, mark, shift=shop.shift, block_ms=1)
    assert await replayed(shop, number) == ("cancelled", "")
    await shop.drain()
    assert await shop.rows(event_id) == {}
    assert await shop.ended(event_id) == [("ann", "cancelled", None)]
    assert await shop.agree(event_id)


@pytest.mark.parametrize("reconciled", [True, False])
async def test_cancel_ends_its_booking(shop: Shop, *, reconciled: bool) -> None:
    """Whether or not the booking was brought back into Redis meanwhile."""
    event_id = await shop.open_event(1, "ann")
    number = await dead_cancel(shop, event_id, "ann")
    held = (await shop.rows(event_id))["ann"]
    if reconciled:
        assert [drift.kind for drift in (await shop.reconcile(event_id)).drift] == ["add"]
    booking = str(booking_id(held, shop.partition))
    assert await replayed(shop, number) == ("ended", booking)
    assert await shop.ended(event_id) == [("ann", "cancelled", None)]
    assert await shop.dead() == []
    assert await shop.agree(event_id)
    assert await replayed(shop, number) == ("gone", "")


async def test_cancel_whose_seat_is_sold_already(shop: Shop) -> None:
    """Redis gave the seat to somebody else at once: replayed in time, the ledger takes him too."""
    event_id = await shop.open_event(1, "ann")
    number = await dead_cancel(shop, event_id, "ann")
    (bob,) = await shop.reserve(event_id, "bob")
    assert (await replayed(shop, number))[0] == "ended"
    await shop.drain()
    assert await shop.rows(event_id) == {"bob": bob}
    assert await shop.agree(event_id)


async def test_cancel_with_nothing_left_to_end(shop: Shop) -> None:
    """A hand was first: the letter is settled, and the booking that came since is not touched."""
    event_id = await shop.open_event(1, "ann")
    number = await dead_cancel(shop, event_id, "ann")
    await shop.sql("DELETE FROM bookings WHERE event_id = $1", event_id)
    (later,) = await shop.reserve(event_id, "ann")
    await shop.drain()
    assert await replayed(shop, number) == ("nothing_to_end", "")
    assert await shop.dead() == []
    assert await shop.rows(event_id) == {"ann": later}
    assert await shop.agree(event_id)


# Letters that stay


async def test_what_the_ledger_still_refuses_stays_as_it_is(shop: Shop) -> None:
    """Nothing of it changes, its seat is free, and Postgres' reason is said."""
    event_id = await shop.open_event(1)
    number = await dead_letter(shop, event_id, "ann")
    before = await letter_of(shop, number)
    async with refusing(shop, "user_id = 'ann'"):
        settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement.outcome == "stays"
    assert "23514" in settlement.detail
    assert '"odd"' in settlement.detail
    assert await letter_of(shop, number) == before
    assert await shop.agree(event_id)
    assert await shop.reserve(event_id, "bob") != ["sold_out"]


@pytest.mark.parametrize("user", ["nul \x00", "x" * 256])
async def test_user_that_no_row_can_have_stays(shop: Shop, user: str) -> None:
    """However often."""
    event_id = await shop.open_event(1)
    (number,) = await shop.reserve(event_id, user)
    await shop.drain()
    assert isinstance(number, Number)
    settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement.outcome == "stays"
    assert settlement.detail.startswith("the ledger still refuses it: 22")
    assert len(await shop.dead()) == 1
    assert await shop.agree(event_id)


async def test_poison_stays(shop: Shop) -> None:
    """What no script wrote can be read, and not replayed."""
    await shop.write_by_hand(kind="refund", user="zoé")
    await shop.drain()
    ((letter, *_), _) = await newest(shop.house.settings, 1)
    before = await shop.sql("SELECT * FROM ended_bookings WHERE id = $1", letter.id)
    assert await foresee(shop.house.stores, letter) == "cannot be replayed: no script wrote it"
    settlement = await replay(shop.house.stores, letter.id)
    assert settlement == Settlement(letter.id, Outcome.STAYS, "no script wrote it")
    assert await shop.sql("SELECT * FROM ended_bookings WHERE id = $1", letter.id) == before


async def test_entry_of_a_later_epoch_stays(shop: Shop) -> None:
    """Its number may be somebody's one day."""
    event_id = await shop.open_event(5)
    fields = {"kind": "reserve", "event": event_id, "at": 1, "users": '["zoé"]'}
    await shop.redis.xadd(keys.outbox(shop.partition), fields, "9-1")
    await shop.open()
    ((letter, *_), _) = await newest(shop.house.settings, 1)
    assert json.loads(letter.entry)["number"] == [9, 1]
    settlement = await replay(shop.house.stores, letter.id)
    assert settlement[1:] == ("stays", "no script wrote it")
    assert await shop.rows(event_id) == {}


async def test_event_of_another_partition_stays(shop: Shop) -> None:
    """No script writes it there, and this partition's lock is not its own."""
    event_id = await shop.open_event(5) + 1
    await shop.sql("INSERT INTO events (id, name, total_seats) VALUES ($1, 'x', 5)", event_id)
    async with refusing(shop, "true"):
        number = await shop.write_by_hand(kind="reserve", event=event_id, at=1, users='["zoé"]')
        await shop.drain()
    assert await replayed(shop, number) == ("stays", "no script wrote it")


@pytest.mark.parametrize("total", [1, 2])
async def test_seat_that_was_not_given_back_yet(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, total: int
) -> None:
    """Whoever set it aside may give its seat back at any moment, and would undo the replay."""
    event_id = await shop.open_event(total)
    async with refusing(shop, "user_id = 'ann'"):
        (number,) = await shop.reserve(event_id, "ann")
        with crash_after_commit(monkeypatch):
            await shop.drain()
    assert isinstance(number, Number)
    booking = booking_id(number, shop.partition)
    settlement = await replay(shop.house.stores, booking)
    assert settlement.outcome == "stays"
    assert f"onsale reconcile {event_id}" in settlement.detail
    await shop.reconcile(event_id)
    assert await replayed(shop, number) == ("confirmed", "")
    assert await shop.agree(event_id)


async def test_seats_that_do_not_add_up_in_redis(shop: Shop) -> None:
    """A hand changed them: a seat that is not there is not taken."""
    event_id = await shop.open_event(1, "bob")
    await shop.sql("UPDATE events SET total_seats = 2 WHERE id = $1", event_id)
    await shop.reconcile(event_id)
    number = await dead_letter(shop, event_id, "ann")
    await shop.redis.hdel(keys.users(shop.partition, event_id), "bob")
    settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement.outcome == "stays"
    await shop.reconcile(event_id)
    assert await replayed(shop, number) == ("confirmed", "")
    assert await shop.agree(event_id)


# Redis is not ready


async def _close(shop: Shop, event_id: int) -> None:
    await shop.scripts.call(shop.redis, shop.scripts.close(event_id))


async def _flush(shop: Shop, event_id: int) -> None:
    for key in await shop.snapshot():
        await shop.redis.delete(key)


async def _restart(shop: Shop, event_id: int) -> None:
    await shop.redis.script_flush()


@pytest.mark.parametrize("lose", [_close, _flush, _restart])
async def test_event_is_loaded_where_redis_has_it_not(
    shop: Shop, lose: Callable[[Shop, int], Awaitable[None]]
) -> None:
    """A partition that lost its scripts or its state is recovered on the way."""
    event_id = await shop.open_event(2, "bob")
    number = await dead_letter(shop, event_id, "ann")
    await lose(shop, event_id)
    settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement.outcome == "confirmed"
    shop.scripts = Scripts(shop.partition, (await shop.ledger.partition(shop.partition)).epoch)
    assert await shop.agree(event_id)


async def test_recovery_that_began_meanwhile(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written before it has ended."""
    event_id = await shop.open_event(2, "bob")
    number = await dead_letter(shop, event_id, "ann")
    warm_up, write_down, written = Hydration.warm, Locked.write, []

    async def warm(hydration: Hydration, event_id: int, scripts: Scripts) -> bool:
        found = await warm_up(hydration, event_id, scripts)
        if await shop.ledger.advance_epoch(shop.partition, 1):
            await shop.ledger.give_up_recovering(shop.partition, 2)
        return found

    async def write(locked: Locked, ruling: Ruling, partition: int) -> None:
        written.append((locked.row.epoch, locked.row.recovering))
        await write_down(locked, ruling, partition)

    monkeypatch.setattr(Hydration, "warm", warm)
    monkeypatch.setattr(Locked, "write", write)
    settlement = await replay(shop.house.stores, booking_id(number, shop.partition))
    assert settlement.outcome == "confirmed"
    assert written == [(3, False)]
    assert await shop.agree(event_id)


# Discarded


async def test_discarded_it_reads_rejected(shop: Shop) -> None:
    """With its reason; its entry is in the log, before it is gone."""
    event_id = await shop.open_event(5)
    number = await dead_letter(shop, event_id, "ann")
    (row,) = await letter_of(shop, number)
    with capture_logs() as logs:
        settlement = await discard(shop.ledger, row["id"])
    assert settlement == Settlement(row["id"], Outcome.DISCARDED)
    assert logs == [{
        "event": "dead_letter_discarded", "log_level": "error", "module": "engine.dead_letters",
        "booking_id": row["id"], "event_id": event_id, "user_id": "ann", "outcome": "discarded",
        "reason": row["reason"], "entry": row["entry"],
    }]  # fmt: skip
    (now,) = await letter_of(shop, number)
    assert dict(now) == {**dict(row), "outcome": "rejected", "entry": None}
    booking = await shop.ledger.booking(row["id"])
    assert booking
    assert (booking.status, booking.reason) == (Status.REJECTED, row["reason"])
    assert (await discard(shop.ledger, row["id"])).outcome == "gone"
    assert await replayed(shop, number) == ("gone", "")
    assert await shop.agree(event_id)


async def test_poison_can_be_discarded(shop: Shop) -> None:
    """It has an id too."""
    await shop.write_by_hand(by="hand")
    await shop.drain()
    ((letter, *_), total) = await newest(shop.house.settings, 1)
    with capture_logs() as logs:
        await discard(shop.ledger, letter.id)
    assert json.loads(logs[0]["entry"])["fields"] == {"by": "hand"}
    assert (await newest(shop.house.settings, 1))[1] == total - 1


async def test_discarded_and_replayed_at_once(shop: Shop) -> None:
    """One of the two finds the letter."""
    event_id = await shop.open_event(5)
    for i in range(10):
        number = await dead_letter(shop, event_id, f"user {i}")
        booking = booking_id(number, shop.partition)
        discarding, replaying = discard(shop.ledger, booking), replay(shop.house.stores, booking)
        outcomes = {each.outcome for each in await asyncio.gather(discarding, replaying)}
        assert outcomes in ({"discarded", "gone"}, {"gone", "confirmed"}, {"gone", "rejected"})
    assert await shop.dead() == []
    assert await shop.agree(event_id)


# Looked at


async def test_newest_first(shop: Shop) -> None:
    """As many as are asked for, and how many there are."""
    event_id = await shop.open_event(5)
    ann, bob = [await dead_letter(shop, event_id, user) for user in ("ann", "bob")]
    letters, total = await newest(shop.house.settings, 2)
    assert [each.id for each in letters] == [booking_id(n, shop.partition) for n in (bob, ann)]
    assert total >= 2
    assert await newest(shop.house.settings, 1) == (letters[:1], total)
    assert (await shop.ledger.letter_ids())[-2:] == [each.id for each in reversed(letters)]


async def test_none(own_house: House) -> None:
    """Nothing was set aside."""
    assert await newest(own_house.settings, 5) == ([], 0)


async def test_ids_that_are_no_letters(shop: Shop) -> None:
    """Each is named, with what is known of it."""
    event_id = await shop.open_event(5, "bob")
    number = await dead_letter(shop, event_id, "ann")
    ann = booking_id(number, shop.partition)
    bob = booking_id((await shop.rows(event_id))["bob"], shop.partition)
    letters, missing = await find(shop.house.settings, [2**70, bob, ann, ann])
    assert [letter.id for letter in letters] == [ann]
    assert missing == [
        f"there is no dead letter {2**70}",
        f"{bob} is no dead letter: that booking is confirmed",
    ]


async def test_forecast_without_redis(shop: Shop) -> None:
    """The letter can be read still."""
    event_id = await shop.open_event(5)
    number = await dead_letter(shop, event_id, "ann")
    letter = await shop.ledger.letter(booking_id(number, shop.partition))
    assert letter
    away = shop.house.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    assert "Redis does not answer" in await dead_letters.forecast(away, letter)
