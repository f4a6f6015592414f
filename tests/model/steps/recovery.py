"""Recovery: take an epoch, fence the others off, drain what survived, open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.state import OPEN, Entry, Recoverer, Redis, Scope, World
from tests.model.steps.drain import gaps, told, written
from tests.model.steps.redis import beyond, on, server

if TYPE_CHECKING:
    from collections.abc import Iterator


def steps(world: World, scope: Scope, i: int) -> Iterator[tuple[str, World | None]]:
    """Whoever saw the fence, or thinks so."""
    recoverer = world.recoverers[i]
    who = f"recovery {recoverer.epoch}:"
    if world.ledger.epoch < scope.epochs:
        before = f", once {recoverer.epoch}," if recoverer.epoch else ""
        yield f"a recovery{before} sees epoch {world.ledger.epoch}", look(world, i)
    free = not world.ledger.locked
    match recoverer.at:
        case "seen" if free:
            yield f"a recovery takes the epoch after {recoverer.epoch}", claim(world, scope, i)
        case "claimed":
            yield f"{who} advances", advance(world, scope, i)
        case "advanced":
            yield f"{who} reads the survivors", survey(world, scope, i)
        case "surveyed" if free:
            yield f"{who} commits the survivors", take_survivors(world, scope, i)
        case "drained":
            yield f"{who} opens the outbox", open_outbox(world, scope, i)
        case "opened":
            yield f"{who} loads the scripts", load(world, i)
        case "loaded" if free:
            yield f"{who} opens the epoch", open_epoch(world, i)
        case _:
            pass


def _recoverer(world: World, i: int, recoverer: Recoverer) -> World:
    all_of_them = world.recoverers
    return world._replace(recoverers=(*all_of_them[:i], recoverer, *all_of_them[i + 1 :]))


def look(world: World, i: int) -> World:
    """Read the partition's row, and connect to Redis for all that follows."""
    return _recoverer(world, i, Recoverer("seen", world.ledger.epoch, life=world.redis.life))


def claim(world: World, scope: Scope, i: int) -> World:
    """Compare-and-set of the epoch; the loser stops."""
    ledger, recoverer = world.ledger, world.recoverers[i]
    if ledger.epoch != recoverer.epoch and "recover_without_cas" not in scope.planted:
        return _recoverer(world, i, Recoverer())
    epoch = recoverer.epoch + 1
    if "recover_without_new_epoch" in scope.planted:
        epoch = recoverer.epoch
    world = world._replace(ledger=ledger._replace(epoch=epoch, recovering=True))
    return _recoverer(world, i, recoverer._replace(at="claimed", epoch=epoch))


def _connected(world: World, recoverer: Recoverer) -> Redis | None:
    redis = server(world, old=recoverer.old)
    return redis if redis and redis.life == recoverer.life else None


def advance(world: World, scope: Scope, i: int) -> World:
    """The new epoch in the log: from here on no older script writes."""
    recoverer = world.recoverers[i]
    redis = _connected(world, recoverer)
    if redis is None:
        return _recoverer(world, i, Recoverer())
    if redis.epoch >= recoverer.epoch and "recover_without_new_epoch" not in scope.planted:
        return _recoverer(world, i, Recoverer())
    if "recover_without_advance" not in scope.planted:
        world = on(world, redis._replace(epoch=recoverer.epoch), old=recoverer.old)
    return _recoverer(world, i, recoverer._replace(at="advanced"))


def survey(world: World, scope: Scope, i: int) -> World:
    """Read what is left beyond the mark."""
    recoverer = world.recoverers[i]
    redis = _connected(world, recoverer)
    if redis is None:
        return _recoverer(world, i, Recoverer())
    mark = world.ledger.mark
    batch = () if "survivors_left" in scope.planted else beyond(redis, mark)
    at = "surveyed" if batch else "drained"
    return _recoverer(world, i, recoverer._replace(at=at, mark=mark, batch=batch))


def take_survivors(world: World, scope: Scope, i: int) -> World:
    """One transaction, gaps or not; and what is published of it."""
    ledger, recoverer = world.ledger, world.recoverers[i]
    if ledger.epoch != recoverer.epoch or not ledger.recovering:
        return _recoverer(world, i, Recoverer())
    batch = tuple(item for item in recoverer.batch if item.number > ledger.mark)
    if batch:
        after, missing = ledger.mark, gaps(ledger.mark, batch)
        if missing and "publish_across_a_gap" not in scope.planted:
            after = missing[-1]
        if "gap_not_noted" not in scope.planted:
            ledger = ledger._replace(gaps=tuple(sorted({*ledger.gaps, *missing})))
        world, refused = written(world._replace(ledger=ledger), batch)
        numbers = {each.number for each in refused}
        world = told(world, after, batch[-1].number, numbers)
    return _recoverer(world, i, recoverer._replace(at="advanced", batch=()))


def open_outbox(world: World, scope: Scope, i: int) -> World:
    """The first entry of the new epoch; numbers begin again, under this master's name."""
    recoverer = world.recoverers[i]
    redis, epoch = _connected(world, recoverer), recoverer.epoch
    if redis is None:
        return _recoverer(world, i, Recoverer())
    if redis.epoch != epoch and "recover_without_advance" not in scope.planted:
        return _recoverer(world, i, Recoverer())
    number = epoch * OPEN
    stream = redis.stream if redis.stream is not None and redis.last < number else ()
    redis = redis._replace(
        epoch=epoch,
        seq=0,
        acked=0,
        master=redis.name,
        lost=False,
        stream=(*stream, Entry(number)),
        last=number,
    )
    world = on(world, redis, old=recoverer.old)
    return _recoverer(world, i, recoverer._replace(at="opened"))


def load(world: World, i: int) -> World:
    """SCRIPT LOAD, on the same connection."""
    recoverer = world.recoverers[i]
    redis = _connected(world, recoverer)
    if redis is None:
        return _recoverer(world, i, Recoverer())
    redis = redis._replace(scripts=redis.scripts | 1 << recoverer.epoch)
    world = on(world, redis, old=recoverer.old)
    return _recoverer(world, i, recoverer._replace(at="loaded"))


def open_epoch(world: World, i: int) -> World:
    """Close the older epochs at the mark; the partition is open."""
    ledger, recoverer = world.ledger, world.recoverers[i]
    if ledger.epoch != recoverer.epoch:
        return _recoverer(world, i, Recoverer())
    epoch, seq = divmod(recoverer.mark, OPEN)
    epochs = [
        (e, (seq if e == epoch else 0) if last is None else last)
        for e, last in ledger.closed
        if e != ledger.epoch
    ]
    mark = ledger.epoch * OPEN
    broken = "the mark went back" if mark <= ledger.mark else world.broken
    ledger = ledger._replace(recovering=False, mark=mark, closed=(*epochs, (ledger.epoch, None)))
    return _recoverer(world._replace(ledger=ledger, broken=broken), i, Recoverer())
