"""Whether one user's calls about one event can have happened one after the other.

This is the search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with the
memory of Lowe ("Testing for linearizability", 2017): of the calls that may come next, place one
whose answer is true; go back where none is; never look twice at the same calls with the same state.

A call without an answer may have happened at any time since it began, or never. It, and what a loss
of Redis takes or brings back, is a *hidden move*. Hidden moves are made only where the next answer
needs one: made earlier they would only stand in the way. For the same reason a reservation without
an answer never made a booking that nobody ever saw. There is one exception: a booking may have come
and gone by hidden moves alone, before another took its place. An answer that is true as things
stand and changes nothing is placed at once, without a choice.
"""

from __future__ import annotations

from enum import StrEnum, auto
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_NODES: Final = 20_000
"""How many places the search looks at before it gives up. Hundreds are usual."""


class Claim(StrEnum):
    """What an answer says of the user at some instant of the call."""

    GRANTED = auto()
    """The booking was made, or he holds it and it was made under the same key."""
    REPLAYED = auto()
    """The booking was made under the same key, and was given back since."""
    HELD = auto()
    """He holds the booking."""
    NOTHING = auto()
    """He holds no booking."""
    GIVEN_BACK = auto()
    """The booking was given back, now or before."""
    ENDED = auto()
    """The same, and the ledger knows: no loss of Redis brings it back."""
    CANCELLED = auto()
    """The booking was given back before."""
    LOST = auto()
    """The booking is lost."""
    GONE = auto()
    """The booking is lost, or was not made yet."""
    NEVER = auto()
    """The booking was not made yet."""
    IMPOSSIBLE = auto()
    """No state explains this answer."""
    PERHAPS_RESERVED = auto()
    """No answer came; a booking may have been made."""
    PERHAPS_CANCELLED = auto()
    """No answer came; the booking may have been given back."""


PERHAPS: Final = (Claim.PERHAPS_RESERVED, Claim.PERHAPS_CANCELLED)


class Op(NamedTuple):
    """A call: its claim, and the seconds between which it took place.

    ``key`` is the Idempotency-Key of a reservation. What it asks for under a key that has made a
    booking is that booking: it is not told of another one, nor that there is no seat.
    """

    claim: Claim
    begin: float
    end: float = inf
    booking: int = 0
    key: str = ""


class State(NamedTuple):
    """One user at one event: the booking that he holds (0: none), and what became of the others.

    ``cancelled`` can be undone by a loss of Redis and is empty where there was none; ``ended``
    cannot. ``made`` are keys, each with a booking that was made under it.
    """

    held: int = 0
    cancelled: frozenset[int] = frozenset()
    ended: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    made: frozenset[tuple[str, int]] = frozenset()

    def is_new(self, booking: int) -> bool:
        """Whether a booking was not made yet."""
        known = self.cancelled, self.ended, self.gone
        return booking != self.held and not any(booking in bookings for bookings in known)

    def has_used(self, key: str) -> bool:
        """Whether a booking was made under a key."""
        return any(key == used for used, _ in self.made)

    def reserve(self, booking: int, key: str) -> State:
        """Make a booking."""
        made = self.made | {(key, booking)} if key else self.made
        return self._replace(held=booking, made=made)

    def cancel(self, booking: int, *, for_ever: bool) -> State:
        """Give a booking back, or say of one that was given back that it is so for ever."""
        held = 0 if self.held == booking else self.held
        cancelled, ended = self.cancelled - {booking}, self.ended
        if for_ever:
            ended |= {booking}
        else:
            cancelled |= {booking}
        return self._replace(held=held, cancelled=cancelled, ended=ended)

    def bring_back(self, booking: int) -> State:
        """Undo a cancel."""
        return self._replace(held=booking, cancelled=self.cancelled - {booking})

    def lose(self, booking: int) -> State:
        """Let a booking be lost."""
        held = 0 if self.held == booking else self.held
        gone, lost = self.gone | {booking}, {booking}
        return State(held, self.cancelled - lost, self.ended - lost, gone, self.made)


class Node(NamedTuple):
    """A place in the search: which calls are placed (a bit each), and what they led to."""

    placed: int
    state: State


class Unexplained(NamedTuple):
    """No order was found.

    Attributes:
        judged: False where the search gave up; then there may be one.
        placed: how many answers the longest attempt could place.
        state: what they led to.
        next: the calls that could come next, none of which fits: their places in the history.
    """

    judged: bool
    placed: int
    state: State
    next: tuple[int, ...]


def explain(
    ops: Sequence[Op], *, lossy: bool = False, lost: frozenset[int] = frozenset()
) -> Unexplained | None:
    """Search for an order in which every answer is true; None if there is one.

    Args:
        ops: one user's calls about one event, in the order of their begins.
        lossy: whether a loss of Redis may have undone a cancel that the ledger did not have, or
            what a key has made forgotten.
        lost: the bookings that a loss of Redis has taken.
    """
    return _Search(ops, lossy=lossy, lost=lost).run()


class _Search:
    def __init__(self, ops: Sequence[Op], *, lossy: bool, lost: frozenset[int]) -> None:
        self._ops = ops
        self._lossy = lossy
        self._lost = lost
        self._known = sum(1 << i for i, op in enumerate(ops) if op.claim not in PERHAPS)
        self._perhaps = [i for i, op in enumerate(ops) if op.claim in PERHAPS]
        self._fleeting = self._never_seen_held()
        self._places = {
            Claim.GRANTED: self._granted,
            Claim.REPLAYED: self._replayed,
            Claim.HELD: self._held,
            Claim.NOTHING: self._nothing,
            Claim.GIVEN_BACK: self._given_back,
            Claim.ENDED: self._given_back,
            Claim.CANCELLED: self._cancelled,
            Claim.LOST: self._is_lost,
            Claim.GONE: self._is_lost,
        }

    def _never_seen_held(self) -> tuple[int, ...]:
        """The bookings that may come and go by hidden moves alone."""
        gone = (Claim.REPLAYED, Claim.GIVEN_BACK, Claim.ENDED, Claim.CANCELLED, Claim.LOST)
        named = {op.booking for op in self._ops if op.claim in gone}
        cancels = {op.booking for op in self._ops if op.claim is Claim.PERHAPS_CANCELLED}
        return tuple(sorted(named & (cancels | self._lost)))

    def run(self) -> Unexplained | None:
        stack, seen = [Node(0, State())], set[Node]()
        furthest = stack[0]
        while stack:
            node = self._observe(stack.pop())
            if self._known & ~node.placed == 0:
                return None
            if node in seen:
                continue
            seen.add(node)
            furthest = max(furthest, node, key=self._count)
            if len(seen) > MAX_NODES:
                return self._unexplained(furthest, judged=False)
            stack.extend(self._next(node))
        return self._unexplained(furthest, judged=True)

    def _unexplained(self, furthest: Node, *, judged: bool) -> Unexplained:
        following = tuple(self._following(furthest)[0])
        return Unexplained(judged, self._count(furthest), furthest.state, following)

    def _count(self, node: Node) -> int:
        return (node.placed & self._known).bit_count()

    def _following(self, node: Node) -> tuple[list[int], float]:
        """The answers that may come next, and the first instant at which one of them had come.

        A call that began later than that instant comes later.
        """
        found, limit = [], inf
        left = self._known & ~node.placed
        while left:
            lowest = left & -left
            i = lowest.bit_length() - 1
            if self._ops[i].begin > limit:
                break
            found.append(i)
            limit = min(limit, self._ops[i].end)
            left ^= lowest
        return found, limit

    def _observe(self, node: Node) -> Node:
        """Place what is true as things stand and changes nothing."""
        while True:
            following, _ = self._following(node)
            true = sum(1 << i for i in following if self._is_plain(node.state, self._ops[i]))
            if not true:
                return node
            node = Node(node.placed | true, node.state)

    def _next(self, node: Node) -> Iterator[Node]:
        following, limit = self._following(node)
        for i in following:
            op = self._ops[i]
            if place := self._places.get(op.claim):
                for placed, state in place(node, op, limit):
                    yield Node(placed | 1 << i, state)

    # An answer's ways to be true; what it changes is changed

    def _granted(self, node: Node, op: Op, limit: float) -> Iterator[Node]:
        if op.booking in node.state.cancelled and (op.key, op.booking) in node.state.made:
            yield from self._holding(node, op.booking, limit)  # a replay, after a cancel was undone
        for free in self._vacant(node, limit):
            if free.state.is_new(op.booking) and self._is_free(free.state, op.key):
                yield Node(free.placed, free.state.reserve(op.booking, op.key))

    def _replayed(self, node: Node, op: Op, limit: float) -> Iterator[Node]:
        for cancelled in self._cancelled(node, op, limit):
            if (op.key, op.booking) in cancelled.state.made:
                yield cancelled

    def _held(self, node: Node, op: Op, limit: float) -> Iterator[Node]:
        for holding in self._holding(node, op.booking, limit):
            if self._is_free(holding.state, op.key):
                yield holding

    def _nothing(self, node: Node, op: Op, limit: float) -> Iterator[Node]:
        for free in self._free(node, limit):
            if self._is_free(free.state, op.key):
                yield free

    def _given_back(self, node: Node, op: Op, limit: float) -> Iterator[Node]:
        for_ever = op.claim is Claim.ENDED or not self._lossy
        before = [node] if op.booking in node.state.cancelled else []
        for placed, state in (*before, *self._holding(node, op.booking, limit)):
            yield Node(placed, state.cancel(op.booking, for_ever=for_ever))

    def _cancelled(self, node: Node, op: Op, limit: float) -> Iterator[Node]:
        for holding in self._holding(node, op.booking, limit):
            yield from self._perhaps_cancelled(holding, limit)

    def _is_lost(self, node: Node, op: Op, limit: float) -> Iterator[Node]:
        if op.booking not in self._lost:
            return
        new = node.state.is_new(op.booking)
        nodes = self._holding(node, op.booking, limit) if new else [node]
        for placed, state in nodes:
            yield Node(placed, state.lose(op.booking))

    # Hidden moves

    def _vacant(self, node: Node, limit: float) -> Iterator[Node]:
        """The ways to hold nothing, before something else is held."""
        for free in self._free(node, limit):
            yield free
            yield from self._come_and_gone(free, self._fleeting, limit)

    def _come_and_gone(self, node: Node, bookings: tuple[int, ...], limit: float) -> Iterator[Node]:
        for place, booking in enumerate(bookings):
            if node.state.is_new(booking):
                for holding in self._perhaps_reserved(node, booking, limit):
                    for free in self._free(holding, limit):
                        yield free
                        yield from self._come_and_gone(free, bookings[place + 1 :], limit)

    def _free(self, node: Node, limit: float) -> Iterator[Node]:
        """The ways to hold nothing."""
        held = node.state.held
        if not held:
            yield node
            return
        yield from self._perhaps_cancelled(node, limit)
        if held in self._lost:
            yield Node(node.placed, node.state.lose(held))

    def _holding(self, node: Node, booking: int, limit: float) -> Iterator[Node]:
        """The ways to hold a booking."""
        if node.state.held == booking:
            yield node
            return
        for free in self._vacant(node, limit):
            if booking in free.state.cancelled:
                yield Node(free.placed, free.state.bring_back(booking))
            elif free.state.is_new(booking):
                yield from self._perhaps_reserved(free, booking, limit)

    def _perhaps_cancelled(self, node: Node, limit: float) -> Iterator[Node]:
        """Let a cancel without an answer give back what is held."""
        held = node.state.held
        for i in self._unanswered(node, Claim.PERHAPS_CANCELLED, limit):
            if self._ops[i].booking == held:
                state = node.state.cancel(held, for_ever=not self._lossy)
                yield Node(node.placed | 1 << i, state)
                return  # one is as good as another

    def _perhaps_reserved(self, node: Node, booking: int, limit: float) -> Iterator[Node]:
        """Let a reservation without an answer have made a booking: of each key one."""
        firsts: dict[str, int] = {}
        for i in self._unanswered(node, Claim.PERHAPS_RESERVED, limit):
            firsts.setdefault(self._ops[i].key, i)
        for key, i in firsts.items():
            if self._is_free(node.state, key):
                yield Node(node.placed | 1 << i, node.state.reserve(booking, key))

    def _unanswered(self, node: Node, claim: Claim, limit: float) -> Iterator[int]:
        for i in self._perhaps:
            op = self._ops[i]
            if op.claim is claim and op.begin <= limit and not node.placed >> i & 1:
                yield i

    # What is true as things stand

    def _is_free(self, state: State, key: str) -> bool:
        """Whether a reservation under a key may be judged anew."""
        return self._lossy or not state.has_used(key)

    def _is_plain(self, state: State, op: Op) -> bool:
        """Whether an answer is true as things stand, and changes nothing now or later.

        A cancel repeated is not plain while a loss of Redis may undo the first one: then it may be
        the repetition that gives the booking back.
        """
        booking, is_free = op.booking, self._is_free(state, op.key)
        is_back = booking in state.cancelled or booking in state.ended
        is_replay = (op.key, booking) in state.made
        return {
            Claim.GRANTED: state.held == booking and is_replay,
            Claim.REPLAYED: is_back and is_replay,
            Claim.HELD: state.held == booking and is_free,
            Claim.NOTHING: not state.held and is_free,
            Claim.GIVEN_BACK: booking in state.ended,
            Claim.ENDED: booking in state.ended,
            Claim.CANCELLED: is_back,
            Claim.LOST: booking in state.gone,
            Claim.GONE: booking in state.gone or state.is_new(booking),
            Claim.NEVER: state.is_new(booking),
        }.get(op.claim, False)
