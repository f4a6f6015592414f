"""The search for an order: it finds one where there is one, and nowhere else."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.drill import linear
from bench.drill.linear import PERHAPS, Claim, Op, State, explain

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B, C = 129, 257, 385


def told(claim: Claim, booking: int = 0, *, at: float, until: float = 0, key: str = "") -> Op:
    """A call at one instant, or from one to another; without an answer it has no end."""
    end = inf if claim in PERHAPS else until or at
    return Op(claim, at, end, booking, key)


# By example: one answer of each kind, and what explains it


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([], id="nothing was asked"),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.HELD, A, at=2)], id="what he made he holds"
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1, key="k"), told(Claim.GRANTED, A, at=2, key="k")],
            id="the same key, the same booking",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, A, at=1, key="k"),
                told(Claim.ENDED, A, at=2),
                told(Claim.REPLAYED, A, at=3, key="k"),
                told(Claim.GRANTED, B, at=4),
                told(Claim.REPLAYED, A, at=5, key="k"),
                told(Claim.HELD, B, at=6, key="l"),
            ],
            id="the same key after a cancel, and after another booking",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1, key="k"),
                told(Claim.PERHAPS_CANCELLED, A, at=2),
                told(Claim.REPLAYED, A, at=3, key="k"),
            ],
            id="made and given back, and nobody was told of either",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, A, at=1),
                told(Claim.GIVEN_BACK, A, at=2),
                told(Claim.ENDED, A, at=3),
                told(Claim.CANCELLED, A, at=4),
                told(Claim.NOTHING, at=5),
                told(Claim.GRANTED, B, at=6),
            ],
            id="back, again, and booked anew",
        ),
        pytest.param(
            [told(Claim.HELD, A, at=1, until=5), told(Claim.GRANTED, A, at=2, until=4)],
            id="seen before it was told",
        ),
        pytest.param(
            [told(Claim.NEVER, A, at=1), told(Claim.GONE, A, at=2), told(Claim.GRANTED, A, at=3)],
            id="not yet",
        ),
        pytest.param(
            [told(Claim.PERHAPS_RESERVED, at=1), told(Claim.HELD, A, at=2)],
            id="an answer was lost, and its booking is seen",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1, key="k"),
                told(Claim.GRANTED, A, at=2, key="k"),
                told(Claim.GRANTED, A, at=3, key="k"),
            ],
            id="an answer was lost, and given again",
        ),
        pytest.param(
            [told(Claim.PERHAPS_RESERVED, at=1), told(Claim.NOTHING, at=2)],
            id="what was lost never was",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, A, at=1),
                told(Claim.PERHAPS_CANCELLED, A, at=2),
                told(Claim.HELD, A, at=3),
                told(Claim.GRANTED, B, at=4),
                told(Claim.CANCELLED, A, at=5),
            ],
            id="a cancel comes late",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1),
                told(Claim.PERHAPS_CANCELLED, A, at=1),
                told(Claim.CANCELLED, A, at=2),
            ],
            id="neither was answered",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1),
                told(Claim.PERHAPS_CANCELLED, A, at=1),
                told(Claim.GRANTED, B, at=2),
                told(Claim.CANCELLED, A, at=3),
            ],
            id="come and gone, before another took its place",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1),
                told(Claim.PERHAPS_RESERVED, at=1),
                told(Claim.PERHAPS_CANCELLED, A, at=1),
                told(Claim.PERHAPS_CANCELLED, C, at=1),
                told(Claim.GRANTED, B, at=2),
                told(Claim.CANCELLED, A, at=3),
                told(Claim.CANCELLED, C, at=3),
            ],
            id="two have come and gone",
        ),
    ],
)
def test_order_is_found(ops: list[Op]) -> None:
    """Nothing is lost but answers."""
    assert explain(ops) is None


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param([told(Claim.HELD, A, at=1)], id="from nowhere"),
        pytest.param([told(Claim.IMPOSSIBLE, at=1)], id="what no state explains"),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.GRANTED, B, at=2)], id="two at once"
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1, until=4), told(Claim.GRANTED, B, at=2, until=3)],
            id="two at once, however they overlap",
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.GRANTED, A, at=2)], id="one made twice"
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1, key="k"), told(Claim.GRANTED, A, at=2, key="l")],
            id="another key, the same booking",
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1, key="k"), told(Claim.GRANTED, A, at=2)],
            id="a key, then none, the same booking",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1, key="l"),
                told(Claim.HELD, A, at=2),
                told(Claim.GRANTED, A, at=3, key="k"),
            ],
            id="another key's answer was lost",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, A, at=1),
                told(Claim.ENDED, A, at=2),
                told(Claim.GRANTED, A, at=3),
            ],
            id="an ended one made again",
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.NOTHING, at=2)], id="held and sold out"
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.NEVER, A, at=2)], id="held and unknown"
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.GONE, A, at=2)], id="held and not to cancel"
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.CANCELLED, A, at=2)], id="cancelled by nobody"
        ),
        pytest.param([told(Claim.GIVEN_BACK, A, at=1)], id="back from nobody"),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.LOST, A, at=2)], id="lost, and nothing was"
        ),
        pytest.param(
            [
                told(Claim.GRANTED, A, at=1),
                told(Claim.GIVEN_BACK, A, at=2),
                told(Claim.HELD, A, at=3),
            ],
            id="back again",
        ),
        pytest.param(
            [told(Claim.HELD, A, at=1), told(Claim.PERHAPS_RESERVED, at=2)],
            id="seen before the lost call began",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, A, at=1),
                told(Claim.NOTHING, at=2),
                told(Claim.PERHAPS_CANCELLED, A, at=3),
            ],
            id="free before the lost cancel began",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1),
                told(Claim.HELD, A, at=2),
                told(Claim.ENDED, A, at=3),
                told(Claim.HELD, B, at=4),
            ],
            id="one lost answer made two",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1),
                told(Claim.PERHAPS_RESERVED, at=1),
                told(Claim.HELD, A, at=2),
                told(Claim.ENDED, A, at=3),
                told(Claim.HELD, A, at=4),
            ],
            id="two lost answers made one twice",
        ),
    ],
)
def test_no_order_is_found(ops: list[Op]) -> None:
    """Nothing is lost but answers."""
    found = explain(ops)
    assert found is not None
    assert found.judged


@pytest.mark.parametrize(
    ("ops", "without"),
    [
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.LOST, A, at=2), told(Claim.GONE, A, at=3)],
            {"lost": frozenset[int]()},
            id="lost while it was held",
        ),
        pytest.param(
            [told(Claim.GRANTED, A, at=1), told(Claim.GRANTED, B, at=2), told(Claim.LOST, A, at=3)],
            {"lost": frozenset({B})},
            id="lost, and booked anew",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, A, at=1),
                told(Claim.GIVEN_BACK, A, at=2),
                told(Claim.LOST, A, at=3),
            ],
            {"lost": frozenset[int]()},
            id="cancelled, then both are lost",
        ),
        pytest.param(
            [told(Claim.PERHAPS_RESERVED, at=1), told(Claim.LOST, A, at=2)],
            {"lost": frozenset[int]()},
            id="its answer and it are lost",
        ),
        pytest.param(
            [
                told(Claim.PERHAPS_RESERVED, at=1),
                told(Claim.GRANTED, B, at=2),
                told(Claim.LOST, A, at=3),
            ],
            {"lost": frozenset[int]()},
            id="come and lost, before another took its place",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, B, at=1),
                told(Claim.GIVEN_BACK, B, at=2),
                told(Claim.CANCELLED, B, at=3),
                told(Claim.HELD, B, at=4),
            ],
            {"lossy": False},
            id="a cancel is undone",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, B, at=1),
                told(Claim.PERHAPS_CANCELLED, B, at=2),
                told(Claim.CANCELLED, B, at=3),
                told(Claim.HELD, B, at=4),
            ],
            {"lossy": False},
            id="a cancel without an answer is undone",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, B, at=1),
                told(Claim.GIVEN_BACK, B, at=2),
                told(Claim.GRANTED, A, at=3),
                told(Claim.HELD, B, at=4),
                told(Claim.LOST, A, at=5),
            ],
            {"lost": frozenset[int]()},
            id="a cancel is undone, and what was booked since is lost",
        ),
        pytest.param(
            [
                told(Claim.GRANTED, B, at=1),
                told(Claim.GIVEN_BACK, B, at=2),
                told(Claim.GIVEN_BACK, B, at=3, until=5),
                told(Claim.HELD, B, at=3, until=5),
                told(Claim.GRANTED, C, at=6),
            ],
            {"lossy": False},
            id="a cancel is undone, and it is the repetition that gives it back",
        ),
    ],
)
def test_what_redis_loses_explains(ops: list[Op], without: dict[str, object]) -> None:
    """An order is found; and none is where that loss was not."""
    loss = {"lossy": True, "lost": frozenset({A})}
    assert explain(ops, **loss) is None  # type: ignore[arg-type]
    assert explain(ops, **{**loss, **without}) is not None  # type: ignore[arg-type]


def test_what_the_ledger_ended_no_loss_brings_back() -> None:
    """``DELETE`` 200 is for ever; 202 is not."""
    ops = [told(Claim.GRANTED, A, at=1), told(Claim.ENDED, A, at=2), told(Claim.HELD, A, at=3)]
    assert explain(ops, lossy=True) is not None
    again = [ops[0], told(Claim.GIVEN_BACK, A, at=1.5), *ops[1:]]
    assert explain(again, lossy=True) is not None


def test_what_is_lost_is_cancelled_no_more() -> None:
    """Whatever it was before."""
    ops = [
        told(Claim.GRANTED, A, at=1),
        told(Claim.GIVEN_BACK, A, at=2),
        told(Claim.LOST, A, at=3),
    ]
    lost = frozenset({A})
    assert explain([*ops, told(Claim.LOST, A, at=4)], lossy=True, lost=lost) is None
    assert explain([*ops, told(Claim.CANCELLED, A, at=4)], lossy=True, lost=lost) is not None


def test_cancel_is_repeated_when_another_is_held() -> None:
    """Nothing was undone in between, though it might have been."""
    ops = [
        told(Claim.GRANTED, A, at=1),
        told(Claim.GIVEN_BACK, A, at=2),
        told(Claim.GRANTED, B, at=3),
        told(Claim.GIVEN_BACK, A, at=4),
        told(Claim.ENDED, A, at=5),
    ]
    assert explain(ops, lossy=True) is None


def test_key_is_forgotten_with_a_loss() -> None:
    """Or not: what it made may be answered again, or in the way, or be followed by another."""
    ops = [told(Claim.GRANTED, A, at=1, key="k"), told(Claim.GIVEN_BACK, A, at=2)]
    brought_back = told(Claim.HELD, A, at=3)
    for last in (told(Claim.HELD, A, at=4, key="k"), told(Claim.GRANTED, A, at=4, key="k")):
        assert explain([*ops, brought_back, last], lossy=True) is None
        assert explain([*ops, last], lossy=True) is None
        assert explain([*ops, last]) is not None
    anew = told(Claim.GRANTED, B, at=4, key="k")
    assert explain([*ops, anew], lossy=True) is None
    assert explain([*ops, anew]) is not None


def test_names_where_it_could_not_go_on() -> None:
    """How far the longest attempt came, what it held, and the calls that do not fit."""
    ops = [
        told(Claim.GRANTED, A, at=1),
        told(Claim.HELD, A, at=2),
        told(Claim.NOTHING, at=3, until=5),
        told(Claim.HELD, B, at=4, until=5),
        told(Claim.HELD, A, at=6),
    ]
    found = explain(ops)
    assert found == (True, 2, State(held=A), (2, 3))
    ops = [
        told(Claim.GRANTED, B, at=1, until=5),
        told(Claim.GRANTED, A, at=2, until=5),
        told(Claim.ENDED, A, at=3, until=5),
        told(Claim.NOTHING, at=6),
    ]
    found = explain(ops)
    assert found == (True, 3, State(held=B, ended=frozenset({A})), (3,))


def test_gives_up_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many ways, nothing passes in silence."""
    monkeypatch.setattr(linear, "MAX_NODES", 50)
    many = [told(Claim.PERHAPS_RESERVED, at=0, key=str(n)) for n in range(12)]
    seen = [told(Claim.HELD, n, at=n) for n in range(1, 5)]
    cancels = [told(Claim.PERHAPS_CANCELLED, n, at=0) for n in range(1, 5)]
    found = explain([*many, *cancels, *seen, told(Claim.IMPOSSIBLE, at=9)])
    assert found is not None
    assert not found.judged


# Against two stores, one of which forgets


class Step(NamedTuple):
    """What is done next; the call began so much earlier, and its answer came so much later."""

    verb: str
    pick: int
    waits: bool
    key: str
    early: float
    late: float
    answered: bool


def _steps(*verbs: str) -> st.SearchStrategy[list[Step]]:
    seconds = st.floats(0, 3, allow_nan=False).map(lambda number: round(number, 2))
    step = st.builds(
        Step,
        st.sampled_from(verbs),
        st.integers(0, 7),
        st.booleans(),
        st.sampled_from(["", "", "k", "l"]),
        seconds,
        seconds,
        st.integers(0, 4).map(bool),
    )
    return st.lists(step, max_size=40)


class Store(NamedTuple):
    """What a store knows of one user at one event."""

    held: int = 0
    cancelled: frozenset[int] = frozenset()

    def knows(self, booking: int) -> bool:
        """Whether it has a booking, held or cancelled."""
        return booking == self.held or booking in self.cancelled


class Sale:
    """A Redis that may forget what the ledger has not taken, and what callers are told."""

    def __init__(self, steps: list[Step]) -> None:
        self.redis = self.ledger = Store()
        self.made = 0
        self.records: dict[str, int] = {}
        self.known: list[int] = []
        self.lost: set[int] = set()
        self.is_lossy = any(step.verb == "lose" for step in steps)
        self.ops = [op for at, step in enumerate(steps, 1) for op in self._calls(step, at)]
        self.after = [self.read(booking, 100 + n) for n, booking in enumerate(self.known)]

    @property
    def history(self) -> list[Op]:
        """Everything that callers were told, the last look included."""
        return sorted([*self.ops, *self.after], key=lambda op: op.begin)

    def explain(self, *more: Op) -> linear.Unexplained | None:
        """Search, with more answers after all the others."""
        return explain([*self.history, *more], lossy=self.is_lossy, lost=frozenset(self.lost))

    def read(self, booking: int, at: float) -> Op:
        """Read a booking."""
        if booking in self.lost:
            return told(Claim.LOST, booking, at=at)
        held = self.redis.held == booking
        return told(Claim.HELD if held else Claim.CANCELLED, booking, at=at)

    def _calls(self, step: Step, at: int) -> Iterator[Op]:
        if step.verb == "drain":
            self.ledger = self.redis
        elif step.verb == "lose":
            self._lose(step)
        elif step.verb == "reserve":
            yield from self._spread(self._reserve(step), step, at)
        elif self.known:
            booking = self.known[step.pick % len(self.known)]
            op = self.read(booking, at) if step.verb == "read" else self._cancel(step, booking)
            yield from self._spread(op, step, at)

    def _spread(self, op: Op, step: Step, at: int) -> Iterator[Op]:
        spread = op._replace(begin=at - step.early, end=at + step.late)
        if step.answered:
            if op.booking and op.booking not in self.known:
                self.known.append(op.booking)
            yield spread
        elif step.verb == "reserve":
            yield Op(Claim.PERHAPS_RESERVED, spread.begin, key=step.key)
        elif step.verb == "cancel":
            yield Op(Claim.PERHAPS_CANCELLED, spread.begin, booking=op.booking)

    def _reserve(self, step: Step) -> Op:
        if booking := self.records.get(step.key, 0):
            claim = Claim.GRANTED if booking == self.redis.held else Claim.REPLAYED
            return told(claim, booking, at=0, key=step.key)
        if self.redis.held:
            return told(Claim.HELD, self.redis.held, at=0, key=step.key)
        if step.pick == 0:
            return told(Claim.NOTHING, at=0, key=step.key)
        self.made += 1
        self.redis = self.redis._replace(held=self.made)
        if step.key:
            self.records[step.key] = self.made
        if step.waits:
            self.ledger = self.redis
        return told(Claim.GRANTED, self.made, at=0, key=step.key)

    def _cancel(self, step: Step, booking: int) -> Op:
        if booking in self.lost:
            return told(Claim.GONE, booking, at=0)
        if self.redis.held == booking:
            self.redis = Store(cancelled=self.redis.cancelled | {booking})
        if step.waits:
            self.ledger = self.redis
        return told(Claim.ENDED if step.waits else Claim.GIVEN_BACK, booking, at=0)

    def _lose(self, step: Step) -> None:
        made = range(1, self.made + 1)
        self.lost |= {n for n in made if self.redis.knows(n) and not self.ledger.knows(n)}
        self.redis = self.ledger
        keeps = bool(step.pick % 2)  # an older Redis has what it knew then, an empty one nothing
        kept = self.records.items() if keeps else ()
        self.records = {key: n for key, n in kept if self.ledger.knows(n)}


TWO_MADE = [
    Step(verb, pick=1, waits=False, key="", early=0, late=0, answered=True)
    for verb in ("reserve", "cancel", "reserve")
]
CALLS = ("reserve", "reserve", "cancel", "read", "drain")


@settings(max_examples=250, deadline=None)
@given(_steps(*CALLS) | _steps(*CALLS, "lose"))
def test_what_happened_one_after_the_other_is_explained(steps: list[Step]) -> None:
    """However calls overlap, whichever answers are lost, and whatever Redis forgets."""
    assert Sale(steps).explain() is None


def _wrong(sale: Sale) -> Iterator[Op]:
    """Answers that cannot be true after all that was told before."""
    unanswered = {op.booking for op in sale.ops if op.claim is Claim.PERHAPS_CANCELLED}
    ended = {op.booking for op in sale.ops if op.claim is Claim.ENDED}
    yield told(Claim.IMPOSSIBLE, at=500)
    for booking in sale.known:
        yield told(Claim.NEVER, booking, at=500)
        yield told(Claim.GRANTED, booking, at=500)
        if booking in ended:
            yield told(Claim.HELD, booking, at=500)
        if booking not in sale.lost:
            yield told(Claim.LOST, booking, at=500)
            yield told(Claim.GONE, booking, at=500)
    for op in sale.after:
        if op.claim is Claim.HELD and op.booking not in unanswered:
            yield told(Claim.CANCELLED, op.booking, at=500)
            yield told(Claim.NOTHING, at=500)
            yield told(Claim.GRANTED, sale.made + 1, at=500)
        if op.claim is Claim.CANCELLED and not sale.is_lossy:
            yield told(Claim.HELD, op.booking, at=500)
    used = {op.key for op in sale.ops if op.claim is Claim.GRANTED and op.key}
    for key in used if not sale.is_lossy else ():
        yield told(Claim.GRANTED, sale.made + 1, at=500, key=key)
        yield told(Claim.NOTHING, at=500, key=key)
        for booking in sale.known:
            yield told(Claim.HELD, booking, at=500, key=key)
    if not any(op.claim is Claim.PERHAPS_RESERVED for op in sale.ops):
        yield told(Claim.HELD, sale.made + 1, at=500)
        yield told(Claim.GIVEN_BACK, sale.made + 1, at=500)


@settings(max_examples=250, deadline=None)
@given(_steps(*CALLS) | _steps(*CALLS, "lose"), st.data())
def test_what_cannot_have_happened_is_not_explained(steps: list[Step], data: st.DataObject) -> None:
    """One wrong answer in the end."""
    sale = Sale(steps)
    wrong = data.draw(st.sampled_from(list(_wrong(sale))))
    found = sale.explain(wrong)
    assert found is not None
    assert found.judged


@settings(max_examples=200, deadline=None)
@given(_steps(*CALLS), st.data())
def test_booking_that_two_calls_made_is_not_explained(
    steps: list[Step], data: st.DataObject
) -> None:
    """One wrong answer in the middle."""
    sale = Sale([*TWO_MADE, *steps])
    made = [n for n, op in enumerate(sale.history) if op.claim is Claim.GRANTED and not op.key]
    one, other = data.draw(st.permutations(made))[:2]
    history = sale.history
    history[one] = history[one]._replace(booking=history[other].booking)
    found = explain(history)
    assert found is not None
    assert found.judged


# Against a plain search that makes every move at every place


NEW, HELD, SOFT, HARD, GONE = "new", "held", "soft", "hard", "gone"
Made = frozenset[tuple[str, int]]
REPLAYS = {Claim.GRANTED: (HELD,), Claim.REPLAYED: (SOFT, HARD)}
SEEN = {
    Claim.CANCELLED: (SOFT, HARD),
    Claim.LOST: (GONE,),
    Claim.GONE: (NEW, GONE),
    Claim.NEVER: (NEW,),
}
GIVEN_BACK = {
    Claim.GIVEN_BACK: (HELD, SOFT, HARD),
    Claim.ENDED: (HELD, SOFT, HARD),
    Claim.PERHAPS_CANCELLED: (HELD,),
}


class Plain:
    """Every order, and every hidden move wherever it is possible."""

    def __init__(self, ops: list[Op], *, lossy: bool, lost: frozenset[int]) -> None:
        self.ops, self.lossy, self.lost = ops, lossy, lost
        self.seen: set[tuple[object, ...]] = set()

    def explains(self, left: frozenset[int], states: tuple[str, ...], made: Made) -> bool:
        """Whether what is left can follow; ``states`` are those of the bookings from 0."""
        if all(self.ops[i].claim in PERHAPS for i in left):
            return True
        if (left, states, made) in self.seen:
            return False
        self.seen.add((left, states, made))
        return any(self.explains(*each) for each in self._moves(left, states, made))

    def _moves(
        self, left: frozenset[int], states: tuple[str, ...], made: Made
    ) -> Iterator[tuple[frozenset[int], tuple[str, ...], Made]]:
        for booking in self.lost:
            if states[booking] != NEW:
                yield left, _with(states, booking, GONE), made
        for booking, state in enumerate(states):
            if self.lossy and state == SOFT and HELD not in states:
                yield left, _with(states, booking, HELD), made
        for i in left:
            if not any(self.ops[j].end < self.ops[i].begin for j in left):
                for after, made_after in self._acts(self.ops[i], states, made):
                    yield left - {i}, after, made_after

    def _acts(
        self, op: Op, states: tuple[str, ...], made: Made
    ) -> Iterator[tuple[tuple[str, ...], Made]]:
        state, free = states[op.booking], HELD not in states
        anew = self.lossy or op.key not in dict(made)
        replay = (op.key, op.booking) in made and state in REPLAYS.get(op.claim, ())
        refused = (op.claim is Claim.HELD and state == HELD) or (op.claim is Claim.NOTHING and free)
        back = SOFT if self.lossy and state != HARD and op.claim is not Claim.ENDED else HARD
        if state in SEEN.get(op.claim, ()) or replay or (refused and anew):
            yield states, made
        elif state in GIVEN_BACK.get(op.claim, ()):
            yield _with(states, op.booking, back), made
        elif op.claim is Claim.GRANTED and state == NEW and free and anew:
            yield _with(states, op.booking, HELD), _noted(made, op.key, op.booking)
        elif op.claim is Claim.PERHAPS_RESERVED and free and anew:
            for booking, each in enumerate(states):
                if each == NEW:
                    yield _with(states, booking, HELD), _noted(made, op.key, booking)


def _noted(made: Made, key: str, booking: int) -> Made:
    return made | {(key, booking)} if key else made


def _with(states: tuple[str, ...], booking: int, state: str) -> tuple[str, ...]:
    return (*states[:booking], state, *states[booking + 1 :])


_claims = st.sampled_from([claim for claim in Claim if claim is not Claim.IMPOSSIBLE])
_ops = st.builds(
    lambda claim, booking, key, begin, length: told(
        claim, booking, at=begin, until=begin + length, key=key
    ),
    _claims,
    st.integers(1, 2),
    st.sampled_from(["", "k", "l"]),
    st.integers(1, 8),
    st.integers(0, 6),
)


@settings(max_examples=1000, deadline=None)
@given(
    ops=st.lists(_ops, max_size=8),
    lossy=st.booleans(),
    lost=st.frozensets(st.integers(1, 2)),
)
def test_search_agrees_with_a_plain_one(
    ops: list[Op], *, lossy: bool, lost: frozenset[int]
) -> None:
    """What the search leaves out for speed would not have helped."""
    ops = sorted(ops, key=lambda op: op.begin)
    plain = Plain(ops, lossy=lossy, lost=lost)
    states = (GONE, NEW, NEW, NEW)  # 0 is no booking, and 3 is one that no answer names
    explains = plain.explains(frozenset(range(len(ops))), states, frozenset())
    assert (explain(ops, lossy=lossy, lost=lost) is None) == explains
