"""The words of onsale as values: see docs/architecture.md for the glossary.

A booking id is ``((epoch · 2³² + seq) · 2⁷ + partition)``. It is exact in a JSON number while the
epoch stays below 2¹⁴, unique across any loss of Redis because Postgres gives the epochs out, and it
names its own partition and number, so that no index is needed to find a booking. Ids are computed
here only: Lua prints such numbers wrongly.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar
from unicodedata import category

import msgspec

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

BY_HAND = 127
"""The partition in the id of a row that a person inserted; its epoch is 0."""

SEQ_BITS = 32
PARTITION_BITS = 7
MAX_SEQ = 2**SEQ_BITS - 1
MAX_EPOCH = 2**14 - 1
MAX_BOOKING_ID = 2**53 - 1
MAX_EVENT_ID = 2**31 - 1
MAX_USER_ID_LENGTH = 255
MAX_NAME_LENGTH = 255
MAX_SEATS = 2**31 - 1
MAX_MS = 253_402_300_799_999
"""The end of the year 9999, in Unix milliseconds."""
MAX_BATCH = 500
"""Users that one script call takes at most."""


class Number(NamedTuple):
    """A place in a partition's log: ordered by epoch, then by sequence."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        """Write it as Redis writes a stream id."""
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str | bytes) -> Number:
        """Read ``epoch-seq``."""
        if isinstance(text, bytes):
            text = text.decode()
        epoch, _, seq = text.partition("-")
        return cls(int(epoch), int(seq))

    @classmethod
    def held(cls, text: str | bytes) -> Number:
        """Read what a user holds; what a hand wrote and is no number counts as 0-0."""
        try:
            return cls.parse(text)
        except ValueError:
            return cls(0, 0)

    @classmethod
    def of_booking(cls, booking: int) -> Number:
        """The number that a booking id names: ``booking_id`` reversed."""
        rest = booking >> PARTITION_BITS
        return cls(rest >> SEQ_BITS, rest & MAX_SEQ)


def booking_id(number: Number, partition: int) -> int:
    """The id of the booking that was given this number in this partition."""
    if number.epoch == 0:
        partition = BY_HAND
    return (((number.epoch << SEQ_BITS) | number.seq) << PARTITION_BITS) | partition


def booking_partition(booking: int) -> int:
    """The partition that a booking id names; ``BY_HAND`` for a row that a person inserted."""
    return booking & ((1 << PARTITION_BITS) - 1)


def fault_in_event(name: str, total_seats: int) -> str | None:
    """What is wrong with an event that is to be; None if nothing is."""
    # Control characters and lone surrogates.
    if not 0 < len(name) <= MAX_NAME_LENGTH or {*map(category, name)} & {"Cc", "Cs"}:
        return f"a name is 1 to {MAX_NAME_LENGTH} characters, none of them a control character"
    if not 0 <= total_seats <= MAX_SEATS:
        return f"total_seats must be an integer from 0 to {MAX_SEATS}"
    return None


class Word(StrEnum):
    """What the engine answers a caller: a grant, one repeated, a cancel, and the refusals."""

    RESERVED = "reserved"
    REPLAYED = "replayed"
    CANCELLED = "cancelled"
    NOT_OPEN = "not_open"
    CLOSED = "closed"
    SOLD_OUT = "sold_out"
    ALREADY_BOOKED = "already_booked"
    KEY_REUSED = "idempotency_key_reused"
    EVENT_NOT_FOUND = "event_not_found"
    BOOKING_NOT_FOUND = "booking_not_found"
    BELOW_BOOKED = "below_booked"
    INVALID_WINDOW = "invalid_window"


class Status(StrEnum):
    """The statuses of a booking."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    LOST = "lost"


class Fate(NamedTuple):
    """What became of a number in the ledger, and why if it was rejected."""

    status: Status
    reason: str | None = None


class Item(NamedTuple):
    """One fact of the outbox: a seat was given, or given back.

    ``booking`` is the number of the booking that a cancel ends. A ``poison`` item is an entry that
    no script wrote: ``entry`` has it whole, for the dead letters; its other fields mean nothing.
    """

    number: Number
    kind: Literal["reserve", "cancel", "poison"]
    event_id: int = 0
    user_id: str = ""
    at_ms: int = 0
    booking: Number | None = None
    entry: str | None = None


class Reserves(NamedTuple):
    """Entries of reserves whose numbers follow ``after``, in columns: a value an item, in order.

    ``entries`` is how many they were, ``seats`` how many items there are by event id.
    """

    after: Number
    entries: int
    event_ids: list[int]
    users: list[str]
    at_ms: list[int]
    seats: dict[int, int]

    @property
    def to(self) -> Number:
        """The last one's number."""
        return Number(self.after.epoch, self.after.seq + len(self.users))


class Drained(msgspec.Struct, frozen=True, array_like=True):
    """What a worker publishes: the ledger has taken all numbers beyond ``after`` up to ``to``.

    Numbers are ``[epoch, seq]``. ``rejected`` names the ones it refused: epoch, seq, reason.
    """

    after: tuple[int, int]
    to: tuple[int, int]
    rejected: list[tuple[int, int, str]]


class Window(NamedTuple):
    """When an event is sold, in Unix milliseconds: from ``opens_ms`` on, before ``closes_ms``."""

    opens_ms: int | None = None
    closes_ms: int | None = None

    @property
    def is_valid(self) -> bool:
        """Whether it opens before it closes."""
        return None in self or self.opens_ms < self.closes_ms  # type: ignore[operator]


ALWAYS: Final = Window()
Bound = int | None | Literal["keep"]
"""What a bound of a window becomes: Unix milliseconds, none, or as it is."""


class Event(NamedTuple):
    """What people attend."""

    id: int
    name: str
    total_seats: int
    window: Window = ALWAYS


class Reservation(NamedTuple):
    """The answer to ``reserve``.

    ``booking_id`` and ``created_at_ms`` (Unix time) are set with ``reserved`` and ``replayed``;
    ``booking_id`` also with ``already_booked``, ``opens_ms`` (Unix time) with ``not_open``.
    ``status`` says whether the ledger has it, or if it was ``cancelled`` since (``replayed``).
    """

    word: Word
    booking_id: int = 0
    created_at_ms: int = 0
    status: Status = Status.PENDING
    opens_ms: int = 0


class Cancellation(NamedTuple):
    """The answer to ``cancel``: ``cancelled`` or ``booking_not_found``, and who knows of it."""

    word: Word
    in_ledger: bool = False


class Booking(NamedTuple):
    """One user's claim to one seat of one event, as it can be read back.

    ``event_id`` is 0 and ``user_id`` empty where the booking is lost: nobody knows them any more.
    """

    id: int
    event_id: int
    user_id: str
    created_at_ms: int
    status: Status
    reason: str | None = None
    event: Event | None = None
    ended_at_ms: int | None = None


class NewEvent(NamedTuple):
    """An event to be made."""

    name: str
    total_seats: int
    window: Window = ALWAYS


class EventChange(NamedTuple):
    """The answer to a change of an event: the event as it is now, and how many seats are booked.

    ``refusal`` says why nothing was changed: ``event_not_found`` (then there is no event),
    ``below_booked``, or ``invalid_window``: it would close before it opens.
    """

    event: Event | None
    booked: int = 0
    refusal: Word | None = None


class Place(NamedTuple):
    """A booking's place among its user's, newest first: when it was made (Unix µs), and its id."""

    at_us: int
    booking: int

    def __str__(self) -> str:
        """As a cursor."""
        return f"{self.at_us}-{self.booking}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read a cursor.

        Raises:
            ValueError: it is none.
        """
        # Within what Postgres has as a time: 4713 BC is -210,866,803,200,000,000.
        match = re.fullmatch(r"(-[0-9]{1,17}|[0-9]{1,18})-([1-9][0-9]{0,15})", text)
        if match is None:
            raise ValueError(text)
        return cls(int(match[1]), int(match[2]))


class Page(NamedTuple, Generic[T]):
    """Some of many, in their order; ``next`` is the cursor after them, None at the end."""

    rows: list[T]
    next: str | None


class Availability(NamedTuple):
    """How many seats are left; ``source`` says who was asked."""

    event: Event
    available_seats: int
    source: Literal["redis", "ledger"]


class UserStatistics(NamedTuple):
    """A user's bookings in the ledger; instants are Unix milliseconds."""

    user_id: str
    active: int
    cancelled: int
    first_at_ms: int | None
    last_at_ms: int | None


class Sink(Protocol[T_contra]):
    """Where an answer goes, once: a future, or what stands in the place of one.

    It does not raise: who tells it has others to tell.
    """

    def done(self) -> bool:
        """Whether nothing is waited for any more."""
        ...

    def set_result(self, result: T_contra, /) -> None:
        """Take the answer."""
        ...

    def set_exception(self, exception: Exception, /) -> None:
        """Take the reason why there is none."""
        ...
