"""The drain: a shift begins, reads, commits, gives back, publishes, acknowledges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.state import (
    OPEN,
    Drainer,
    Item,
    Number,
    Redis,
    Refused,
    Scope,
    World,
    count,
    put,
    text,
)
from tests.model.steps.redis import beyond, fenced, on, repaired, server, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator


def steps(world: World, scope: Scope, i: int) -> Iterator[tuple[str, World | None]]:
    """A worker, in his turn or out of it."""
    drainer, next_shift = world.drainers[i], world.ledger.shift + 1
    if not world.ledger.locked and next_shift <= scope.shifts:
        before = f", once {drainer.shift}" if drainer.shift else ""
        yield f"drain {next_shift}{before}: begins", begin_shift(world, i)
    if drainer.at == "off":
        return
    yield f"drain {drainer.shift}: resumes", resume(world, scope, i)
    if world.old is not None:
        name = f"drain {drainer.shift}: resumes at the old master"
        yield name, resume(world, scope, i, old=True)
    yield from _shift_steps(world, scope, i)


def _shift_steps(world: World, scope: Scope, i: int) -> Iterator[tuple[str, World | None]]:
    drainer = world.drainers[i]
    who, redis = f"drain {drainer.shift}:", server(world, old=drainer.old)
    if drainer.at == "read" and not world.ledger.locked:
        yield f"{who} commits", commit(world, scope, i, len(drainer.batch))
        if len(drainer.batch) > 1:
            yield f"{who} commits the first item", commit(world, scope, i, 1)
    if redis is None:  # the connection broke
        return
    match drainer.at:
        case "on":
            after = acknowledge(world, scope, i, redis, drainer.mark)
            yield f"{who} acknowledges the mark", after
            yield f"{who} reads", read(world, scope, i, redis)
        case "committed":
            yield f"{who} gives rejected seats back", give_back(world, scope, i, redis)
        case "repaired":
            yield f"{who} publishes", publish(world, i)
        case "published":
            yield f"{who} acknowledges", acknowledge(world, scope, i, redis, drainer.to)
        case _:
            pass


def begin_shift(world: World, i: int) -> World:
    """Take the turn, whatever he was doing; the one who had it learns at his next commit."""
    shift = world.ledger.shift + 1
    ledger = world.ledger._replace(shift=shift)
    return _abandoned(world._replace(ledger=ledger), i, Drainer("waiting", shift))


def resume(world: World, scope: Scope, i: int, *, old: bool = False) -> World | None:
    """Read epoch and mark, and drop whatever is not told yet."""
    ledger = world.ledger
    if ledger.recovering:
        return None
    mark = ledger.mark
    if "cursor_in_redis" in scope.planted:
        mark = ledger.epoch * OPEN + max(world.redis.acked, 0)
    drainer = Drainer("on", world.drainers[i].shift, ledger.epoch, mark, old=old)
    return _abandoned(world, i, drainer)


def _abandoned(world: World, i: int, drainer: Drainer) -> World:
    """He goes on as another; seats that he has not given back are left to the reconciliation."""
    owed = world.drainers[i].at == "committed"
    world = world._replace(unfollowed=world.unfollowed or owed)
    return _drainer(world, i, drainer)


def _drainer(world: World, i: int, drainer: Drainer) -> World:
    drainers = world.drainers
    return world._replace(drainers=(*drainers[:i], drainer, *drainers[i + 1 :]))


def read(world: World, scope: Scope, i: int, redis: Redis) -> World | None:
    """XREAD from the mark; nothing of it is fenced."""
    drainer = world.drainers[i]
    batch = beyond(redis, drainer.mark)
    if not batch:
        return None
    if "trim_before_commit" in scope.planted:
        world = on(world, trimmed(redis, batch[-1].number), old=drainer.old)
    if "publish_before_commit" in scope.planted:
        world = told(world, drainer.mark, batch[-1].number, set())
    return _drainer(world, i, drainer._replace(at="read", batch=batch))


def commit(world: World, scope: Scope, i: int, size: int) -> World:
    """One transaction: shift, epoch, mark, the numbers, the rows."""
    ledger, drainer = world.ledger, world.drainers[i]
    if ledger.shift != drainer.shift:
        return _drainer(world, i, Drainer())
    ours = ledger.epoch == drainer.epoch and not ledger.recovering
    if not ours and "drain_ignores_epoch" not in scope.planted:
        return _drainer(world, i, Drainer("waiting", drainer.shift))
    after = drainer.mark if "cursor_in_redis" in scope.planted else ledger.mark
    batch = tuple(item for item in drainer.batch[:size] if item.number > after)
    rest = drainer.batch[size:]
    if not batch:
        mark = max(after, drainer.mark)
        return _drainer(world, i, drainer._replace(at="on", mark=mark, batch=()))
    if gaps(after, batch) and "no_contiguity_check" not in scope.planted:
        return _drainer(world, i, Drainer("waiting", drainer.shift))
    world, refused = written(world, batch)
    to = batch[-1].number
    at = "committed" if refused else "repaired"
    drainer = drainer._replace(
        at=at, mark=to, batch=rest, after=after, to=to, refused=tuple(refused)
    )
    return _drainer(world, i, drainer)


def gaps(after: Number, batch: tuple[Item, ...]) -> tuple[Number, ...]:
    """The numbers that are missing after a mark and within a batch."""
    missing: list[Number] = []
    for item in batch:
        number = item.number
        same = number // OPEN == after // OPEN
        missing += range(after + 1 if same else number - number % OPEN + 1, number)
        after = number
    return tuple(missing)


def written(world: World, batch: tuple[Item, ...]) -> tuple[World, list[Refused]]:
    """The ruling on each item in order, its rows, and the mark."""
    ledger, broken = world.ledger, world.broken
    rows, refused = ledger.rows, []
    for number, user, booking in batch:
        holder = rows[user]
        if booking:
            if holder == booking:
                rows = put(rows, user, 0)
        elif holder or count(rows) >= ledger.total:
            refused.append(Refused(number, user, holder))
        else:
            rows = put(rows, user, number)
    if batch[-1].number <= ledger.mark:
        broken = "the mark went back"
    rejected = tuple(sorted({*ledger.rejected, *(item.number for item in refused)}))
    ledger = ledger._replace(rows=rows, mark=batch[-1].number, rejected=rejected)
    return world._replace(ledger=ledger, broken=broken), refused


def give_back(world: World, scope: Scope, i: int, redis: Redis) -> World:
    """Redis follows the refusals, by compare-and-set."""
    drainer = world.drainers[i]
    if fenced(redis, drainer.epoch, scope):
        return _abandoned(world, i, Drainer("waiting", drainer.shift))
    changes = [(user, number, holder) for number, user, holder in drainer.refused]
    world = on(world, repaired(redis, drainer.epoch, changes, scope), old=drainer.old)
    return _drainer(world, i, drainer._replace(at="repaired"))


def publish(world: World, i: int) -> World:
    """Whoever waits for a number of the stretch, and is not named as refused, is told 201."""
    drainer = world.drainers[i]
    refused = {each.number for each in drainer.refused}
    world = told(world, drainer.after, drainer.to, refused)
    return _drainer(world, i, drainer._replace(at="published", refused=()))


def told(world: World, after: Number, to: Number, refused: set[Number]) -> World:
    """See that the ledger has what callers are told it has."""
    for fact in world.facts:
        if after < fact.number <= to and fact.number not in refused:
            fate = world.ledger.fate(fact.number)
            if fate != "confirmed":
                return world._replace(broken=f"{text(fact.number)} was told 201 and is {fate}")
    return world


def acknowledge(world: World, scope: Scope, i: int, redis: Redis, seq: Number) -> World:
    """Tell Redis how far the ledger is; it trims."""
    drainer = world.drainers[i]
    if fenced(redis, drainer.epoch, scope):
        return _drainer(world, i, Drainer("waiting", drainer.shift))
    at = "read" if drainer.batch else "on"
    drainer = drainer._replace(at=at, after=0, to=0, refused=())
    number = drainer.epoch * OPEN + seq % OPEN
    return _drainer(on(world, trimmed(redis, number), old=drainer.old), i, drainer)
