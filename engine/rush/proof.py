"""What a rush has left behind, read from the stores: not what the crowd believes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.model import Number

if TYPE_CHECKING:
    from engine.ledger import Ledger
    from engine.rush.crowd import Crowd

PAGE: Final = 500
LOOK_S: Final = 0.1
DRAINED_S: Final = 60.0


class Proof(NamedTuple):
    """An event after a rush.

    ``missing`` bookings were told to somebody, and the ledger does not have them under that id;
    ``strange`` ones it has of users who were told that they got none.
    """

    total_seats: int
    left: int
    booked: int
    rows: int
    missing: int
    strange: int

    @property
    def oversold(self) -> int:
        """How many more bookings the ledger has than the event has seats."""
        return max(0, self.rows - self.total_seats)

    @property
    def holds(self) -> bool:
        """Whether all of it adds up."""
        agree = self.rows == self.booked == self.total_seats - self.left
        return agree and not (self.oversold or self.missing or self.strange)


async def prove(crowd: Crowd, ledger: Ledger, *, partitions: int) -> Proof:
    """Wait until the ledger has taken what was sold, then count.

    Raises:
        Unavailable: the API or the ledger does not answer.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + DRAINED_S
    while True:
        left = await crowd.left()
        found = await ledger.event(crowd.event_id)
        total, booked = (found[0].total_seats, found[1]) if found else (0, 0)
        if booked == total - left or loop.time() > until_s:
            break
        await asyncio.sleep(LOOK_S)
    _, rows = await ledger.count(crowd.event_id)
    missing, strange = await _compare(crowd, ledger, crowd.event_id % partitions)
    return Proof(total, left, booked, rows, missing, strange)


async def _compare(crowd: Crowd, ledger: Ledger, partition: int) -> tuple[int, int]:
    """How many of the bookings told the ledger does not have, and of those refused it has."""
    told, unsure = dict(crowd.told), set(crowd.unanswered)
    users = list(crowd.everybody())
    missing = strange = 0
    for first in range(0, len(users), PAGE):
        page = users[first : first + PAGE]
        _, rows = await ledger.held_with_mark(partition, crowd.event_id, page)
        strange += len(rows.keys() - told.keys() - unsure)
        missing += sum(
            rows.get(user) != Number.of_booking(told[user]) for user in page if user in told
        )
    return missing, strange
