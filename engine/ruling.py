"""The ledger's ruling: what becomes of each item of a batch, in the order of the log.

Pure, so that it can be proved that a batch equals its items one by one (tests/model/).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from engine.model import Number, Word, booking_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.model import Item


class Seats(NamedTuple):
    """An event's seats in the ledger."""

    total: int
    booked: int


class Rejection(NamedTuple):
    """An item that the ledger refuses, and the booking that stands in its way if one does."""

    item: Item
    word: Word
    holder: Number | None = None


@dataclass(slots=True)
class Ruling:
    """What to write, and whom to tell.

    ``inserted`` are new rows by booking id; ``ended`` are rows of the ledger that a cancel ends;
    ``passed`` were reserved and cancelled within the batch; ``rejected`` are refused; ``void`` are
    bookings that a cancel names and the ledger does not hold: one of them may be a dead letter.
    """

    inserted: dict[int, Item] = field(default_factory=dict)
    ended: dict[int, Item] = field(default_factory=dict)
    passed: dict[int, Item] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    void: dict[int, Item] = field(default_factory=dict)


def rule(
    items: Iterable[Item],
    *,
    partition: int,
    seats: dict[int, Seats],
    held: dict[tuple[int, str], int],
) -> Ruling:
    """Decide each item in order.

    Args:
        items: reserves and cancels, in the order of their numbers.
        partition: theirs.
        seats: by event id, for the events that exist.
        held: booking id by event id and user, for the rows in the ledger. Changed in place.
    """
    ruling = Ruling()
    free = {event_id: total - booked for event_id, (total, booked) in seats.items()}
    for item in items:
        place = (item.event_id, item.user_id)
        holder = held.get(place)
        if item.kind == "cancel":
            if item.booking and holder == booking_id(item.booking, partition):
                _end(ruling, holder, item)
                del held[place]
                free[item.event_id] += 1
            elif item.booking:  # it never came to be, or a hand removed it
                ruling.void[booking_id(item.booking, partition)] = item
        elif item.event_id not in free:
            ruling.rejected.append(Rejection(item, Word.EVENT_NOT_FOUND))
        elif holder is not None:
            number = Number.of_booking(holder)
            ruling.rejected.append(Rejection(item, Word.ALREADY_BOOKED, number))
        elif free[item.event_id] <= 0:
            ruling.rejected.append(Rejection(item, Word.SOLD_OUT))
        else:
            booking = booking_id(item.number, partition)
            ruling.inserted[booking] = item
            held[place] = booking
            free[item.event_id] -= 1
    return ruling


class Plain(NamedTuple):
    """What a batch comes to if nothing of it is refused, by booking id.

    ``begun`` are reserves whose bookings it leaves behind; ``ended`` cancels of bookings that were
    there before; ``passed`` reserves that it cancels itself.
    """

    begun: dict[int, Item]
    ended: dict[int, Item]
    passed: dict[int, Item]


def plain(items: Iterable[Item], *, partition: int) -> Plain | None:
    """See what a batch comes to without the ledger; None if that takes a ruling.

    A user gives back what he had before, if anything, and then reserves and gives back in turn.
    """
    outcome = Plain({}, {}, {})
    begun, ended, passed = outcome
    holds: dict[tuple[int, str], int] = {}
    for item in items:
        place = (item.event_id, item.user_id)
        held = holds.get(place)
        if item.kind == "reserve" and not held:
            holds[place] = booking = booking_id(item.number, partition)
            begun[booking] = item
            continue
        if item.kind != "cancel" or not item.booking:
            return None
        booking = booking_id(item.booking, partition)
        if held == booking:
            passed[booking] = begun.pop(booking)
        elif held is None:
            ended[booking] = item
        else:
            return None
        holds[place] = 0
    return outcome


def _end(ruling: Ruling, booking: int, cancel: Item) -> None:
    reserved = ruling.inserted.pop(booking, None)
    if reserved is None:
        ruling.ended[booking] = cancel
    else:
        ruling.passed[booking] = reserved
