"""What a round of the drill leaves behind: the calls, the facts, and both stores at its end.

The checker judges from these alone. Nothing here, nor in the checker, is the engine's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PARTITIONS: Final = 4
SEQ_BITS: Final = 32
PARTITION_BITS: Final = 7

Kind = Literal["reserve", "cancel", "read", "available", "malformed"]


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a client and the answer to it; ``begin`` and ``end`` are monotonic seconds.

    ``end`` is None when no answer came: what was asked may have happened at any time after
    ``begin``, or never. ``booking`` is what was asked about, ``answered`` the booking that the
    answer names (``id``, or ``booking_id`` of a refusal). ``key`` is the Idempotency-Key.
    ``after`` says that the round was over: everything was mended and drained.
    """

    client: int
    kind: Kind
    begin: float
    event: int = 0
    user: str = ""
    key: str = ""
    booking: int = 0
    end: float | None = None
    status: int = 0
    code: str = ""
    answered: int = 0
    state: str = ""
    seats: int | None = None
    after: bool = False


class Seats(msgspec.Struct, frozen=True):
    """The fewest and the most seats that an event had during the round."""

    fewest: int
    most: int


class Facts(msgspec.Struct, kw_only=True):
    """What the drill did to the system, as far as it changes what may be found.

    Attributes:
        seed: of the round.
        faults: the names of those that struck.
        events: seats by event id.
        lossy: Redis may have lost what was not yet in the ledger.
        hands_in_ledger: people changed rows or events in Postgres; the ledger may then reject
            what Redis accepted.
        blind: from when to when (monotonic seconds) Redis could not be asked by everyone, or had
            just lost what it knew. A booking is then read as the ledger has it, which may not have
            heard of a cancel that was answered 202.
        split: from when to when two Redis answered. A refusal may then be of the one that was
            master before.
        touched: (event, user) whose rows people changed themselves.
        mended: those of them that a reconciliation has mended since.
        edited: events whose keys in Redis people changed, or may have.
        poisoned: how many entries of nonsense were written into outboxes.
        drift: what a dry reconciliation found when all was drained, before any repair; and what
            those found that a hand ran before.
        left_over: what a second dry reconciliation found, after the repair.
        said: lines of the programs' logs that matter: ``drift``, ``dead_letter``, ``rejected``,
            and every traceback.
    """

    seed: int
    events: dict[int, Seats]
    faults: list[str] = msgspec.field(default_factory=list)
    lossy: bool = False
    hands_in_ledger: bool = False
    blind: list[tuple[float, float]] = msgspec.field(default_factory=list)
    split: list[tuple[float, float]] = msgspec.field(default_factory=list)
    touched: set[tuple[int, str]] = msgspec.field(default_factory=set)
    mended: set[tuple[int, str]] = msgspec.field(default_factory=set)
    edited: set[int] = msgspec.field(default_factory=set)
    poisoned: int = 0
    drift: list[Drift] = msgspec.field(default_factory=list)
    left_over: list[Drift] = msgspec.field(default_factory=list)
    said: list[Said] = msgspec.field(default_factory=list)


class Drift(msgspec.Struct, frozen=True):
    """A difference that the reconciliation reported."""

    event_id: int
    kind: str
    user_id: str | None
    redis: str | None
    ledger: str | None

    @property
    def redis_booking(self) -> int:
        """The booking that Redis has of a user; 0 if none."""
        return booking_named(self.redis or "", self.event_id % PARTITIONS)


class Said(msgspec.Struct, frozen=True):
    """A line of a program's log."""

    event: str
    program: str
    line: str
    event_id: int = 0


class EventRow(msgspec.Struct, frozen=True):
    """A row of ``events``."""

    id: int
    total_seats: int
    booked: int


class BookingRow(msgspec.Struct, frozen=True):
    """A row of ``bookings``."""

    id: int
    event: int
    user: str


class EndedRow(msgspec.Struct, frozen=True):
    """A row of ``ended_bookings``; a dead letter may have neither event nor user."""

    id: int
    event: int | None
    user: str | None
    outcome: str
    reason: str | None


class EventKeys(msgspec.Struct, frozen=True):
    """An event as Redis has it; ``users`` holds the booking id of each (0: not readable)."""

    total: int
    left: int
    users: dict[str, int]


class Dump(msgspec.Struct, frozen=True):
    """Both stores at the end of a round, after the repair; ``redis`` has the warm events."""

    events: list[EventRow]
    bookings: list[BookingRow]
    ended: list[EndedRow]
    redis: dict[int, EventKeys]


class Violation(msgspec.Struct, frozen=True):
    """A promise that was broken: its number in docs/guarantees.md, and how, in a sentence."""

    invariant: int
    sentence: str


def booking_named(held: str, partition: int) -> int:
    """The booking id that a user's field names; 0 if a hand has written something else."""
    epoch, _, seq = held.partition("-")
    if not (epoch.isdecimal() and seq.isdecimal()):
        return 0
    partition = partition if int(epoch) else 127
    return (((int(epoch) << SEQ_BITS) | int(seq)) << PARTITION_BITS) | partition


def write(folder: Path, calls: Iterable[Call], facts: Facts, dump: Dump) -> None:
    """Leave a round in a folder: ``history.jsonl``, ``facts.json``, ``dump.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "history.jsonl").open("wb") as file:
        file.writelines(msgspec.json.encode(call) + b"\n" for call in calls)
    (folder / "facts.json").write_bytes(msgspec.json.encode(facts))
    (folder / "dump.json").write_bytes(msgspec.json.encode(dump))


def read(folder: Path) -> tuple[list[Call], Facts, Dump]:
    """Read a round again, to judge it anew."""
    lines = (folder / "history.jsonl").read_bytes().splitlines()
    calls = [msgspec.json.decode(line, type=Call) for line in lines]
    facts = msgspec.json.decode((folder / "facts.json").read_bytes(), type=Facts)
    return calls, facts, msgspec.json.decode((folder / "dump.json").read_bytes(), type=Dump)
