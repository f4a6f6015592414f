"""Customers with an exact memory of what they were told, and the ledger's books against it.

A customer's calls come one after another. An answer that was lost (503) leaves him unsure of one
thing, and the truth is read back by the very next call: a repeated reserve meets the booking or
makes it, a repeated cancel says the same again. So at the end nothing is ambiguous.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from bench.caller import Answer, Caller
    from tests.world import Sale

BREATH_S = 0.02


class Told(NamedTuple):
    """A booking that a customer was told of: by 201, by 202, or by the 409 after a lost answer."""

    id: int
    event_id: int
    user_id: str


class Customer:
    """One user at one event."""

    def __init__(self, caller: Caller, event_id: int, user_id: str) -> None:
        self._caller = caller
        self._event_id = event_id
        self.user_id = user_id
        self.held: Told | None = None
        self.made: list[Told] = []
        self.confirmed: set[Told] = set()
        self.cancelled: set[Told] = set()

    async def reserve(self, **headers: str) -> Answer:
        """Ask for a seat until it is known what became of it."""
        answer, unsure = await self._heard(
            lambda: self._caller.reserve(self._event_id, self.user_id, **headers)
        )
        if answer.status in (201, 202):
            assert self.held is None, (self.held, answer)
            self._hold(answer.body["id"])
            assert (answer.status == 201) == (answer.body["status"] == "confirmed"), answer
            if answer.status == 201:
                self.confirmed.add(self.made[-1])
        elif answer.body["code"] == "already_booked":
            if self.held is None:
                assert unsure, answer
                self._hold(answer.body["booking_id"])
            assert self.held
            assert answer.body["booking_id"] == self.held.id, (self.held, answer)
        else:
            assert answer.body["code"] == "sold_out", answer
            assert self.held is None, (self.held, answer)
        return answer

    async def cancel(self, **headers: str) -> Answer:
        """Give the seat back."""
        assert self.held
        booking = self.held.id
        answer, _ = await self._heard(lambda: self._caller.cancel(booking, **headers))
        assert answer.status in (200, 202), (self.held, answer)
        self.cancelled.add(self.held)
        self.held = None
        return answer

    async def look_back(self) -> None:
        """Read the last booking: what it says is what was told."""
        if not self.made:
            return
        last = self.made[-1]
        answer, _ = await self._heard(lambda: self._caller.read(last.id))
        if self.held is None:
            assert (answer.status, answer.body["code"]) == (410, "booking_cancelled"), answer
            return
        assert answer.status == 200, (last, answer)
        assert Told(answer.body["id"], answer.body["event_id"], answer.body["user_id"]) == last
        if last in self.confirmed:
            assert answer.body["status"] == "confirmed", answer

    def _hold(self, booking: int) -> None:
        self.held = Told(booking, self._event_id, self.user_id)
        assert self.held not in self.made, f"{self.held} was given twice"
        self.made.append(self.held)

    @staticmethod
    async def _heard(ask: Callable[[], Awaitable[Answer]]) -> tuple[Answer, bool]:
        """An answer that is no 503, and whether one came before: what it asked may have happened.

        A connection that is cut is no answer, and fails the test.
        """
        unsure = False
        while True:
            answer = await ask()
            if answer.status != 503:
                return answer, unsure
            assert int(answer.headers["retry-after"]) > 0, answer
            unsure = True
            await asyncio.sleep(BREATH_S)


class Rush:
    """Ever new customers, each of whom wants one seat of an event, until the doors close."""

    def __init__(self, event_id: int) -> None:
        self.event_id = event_id
        self.customers: list[Customer] = []
        self.doors_closed = asyncio.Event()
        self._sold_at_s: list[float] = []

    async def door(self, caller: Caller, number: int) -> None:
        """Let one customer in after the other."""
        now_s = asyncio.get_running_loop().time
        for place in range(1_000_000):
            if self.doors_closed.is_set():
                return
            customer = Customer(caller, self.event_id, f"user-{number}-{place}")
            self.customers.append(customer)
            begun_s = now_s()
            answer = await customer.reserve()
            if answer.status in (201, 202):
                self._sold_at_s.append(begun_s)

    async def sell(self, count: int, *, within_s: float = world.BOUND_S) -> None:
        """Wait until so many seats are sold to those who ask from now on."""
        from_s = asyncio.get_running_loop().time()

        async def are_sold() -> bool:
            return sum(begun_s >= from_s for begun_s in self._sold_at_s) >= count

        await world.until(are_sold, within_s=within_s)


@asynccontextmanager
async def rush(sale: Sale, event_id: int, *, doors: int = 32) -> AsyncIterator[Rush]:
    """Sell an event to a crowd while the body does its worst."""
    crowd = Rush(event_id)
    async with AsyncExitStack() as hanging_up, asyncio.TaskGroup() as group:
        for number in range(doors):
            caller = await hanging_up.enter_async_context(sale.caller())
            group.create_task(crowd.door(caller, number))
        try:
            yield crowd
        finally:
            crowd.doors_closed.set()


async def balance(sale: Sale, customers: Iterable[Customer], *, may_lose: bool = False) -> None:
    """See that the ledger has of their events what the customers were told, and nothing else.

    Args:
        sale: the sale, which may still be draining.
        customers: all who ever asked for a seat of these events.
        may_lose: whether Redis may have lost what was pending. Whatever is not in the ledger
            must then say so itself, and must not have been confirmed.
    """
    customers = list(customers)
    await sale.count_seats()
    made = {told for customer in customers for told in customer.made}
    assert len({told.id for told in made}) == sum(len(customer.made) for customer in customers)
    held = {customer.held for customer in customers if customer.held}
    events = list({told.event_id for told in made})
    rows = "SELECT id, event_id, user_id FROM {} WHERE event_id = ANY($1)"
    booked = {Told(*row) for row in await sale.sql(rows.format("bookings"), events)}
    assert booked <= held, f"never granted: {booked - held}"
    lost = held - booked
    if may_lose:
        async with sale.caller() as caller:
            for told in lost:
                answer = await caller.read(told.id)
                assert (answer.status, answer.body["code"]) == (410, "booking_lost"), (told, answer)
    else:
        assert not lost
    assert not lost & {told for customer in customers for told in customer.confirmed}
    ended = rows.format("ended_bookings")
    cancelled = {told for customer in customers for told in customer.cancelled}
    assert {Told(*row) for row in await sale.sql(ended, events)} == cancelled
    assert not await sale.sql(f"{ended} AND outcome <> 'cancelled'", events)
    report = await sale.reconcile()
    assert report.returncode == 0, report
