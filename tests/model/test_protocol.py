"""The protocol keeps its promises in every world that a search reaches, and errors are found in it.

The searches are exhaustive within their scopes; the walks are seeded and wider. A promise that is
broken is printed with the shortest way to it.

Every planted error below must be found, or the model would see nothing. What was tried and cannot
be found, and why:

- *a drain that does not look at the shift*: the mark and the numbers let nothing be taken twice;
  shifts only keep two workers from doing the same work.
- *a reconciliation that does not look at the epoch under the lock*: its scripts are fenced, no
  epoch can be opened while it holds the lock, and in a new epoch all events are loaded anew.
- *a search that reads the ledger before Redis*, or in whatever order: it only names users, and
  each is judged again under the lock.
- *a message of the drain that is published twice, or not at all*: whoever waits asks the ledger.
"""

from __future__ import annotations

import pytest

from tests.model.search import breadth_first, walk
from tests.model.state import Scope
from tests.model.steps.faults import FAULTS

LOSS = frozenset({"restart", "lose", "flush"})
HANDS = frozenset({"insert", "delete", "cut"})

SCOPES = {
    "two drains, one seat": Scope(drainers=2, calls=4, shifts=3),
    "two drains, two seats": Scope(seats=2, drainers=2, calls=3, shifts=2),
    "two recoveries": Scope(
        recoverers=2, hydrators=1, calls=2, shifts=2, epochs=2, faults=1, kinds=LOSS
    ),
    "three epochs": Scope(recoverers=2, calls=1, epochs=3, faults=1, kinds=LOSS),
    "a replica is promoted": Scope(
        recoverers=1, hydrators=1, calls=2, epochs=2, faults=1, kinds=frozenset({"promote"})
    ),
    "a master comes back older": Scope(
        recoverers=1, hydrators=1, calls=2, epochs=2, faults=1, kinds=frozenset({"resync"})
    ),
    "the outbox is trimmed": Scope(
        seats=2, recoverers=1, calls=2, epochs=2, faults=1, kinds=frozenset({"trim", "keys"})
    ),
    "two hydrations": Scope(hydrators=2, calls=3, faults=1, kinds=frozenset({"keys"})),
    "hands while it is loaded": Scope(
        cold=True, hydrators=1, reconcilers=1, calls=2, faults=1, kinds=HANDS | {"keys"}
    ),
    "a reconciliation": Scope(reconcilers=1, calls=3),
    "hands, and a reconciliation": Scope(reconcilers=1, calls=2, faults=1, kinds=HANDS),
    "a reconciliation in a recovery": Scope(
        recoverers=1, reconcilers=1, calls=1, epochs=2, faults=1, kinds=LOSS | HANDS
    ),
}
WIDE = Scope(
    seats=2, drainers=2, recoverers=2, hydrators=2, reconcilers=1,
    calls=6, shifts=6, epochs=5, faults=4, kinds=frozenset(FAULTS),
)  # fmt: skip

# Scopes just wide enough for the errors beside them.
SALE = Scope(drainers=2, calls=3, shifts=2)
LOSSES = SCOPES["two recoveries"]._replace(shifts=1)
TRIMS = Scope(seats=2, recoverers=1, calls=3, epochs=2, faults=1, kinds=frozenset({"trim"}))
LOADS = SCOPES["two hydrations"]
COLD = Scope(cold=True, hydrators=2, reconcilers=1, calls=1, faults=1, kinds=HANDS)
HAND = SCOPES["hands, and a reconciliation"]._replace(calls=3)
TWO_HANDS = Scope(reconcilers=1, calls=2, faults=2, kinds=frozenset({"insert", "delete", "keys"}))

PLANTED = {
    # Callers and drain
    "cancel_without_compare": SALE._replace(calls=4),
    "cursor_in_redis": SALE,
    "trim_before_commit": SALE,
    "publish_before_commit": SALE,
    "no_contiguity_check": TRIMS,
    "empty_outbox_believed": TRIMS,
    "drain_ignores_epoch": LOSSES,
    # Recovery
    "no_fence_in_scripts": LOSSES,
    "master_not_compared": SCOPES["a master comes back older"],
    "recover_without_cas": LOSSES,
    "recover_without_new_epoch": LOSSES,
    "recover_without_advance": LOSSES,
    "survivors_left": LOSSES,
    "gap_not_noted": TRIMS,
    "publish_across_a_gap": TRIMS,
    # Hydration
    "hydrate_without_wait": LOADS,
    "seq_before_cold": LOADS,
    "install_without_lease": LOADS,
    "repair_leaves_the_lease": COLD,
    # Reconciliation
    "release_ignores_mark": HAND,
    "add_ignores_outbox": HAND,
    "outbox_before_users": HAND,
    "judge_without_lock": SCOPES["a reconciliation"],
    "repair_without_cas": HAND._replace(kinds=frozenset({"delete"})),
    "recount_when_dirty": TWO_HANDS,
    # What a reconciliation must not take as followed; the next one finds it
    "believe_a_cold_look": COLD,
    "believe_a_missed_set": TWO_HANDS._replace(kinds=frozenset({"insert", "delete"})),
    "believe_what_is_coming": HAND,
}


@pytest.mark.parametrize("name", SCOPES)
def test_no_world_breaks_a_promise(name: str) -> None:
    """Not one that can be reached, and not one that is left to heal from there."""
    found = breadth_first(SCOPES[name])
    print(f"{name}: {found.states:,} states, {found.transitions:,} transitions")  # noqa: T201 - for -s
    assert not found.promise, found


@pytest.mark.parametrize("seed", range(2))
def test_no_walk_breaks_a_promise(seed: int) -> None:
    """Everybody at once, more epochs, more calls, four faults."""
    found = walk(WIDE, seed, walks=100, steps=100)
    print(f"seed {seed}: {found.states:,} states, {found.transitions:,} transitions")  # noqa: T201 - for -s
    assert not found.promise, found


@pytest.mark.parametrize("error", PLANTED)
def test_planted_error_is_found(error: str) -> None:
    """And the shortest way to what it breaks is printed."""
    found = breadth_first(PLANTED[error]._replace(planted=frozenset({error})))
    print(error, found)  # noqa: T201 - for -s
    assert found.promise, f"{error} was not found in {found.states:,} states"


def test_walks_find_planted_errors() -> None:
    """A walk sees what a search sees: errors that need more than ten steps, too."""
    for error in ("recover_without_advance", "hydrate_without_wait", "trim_before_commit"):
        found = walk(WIDE._replace(planted=frozenset({error})), 1, walks=100, steps=100)
        assert found.promise, error
