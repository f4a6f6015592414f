"""What the model is made of: one partition, one event, two users, as values that can be hashed.

A number is ``10 · epoch + seq`` here, so that numbers compare as in the engine; 0 is no number, and
1 to 9 are rows by hand. Users are 0 and 1; what they hold is a pair.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from engine.model import Status

Number: TypeAlias = int
Pair: TypeAlias = tuple[Number, Number]

USERS: Final = (0, 1)
NAMES: Final = ("ann", "bob")
NOBODY: Final[Pair] = (0, 0)
OPEN: Final = 10
"""Numbers of an epoch, its opening entry among them."""

# What a hand has touched, or Redis has lost: it excuses what would otherwise be a broken promise.
LEDGER_EDITED: Final = 1
KEY_DELETED: Final = 2
OUTBOX_TRIMMED: Final = 4


class Item(NamedTuple):
    """A reserve, or a cancel if it names a booking."""

    number: Number
    user: int
    booking: Number = 0


class Entry(NamedTuple):
    """What one script call decided; its id is the number of its last item."""

    id: Number
    items: tuple[Item, ...] = ()


class Event(NamedTuple):
    """The event's hash in Redis."""

    epoch: int
    total: int
    left: int


class Redis(NamedTuple):
    """One Redis. ``seq`` is -1 where the log is gone, ``stream`` None where the outbox is.

    ``last`` is the last id the stream has had, ``scripts`` a bit for each epoch. ``name`` changes
    when it restarts or is promoted, and ``master`` is the one in the log; ``life`` changes when
    connections to it break. For the promises alone: ``lost`` says that it restarted or went back,
    and was not recovered since.
    """

    epoch: int
    seq: int
    acked: int
    stream: tuple[Entry, ...] | None
    last: Number
    event: Event | None
    users: Pair
    lease: int
    staged: Pair
    scripts: int
    name: int
    master: int
    life: int
    lost: bool


class Ledger(NamedTuple):
    """Postgres. ``closed`` has each epoch's last number, or None while it is open."""

    epoch: int
    recovering: bool
    mark: Number
    shift: int
    total: int
    rows: Pair
    rejected: tuple[Number, ...]
    closed: tuple[tuple[int, int | None], ...]
    gaps: tuple[Number, ...]
    by_hand: int
    locked: bool

    def fate(self, number: Number) -> Status:
        """What the ledger says of a number, as the query ``fates`` does."""
        if number > self.mark:
            return Status.PENDING
        epoch, seq = divmod(number, OPEN)
        if epoch < self.mark // OPEN and seq > (dict(self.closed).get(epoch) or 0):
            return Status.LOST
        if number in self.gaps:
            return Status.LOST
        return Status.REJECTED if number in self.rejected else Status.CONFIRMED


class Refused(NamedTuple):
    """An item that the ledger rejected, and the booking that the user has instead."""

    number: Number
    user: int
    holder: Number


class Drainer(NamedTuple):
    """A worker. ``after`` and ``to`` are the stretch that it committed and has yet to tell."""

    at: str = "off"
    shift: int = 0
    epoch: int = 0
    mark: Number = 0
    batch: tuple[Item, ...] = ()
    after: Number = 0
    to: Number = 0
    refused: tuple[Refused, ...] = ()
    old: bool = False


class Recoverer(NamedTuple):
    """Somebody who saw the fence."""

    at: str = "off"
    epoch: int = 0
    mark: Number = 0
    batch: tuple[Item, ...] = ()
    life: int = 0
    old: bool = False


class Hydrator(NamedTuple):
    """Somebody who saw the event cold; ``need`` is what the mark must reach."""

    at: str = "off"
    epoch: int = 0
    need: Number = 0
    staged: int = 0
    total: int = 0


class Reconciler(NamedTuple):
    """A reconciliation under way, which began at the mark ``since``.

    ``seats``: the event itself differs. ``fresh``: no hand has been at work since it began.
    """

    at: str = "off"
    epoch: int = 0
    candidates: tuple[int, ...] = ()
    since: Number = 0
    mark: Number = 0
    rows: Pair = NOBODY
    total: int = 0
    held: Pair = NOBODY
    on_their_way: tuple[int, ...] = ()
    seats: bool = False
    fresh: bool = False


class Fact(NamedTuple):
    """A number that a caller was given. ``excused``: Redis has lost it. ``removed``: by hand."""

    number: Number
    user: int
    booking: Number
    excused: bool = False
    removed: bool = False


class World(NamedTuple):
    """Everything.

    ``old`` is a master that was replaced and still answers; ``behind`` is what the disk, or the
    replica, has of Redis once it lags. ``facts``, ``hands``,
    ``unfollowed`` and ``broken`` are there for the promises alone.
    """

    ledger: Ledger
    redis: Redis
    old: Redis | None
    behind: Redis | None
    drainers: tuple[Drainer, ...]
    recoverers: tuple[Recoverer, ...]
    hydrators: tuple[Hydrator, ...]
    reconcilers: tuple[Reconciler, ...]
    calls: int
    faults: int
    facts: tuple[Fact, ...] = ()
    hands: int = 0
    unfollowed: bool = False
    broken: str = ""


class Scope(NamedTuple):
    """How much of it is searched: who is there, how often, what may go wrong, what is planted."""

    seats: int = 1
    drainers: int = 1
    recoverers: int = 0
    hydrators: int = 0
    reconcilers: int = 0
    calls: int = 2
    shifts: int = 1
    epochs: int = 1
    faults: int = 0
    kinds: frozenset[str] = frozenset()
    cold: bool = False
    planted: frozenset[str] = frozenset()


def first(scope: Scope) -> World:
    """An open partition at epoch 1, nothing sold."""
    event = None if scope.cold else Event(1, scope.seats, scope.seats)
    redis = Redis(
        epoch=1, seq=0, acked=0, stream=(Entry(OPEN),), last=OPEN, event=event, users=NOBODY,
        lease=0, staged=NOBODY, scripts=1 << 1, name=0, master=0,
        life=0, lost=False,
    )  # fmt: skip
    ledger = Ledger(
        epoch=1, recovering=False, mark=OPEN, shift=0, total=scope.seats, rows=NOBODY, rejected=(),
        closed=((1, None),), gaps=(), by_hand=0, locked=False,
    )  # fmt: skip
    return World(
        ledger, redis, None, None,
        (Drainer(),) * scope.drainers,
        (Recoverer(),) * scope.recoverers,
        (Hydrator(),) * scope.hydrators,
        (Reconciler(),) * scope.reconcilers,
        scope.calls, scope.faults,
    )  # fmt: skip


def count(pair: Pair) -> int:
    """How many of the users hold something."""
    return sum(map(bool, pair))


def put(pair: Pair, user: int, number: Number) -> Pair:
    """The pair with another number for one user."""
    return (number, pair[1]) if user == 0 else (pair[0], number)


def text(number: Number) -> str:
    """A number as the engine writes it."""
    return f"{number // OPEN}-{number % OPEN}"
