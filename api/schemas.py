"""What this API takes and gives, as types: the decoder, the encoder and OpenAPI all read these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from engine.model import (
    MAX_BOOKING_ID,
    MAX_EVENT_ID,
    MAX_NAME_LENGTH,
    MAX_SEATS,
    MAX_USER_ID_LENGTH,
)

# ``$`` also stands before a last line feed, hence the look-ahead.
_TEXT = r"^[^\u0000-\u001f\u007f-\u009f]+$(?!\n)"

EventId = Annotated[int, Meta(ge=1, le=MAX_EVENT_ID, description="Which event.")]
BookingId = Annotated[
    int,
    Meta(ge=1, le=MAX_BOOKING_ID, description="Exact in every JSON reader: at most 53 bits."),
]
UserId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_USER_ID_LENGTH,
        pattern=_TEXT,
        description="No control characters, no lone surrogates.",
    ),
]
EventName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NAME_LENGTH,
        pattern=_TEXT,
        description="No control characters, no lone surrogates.",
    ),
]
Seats = Annotated[int, Meta(ge=0, le=MAX_SEATS, description="How many seats there are in all.")]
Instant = Annotated[
    str,
    Meta(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        description="RFC 3339, UTC, with milliseconds.",
        examples=["2026-11-22T13:00:00.123Z"],
    ),
]

Moment = Annotated[
    datetime,
    Meta(
        tz=True,
        description="RFC 3339 with a zone. Before 1970 counts as 1970.",
        examples=["2026-12-01T10:00:00+03:00"],
    ),
]


class ReserveRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Who wants a seat of which event."""

    event_id: EventId
    user_id: UserId


class Event(Struct, frozen=True, omit_defaults=True):
    """What people attend. It is sold from `opens_at` on and before `closes_at`, if it has these."""

    id: EventId
    name: str
    total_seats: int
    opens_at: Instant | None = None
    closes_at: Instant | None = None


class NewEvent(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An event that is to be."""

    name: EventName
    total_seats: Seats
    opens_at: Moment | None = None
    closes_at: Moment | None = None


class EventChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change of an event; what is left out stays, and `null` ends a bound."""

    name: EventName | UnsetType = UNSET
    total_seats: Seats | UnsetType = UNSET
    opens_at: Moment | UnsetType | None = UNSET
    closes_at: Moment | UnsetType | None = UNSET


class Reservation(Struct, frozen=True):
    """A booking that was made: confirmed is in the ledger, pending is in Redis only.

    It may be cancelled where an Idempotency-Key has it answered again.
    """

    id: BookingId
    event_id: EventId
    user_id: UserId
    created_at: Instant
    status: Literal["pending", "confirmed", "cancelled"]


class Booking(Struct, frozen=True, omit_defaults=True):
    """A booking as it is read back. Its event is left out where it cannot be told."""

    id: BookingId
    event_id: EventId
    user_id: UserId
    created_at: Instant
    status: Literal["pending", "confirmed"]
    event: Event | None = None


class Cancellation(Struct, frozen=True):
    """A booking that was given back."""

    message: str
    id: BookingId
    status: Literal["cancelled"] = "cancelled"


class Availability(Struct, frozen=True):
    """How many seats are left, as of the last sale; below zero after a cut of the capacity."""

    event: Event
    available_seats: int


class ListedEvent(Event, frozen=True, kw_only=True):
    """An event in a list. ``source`` says who was asked for the seats that are left.

    ``redis``: as of the last sale. ``ledger``: what is still on its way is not counted.
    """

    available_seats: int
    source: Literal["redis", "ledger"]


Cursor = Annotated[
    str | None,
    Meta(description="Send it as `after` to get what follows; null at the end."),
]


class EventPage(Struct, frozen=True):
    """Events in the order of their ids."""

    events: list[ListedEvent]
    next: Cursor


class ListedBooking(Struct, frozen=True, omit_defaults=True):
    """A booking as the ledger has it. What has no end, reason or event is without it."""

    id: BookingId
    event_id: EventId
    user_id: UserId
    created_at: Instant
    status: Literal["confirmed", "cancelled", "rejected"]
    ended_at: Instant | None = None
    reason: str | None = None
    event: Event | None = None


class BookingPage(Struct, frozen=True):
    """Bookings of a user, the newest first; or of an event, in the order of users."""

    bookings: list[ListedBooking]
    next: Cursor


class Watched(Struct, frozen=True):
    """An event while it sells: the data of `availability` and `sold_out`."""

    at: Instant
    event: Event
    available_seats: int
    source: Annotated[
        Literal["redis", "ledger"],
        Meta(description="`ledger`: Redis is away, and what is on its way is not counted."),
    ]
    outbox_depth: Annotated[
        int | None,
        Meta(description="What the event's partition owes the ledger; null without Redis."),
    ]
    confirm_ms: Annotated[
        float | None,
        Meta(
            description="How long the ledger took of late for what this process sold in the "
            "event's partition; null if it sold nothing."
        ),
    ]
    refused: Annotated[
        int,
        Meta(
            description="How many this process refused a seat of the event, since somebody began "
            "to watch it there."
        ),
    ]


class Unwatched(Struct, frozen=True):
    """Nobody can say how many seats are left: the data of `unavailable`."""

    at: Instant
    code: str


class UserStatistics(Struct, frozen=True):
    """A user's bookings in the ledger; ``count`` is ``active``, the name the first system had."""

    user_id: UserId
    count: int
    active: int
    cancelled: int
    first_at: Instant | None
    last_at: Instant | None


class Health(Struct, frozen=True):
    """The process answers. Nothing is said about the stores: see ``/ready``."""

    timestamp: Instant
    status: Literal["ok"] = "ok"


class Readiness(Struct, frozen=True):
    """Each part and ``ok``, or what is wrong with it."""

    parts: dict[str, str]
    status: Literal["ready"] = "ready"


class Problem(Struct, frozen=True, omit_defaults=True):
    """A refusal or a fault (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    error: Annotated[str, Meta(description="What to show to people, in Russian.")]
    booking_id: BookingId | None = None
    parts: dict[str, str] | None = None
    opens_at: Instant | None = None


reserve_decoder = msgspec.json.Decoder(ReserveRequest)
"""Reads the body of a reserve call."""
new_event_decoder = msgspec.json.Decoder(NewEvent)
event_change_decoder = msgspec.json.Decoder(EventChange)
