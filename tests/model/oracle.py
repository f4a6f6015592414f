"""What the Lua scripts answer and leave, said once more in Python, from their headers.

One partition, kept as plain values. It knows nothing of Redis: where a script says ``INFO``, it has
been told the name; where an entry needs the time, it has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from engine.model import MAX_SEQ, Number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine import model
    from engine.scripts import Change

Answer: TypeAlias = str | int | list[str | int]
NO_TOTAL: Final = -1
NO_LEFT: Final = -(2**31)
NOTHING: Final = Number(0, 0)
LONG_AGO: Final = 1


class Entry(NamedTuple):
    """An entry of the outbox, without its time."""

    id: Number
    kind: str
    event: int = 0
    users: tuple[str, ...] = ()
    booking: str = ""


class Grant(NamedTuple):
    """Who asks for a seat, with the request that he makes under a key or ""."""

    user: str
    request: str


@dataclass
class Event:
    """All that is kept of an event, in texts as Redis has them; None and {} where no key is."""

    fields: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    lease: str | None = None
    staging: dict[str, str] = field(default_factory=dict)

    @property
    def seats(self) -> tuple[int | None, int | None]:
        """Total and left, where they are numbers."""
        return _number(self.fields.get("total")), _number(self.fields.get("left"))

    @property
    def dirty(self) -> bool:
        """Whether its seats do not add up."""
        total, left = self.seats
        return total is None or left is None or left + len(self.users) != total

    @property
    def shut(self) -> str:
        """Why it is not sold now, if it is not: bounds are long ago or far ahead."""
        opens, closes = (_number(self.fields.get(name)) for name in ("opens", "closes"))
        if closes is not None and closes <= LONG_AGO:
            return "closed"
        return f"not_open {opens}" if opens is not None and opens > LONG_AGO else ""

    def cold(self, epoch: int) -> bool:
        """Whether it is not loaded in this epoch."""
        return self.fields.get("epoch") != str(epoch)


def _texts(window: model.Window) -> dict[str, str]:
    bounds = zip(("opens", "closes"), window, strict=True)
    return {name: "" if bound is None else str(bound) for name, bound in bounds}


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


@dataclass
class Oracle:
    """One partition. ``outbox`` is None where there is no stream, ``last`` its last id.

    ``records`` are the numbers by request.
    """

    master: str
    log: dict[str, str] = field(default_factory=dict)
    outbox: list[Entry] | None = None
    last: Number = NOTHING
    events: dict[int, Event] = field(default_factory=dict)
    records: dict[str, str] = field(default_factory=dict)

    # Recovery

    def advance(self, epoch: int) -> Answer:
        """Fence every older epoch off."""
        if int(self.log.get("epoch", "0")) >= epoch:
            return "newer"
        self.log["epoch"] = str(epoch)
        return "advanced"

    def open(self, epoch: int) -> Answer:
        """Begin an epoch's outbox."""
        if self.log.get("epoch") != str(epoch):
            return "newer"
        if self.outbox is None or self.last >= Number(epoch, 0):
            self.outbox = []
        self.last = Number(epoch, 0)
        self.outbox.append(Entry(self.last, "open"))
        self.log |= {"seq": "0", "acked": "0", "master": self.master}
        return "opened"

    # The sale

    def reserve(self, epoch: int, event_id: int, asks: Sequence[Grant], bound: int) -> Answer:
        """Give seats, in order."""
        refusal = self._refusal(epoch, event_id, len(asks))
        if refusal:
            return refusal
        if self.owed >= bound:
            return "overloaded"
        event, seq = self.events[event_id], int(self.log["seq"])
        held, left = dict(event.users), event.seats[1] or 0
        answers: list[str | int] = []
        granted: list[str] = []
        noted: dict[str, str] = {}
        for user, request in asks:
            made = {**self.records, **noted}.get(request)
            if made is not None:
                answers.append(f"replayed {made}")
            elif user in held:
                answers.append(f"already_booked {held[user]}")
            elif event.shut:
                answers.append(event.shut)
            elif left <= len(granted):
                answers.append("sold_out")
            else:
                granted.append(user)
                held[user] = f"{epoch}-{seq + len(granted)}"
                noted |= {request: held[user]} if request else {}
                answers.append(seq + len(granted))
        if granted:
            last = Number(epoch, seq + len(granted))
            if not self._append(Entry(last, "reserve", event_id, tuple(granted))):
                return "fenced"
            event.users = held
            event.fields["left"] = str(left - len(granted))
            self.records |= noted
        return answers

    def cancel(self, epoch: int, event_id: int, user: str, booking: str, bound: int) -> Answer:
        """Give a seat back."""
        refusal = self._refusal(epoch, event_id, 1)
        if refusal:
            return refusal
        event = self.events[event_id]
        if event.users.get(user) != booking:
            return "not_held"
        if self.owed >= bound:
            return "overloaded"
        seq = int(self.log["seq"]) + 1
        if not self._append(Entry(Number(epoch, seq), "cancel", event_id, (user,), booking)):
            return "fenced"
        del event.users[user]
        event.fields["left"] = str((event.seats[1] or 0) + 1)
        return seq

    def _refusal(self, epoch: int, event_id: int, numbers: int) -> str:
        seq, acked = _number(self.log.get("seq")), _number(self.log.get("acked"))
        ours = self._is_open(epoch) and self.log.get("master") == self.master
        if not ours or seq is None or acked is None or seq + numbers > MAX_SEQ:
            return "fenced"
        if self.events[event_id].cold(epoch):
            return "cold"
        return "dirty" if self.events[event_id].dirty else ""

    def _is_open(self, epoch: int) -> bool:
        return self.log.get("epoch") == str(epoch)

    @property
    def owed(self) -> int:
        """How many numbers the ledger has not taken."""
        return int(self.log.get("seq", 0)) - int(self.log.get("acked", 0))

    def _append(self, entry: Entry) -> bool:
        if self.outbox is None or entry.id <= self.last:
            return False
        self.outbox.append(entry)
        self.last = entry.id
        self.log["seq"] = str(entry.id.seq)
        return True

    # Reads

    def look(self, epoch: int, event_id: int, user: str) -> Answer:
        """Read an event."""
        event = self.events[event_id]
        if not self._is_open(epoch):
            return "fenced"
        if event.cold(epoch):
            return "cold"
        total, left = event.seats
        return [
            NO_TOTAL if total is None else total,
            NO_LEFT if left is None else left,
            len(event.users),
            event.fields.get("name", ""),
            event.users.get(user, ""),
            event.fields.get("opens", ""),
            event.fields.get("closes", ""),
        ]

    def find(self, epoch: int, number: Number) -> str | list[int | Entry]:
        """Read the entry that holds a number."""
        if not self._is_open(epoch) or "seq" not in self.log:
            return "fenced"
        entries = [entry for entry in self.outbox or () if entry.id >= number]
        return [int(self.log["seq"]), *entries[:1]]

    # Hydration

    def close(self, epoch: int, event_id: int) -> Answer:
        """Make an event cold."""
        if not self._is_open(epoch):
            return "fenced"
        event = self.events[event_id]
        event.fields, event.users, event.lease = {}, {}, None
        return "closed"

    def lease(self, epoch: int, event_id: int, token: str) -> Answer:
        """Become the one who hydrates an event."""
        event = self.events[event_id]
        if not self._is_open(epoch) or "seq" not in self.log:
            return "fenced"
        if not event.cold(epoch):
            return "warm"
        if event.lease is not None:
            return "busy"
        event.lease, event.staging = token, {}
        return int(self.log["seq"])

    def stage(self, epoch: int, event_id: int, token: str, rows: dict[str, str]) -> Answer:
        """Bring rows."""
        event = self.events[event_id]
        if not self._is_open(epoch):
            return "fenced"
        if event.lease != token:
            return "superseded"
        event.staging |= rows
        return "staged"

    def install(self, epoch: int, wanted: model.Event, token: str, staged: int) -> Answer:
        """Open a hydrated event."""
        event_id, name, total, window = wanted
        event = self.events[event_id]
        if not self._is_open(epoch):
            return "fenced"
        if event.lease != token or len(event.staging) != staged:
            return "superseded"
        event.users, event.staging, event.lease = event.staging, {}, None
        left = total - len(event.users)
        event.fields |= {"epoch": str(epoch), "total": str(total), "left": str(left), "name": name}
        event.fields |= _texts(window)
        return "installed"

    # What follows the ledger

    def repair(
        self,
        epoch: int,
        event_id: int,
        changes: Sequence[Change],
        total: int | None,
        name: str,
        window: model.Window | None,
    ) -> Answer:
        """Compare and set; of an event whose seats add up."""
        event = self.events[event_id]
        if not self._is_open(epoch):
            return "fenced"
        if event.cold(epoch):
            event.lease = None
            return "cold"
        changed = 0
        for user, expected, new in changes:
            if event.users.get(user, "") == (expected or ""):
                changed += 1
                event.users.pop(user, None)
                if new:
                    event.users[user] = str(new)
        if name:
            event.fields["name"] = name
        if window is not None:
            event.fields |= _texts(window)
        known = event.seats[0] if total is None else total
        if known is not None:
            event.fields |= {"total": str(known), "left": str(known - len(event.users))}
        return changed

    def acknowledge(self, epoch: int, seq: int, tail: int) -> Answer:
        """Drop what the ledger took."""
        if not self._is_open(epoch):
            return "fenced"
        acked = _number(self.log.get("acked"))
        if acked is None or acked < seq:
            self.log["acked"] = str(seq)
        if seq > tail and self.outbox is not None:
            keep = Number(epoch, seq - tail)
            self.outbox = [entry for entry in self.outbox if entry.id >= keep]
        return "acknowledged"
