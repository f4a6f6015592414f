"""Events and bookings in lists, and events made and changed: what people ask who run a sale.

Lists are pages of the ledger. The seats that are left come from Redis where the event is warm: all
of a page are asked for at once, so that each partition is sent one write. A list loads nothing into
Redis: for a cold event the ledger's count stands, and ``source`` says so.

What is made or changed here is told to everybody by the ledger's own triggers, as if a person had
done it in psql.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.errors import Dirty, Fenced, Overloaded, RedisAway
from engine.model import Availability, Event, EventChange, Page, Place, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.admission import Lane
    from engine.hydrate import Hydration
    from engine.ledger import Ledger
    from engine.model import Booking, Bound, NewEvent
    from engine.scripts import Look


class Events:
    """Every call may raise ``LedgerAway``; one that changes something may have done so then."""

    def __init__(self, ledger: Ledger, lanes: Sequence[Lane], hydration: Hydration) -> None:
        self._ledger = ledger
        self._lanes = lanes
        self._hydration = hydration

    async def create(self, *wanted: NewEvent) -> list[Event]:
        """Make these events: all of them, or none."""
        made = await self._ledger.create_events(wanted)
        for event in made:  # other processes are told by the ledger
            self._hydration.appeared(event.id)
        return made

    async def change(
        self,
        event_id: int,
        *,
        name: str | None = None,
        total_seats: int | None = None,
        opens_ms: Bound = "keep",
        closes_ms: Bound = "keep",
    ) -> EventChange:
        """Give an event another name, number of seats or window; what is not named stays as it is.

        Seats are never cut below what the ledger has booked. What is still on its way to it may
        then be refused by it.
        """
        changed = await self._ledger.change_event(event_id, name, total_seats, opens_ms, closes_ms)
        if changed:
            return EventChange(*changed)
        found = await self._ledger.event(event_id)
        if found is None:
            return EventChange(None, refusal=Word.EVENT_NOT_FOUND)
        below = total_seats is not None and total_seats < found[1]
        return EventChange(*found, refusal=Word.BELOW_BOOKED if below else Word.INVALID_WINDOW)

    async def page(self, *, after: int = 0, limit: int) -> Page[Availability]:
        """Events with the seats that are left, in the order of their ids, beyond ``after``."""
        found = await self._ledger.events_after(after, limit + 1)
        rows = await asyncio.gather(*(self._seats(*each) for each in found[:limit]))
        return Page(list(rows), str(rows[-1].event.id) if len(found) > limit else None)

    async def one(self, event_id: int) -> Availability | None:
        """An event as ``page`` has it, or None."""
        found = await self._ledger.event(event_id)
        return await self._seats(*found) if found else None

    async def bookings_of_user(
        self, user_id: str, *, after: Place | None = None, limit: int
    ) -> Page[Booking]:
        """What the ledger says a user has and had, the newest first."""
        found = await self._ledger.user_bookings(user_id, after, limit + 1)
        cursor = str(found[limit - 1][1]) if len(found) > limit else None
        return Page([booking for booking, _ in found[:limit]], cursor)

    async def bookings_of(
        self, event_id: int, *, after: str = "", limit: int
    ) -> Page[Booking] | None:
        """Who has a seat of an event, says the ledger, in the order of users; None without one."""
        found = await self._ledger.event_bookings(event_id, after, limit + 1)
        if not found and await self._ledger.event(event_id) is None:
            return None
        rows = found[:limit]
        return Page(rows, rows[-1].user_id if len(found) > limit else None)

    async def _seats(self, event: Event, booked: int) -> Availability:
        look = await self._look(event.id)
        if look is None:
            return Availability(event, event.total_seats - booked, "ledger")
        return Availability(look.event(event.id), look.left, "redis")

    async def _look(self, event_id: int) -> Look | None:
        """An event as Redis has it now; None if it cannot say."""
        try:
            return await self._lanes[event_id % len(self._lanes)].look(event_id)
        except (Fenced, Dirty, RedisAway, Overloaded):
            return None
