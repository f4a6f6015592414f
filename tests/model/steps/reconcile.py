"""Reconciliation: name candidates without a lock, judge them under it, compare and set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.model.state import NOBODY, OPEN, USERS, Number, Pair, Reconciler, Scope, World
from tests.model.steps.redis import beyond, dirty, fenced, repaired, warm

if TYPE_CHECKING:
    from collections.abc import Iterator

UNLOCKED: Final = ("off", "cold", "scanned", "named")
"""Where a reconciliation holds no lock yet."""


def steps(world: World, scope: Scope, i: int) -> Iterator[tuple[str, World | None]]:
    """A run that a change has called, or the clock."""
    who, reconciler = f"reconcile {i + 1}", world.reconcilers[i]
    locks = "judge_without_lock" not in scope.planted
    if reconciler.at in UNLOCKED:
        yield f"{who} is told of a change", begin_reconcile(world, scope, i)
        yield f"{who} reads a page of Redis", scan(world, scope, i)
    else:
        yield f"{who} dies", _ended(world, i)
    match reconciler.at:
        case "cold":
            yield f"{who} takes the lease away", disturb(world, scope, i)
        case "scanned":
            yield f"{who} reads the ledger", compare(world, i)
        case "named" if not world.ledger.locked:
            yield f"{who} locks", lock(world, i, locks=locks)
        case "locked" if "outbox_before_users" in scope.planted:
            yield f"{who} reads the outbox", read_outbox(world, i, then="listed")
        case "locked" | "listed":
            yield f"{who} reads Redis again", read_users(world, scope, i)
        case "seen":
            yield f"{who} reads the outbox", read_outbox(world, i, then="judged")
        case "judged":
            yield f"{who} repairs", repair(world, scope, i)
        case _:
            pass


def _reconciler(world: World, i: int, reconciler: Reconciler) -> World:
    all_of_them = world.reconcilers
    return world._replace(reconcilers=(*all_of_them[:i], reconciler, *all_of_them[i + 1 :]))


def _ended(world: World, i: int) -> World:
    """The transaction ends, and its locks."""
    world = world._replace(ledger=world.ledger._replace(locked=False))
    return _reconciler(world, i, Reconciler())


def begin_reconcile(world: World, scope: Scope, i: int) -> World | None:
    """Look whether the event is warm; whoever may have changed is compared under the lock."""
    epoch = world.ledger.epoch
    if world.ledger.recovering or fenced(world.redis, epoch, scope):
        return None
    at = "named" if warm(world.redis, epoch) else "cold"
    begun = Reconciler(at, epoch, USERS, since=world.ledger.mark, fresh=True)
    return _reconciler(world, i, begun)


def disturb(world: World, scope: Scope, i: int) -> World:
    """A hydration of the cold event begins again, since it may have read what has changed."""
    redis, reconciler = world.redis, world.reconcilers[i]
    if fenced(redis, reconciler.epoch, scope):
        return _reconciler(world, i, Reconciler())
    fresh = reconciler.fresh
    if warm(redis, reconciler.epoch):  # since he looked: nothing is compared
        fresh = fresh and "believe_a_cold_look" in scope.planted
    elif "repair_leaves_the_lease" not in scope.planted:
        world = world._replace(redis=redis._replace(lease=0))
    return _followed(_reconciler(world, i, Reconciler()), fresh=fresh)


def scan(world: World, scope: Scope, i: int) -> World | None:
    """HSCAN, if the event is warm."""
    epoch = world.ledger.epoch
    if world.ledger.recovering or fenced(world.redis, epoch, scope):
        return None
    if not warm(world.redis, epoch):
        return None
    scanned = Reconciler("scanned", epoch, since=world.ledger.mark, held=world.redis.users)
    return _reconciler(world, i, scanned)


def compare(world: World, i: int) -> World:
    """The ledger's mark and rows after the page of Redis; who differs is a candidate."""
    ledger, reconciler = world.ledger, world.reconcilers[i]
    candidates = _candidates(reconciler.held, ledger.rows, ledger.mark)
    if not candidates:
        return _reconciler(world, i, Reconciler())
    named = reconciler._replace(at="named", candidates=candidates, held=NOBODY)
    return _reconciler(world, i, named)


def _candidates(held: Pair, rows: Pair, mark: Number) -> tuple[int, ...]:
    return tuple(u for u in USERS if held[u] != rows[u] and held[u] <= mark)


def lock(world: World, i: int, *, locks: bool) -> World:
    """Lock partition and event, and read the rows: no drain, no hand from now on."""
    ledger, reconciler = world.ledger, world.reconcilers[i]
    if ledger.epoch != reconciler.epoch or ledger.recovering:
        return _reconciler(world, i, Reconciler())
    world = world._replace(ledger=ledger._replace(locked=locks))
    fresh = reconciler.fresh or reconciler.candidates == USERS
    reconciler = reconciler._replace(
        at="locked", mark=ledger.mark, rows=ledger.rows, total=ledger.total, fresh=fresh
    )
    return _reconciler(world, i, reconciler)


def read_users(world: World, scope: Scope, i: int) -> World:
    """What they hold now, if the event is still warm."""
    redis, reconciler = world.redis, world.reconcilers[i]
    if fenced(redis, reconciler.epoch, scope) or not warm(redis, reconciler.epoch):
        return _ended(world, i)
    absent = any(reconciler.rows[u] and not redis.users[u] for u in reconciler.candidates)
    asks = absent and reconciler.at == "locked" and "add_ignores_outbox" not in scope.planted
    at = "seen" if asks else "judged"
    seats = dirty(redis) or (redis.event is not None and redis.event.total != reconciler.total)
    return _reconciler(world, i, reconciler._replace(at=at, held=redis.users, seats=seats))


def read_outbox(world: World, i: int, *, then: str) -> World:
    """Whose entries are on their way."""
    reconciler = world.reconcilers[i]
    users = sorted({item.user for item in beyond(world.redis, reconciler.since)})
    return _reconciler(world, i, reconciler._replace(at=then, on_their_way=tuple(users)))


def judge(reconciler: Reconciler, scope: Scope) -> list[tuple[int, Number, Number]]:
    """Who really differs: user, expected, new."""
    changes = []
    for user in reconciler.candidates:
        mine, row = reconciler.held[user], reconciler.rows[user]
        if mine == row:
            continue
        beyond_mark = mine > reconciler.mark and "release_ignores_mark" not in scope.planted
        if not beyond_mark and (mine or user not in reconciler.on_their_way):
            changes.append((user, mine, row))
    return changes


def repair(world: World, scope: Scope, i: int) -> World:
    """Compare-and-set in Redis, then let go."""
    redis, reconciler = world.redis, world.reconcilers[i]
    if fenced(redis, reconciler.epoch, scope):
        return _ended(world, i)
    changes = judge(reconciler, scope)
    if "repair_without_cas" in scope.planted:
        changes = [(user, redis.users[user], row) for user, _, row in changes]
    missed = any(redis.users[user] != expected for user, expected, _ in changes)
    coming = redis.epoch * OPEN + redis.seq != reconciler.since
    if changes or reconciler.seats:
        redis = repaired(redis, reconciler.epoch, changes, scope, total=reconciler.total)
    missed = missed and "believe_a_missed_set" not in scope.planted
    coming = coming and "believe_what_is_coming" not in scope.planted
    fresh = reconciler.fresh and not missed and not coming
    return _followed(_ended(world._replace(redis=redis), i), fresh=fresh)


def _followed(world: World, *, fresh: bool) -> World:
    return world._replace(unfollowed=world.unfollowed and not fresh)
