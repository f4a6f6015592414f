"""The drain: entries of an outbox become rows of the ledger.

Reserves that follow the mark, as nearly always, are taken in one statement, straight from the
columns in which they are read (``take_reserves``); and what is left without a refusal in another
(``take_entries``). All else, and whatever those two will not have, goes the long way, which is the
truth for all three (tests/model/).

One transaction a batch: lock the partition (its row is the fence, the mark and the turn in one),
see that the numbers follow the mark without a gap, lock the events, rule on each item, write, move
the mark, commit. Only then is Redis told; all of that may be done twice, or not at all: the next
drain, or the reconciliation, makes up for it.

A batch that the ledger refuses is halved until the one item is found that it can never take. That
item becomes a dead letter, whole, and the rest goes on.
"""

from __future__ import annotations

import json
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from engine import keys, metrics, tracing
from engine.errors import (
    REDIS_ERRORS,
    Fenced,
    Gap,
    Halted,
    LedgerRefuses,
    RedisAway,
    Superseded,
)
from engine.gate import Gate
from engine.log import get_logger
from engine.model import MAX_BATCH, Drained, Item, Number, Word, booking_id
from engine.outbox import Outbox, items_beyond, reserves
from engine.ruling import plain, rule
from engine.scripts import Change
from engine.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from redis.asyncio import Redis

    from engine.ledger import Ledger, Locked
    from engine.model import Reserves
    from engine.outbox import Entry
    from engine.ruling import Rejection
    from engine.scripts import Scripts

MAX_ITEMS: Final = 2000
ENTRIES_A_READ: Final = 64
TAIL: Final = 1000
"""Numbers that stay in the outbox behind the mark, for a ledger that is failed over."""
MAX_DEAD_A_MINUTE: Final = 10

log = get_logger(__name__)


class Taken(NamedTuple):
    """What one transaction took: each number beyond ``after`` up to ``to``.

    Where a recovery met a hole in the log, ``after`` is its end: who waits for a number before it
    must ask the ledger. ``rejected`` has what the ledger refused and Redis must take back; ``dead``
    the items set aside.
    """

    after: Number
    to: Number
    rejected: tuple[Rejection, ...] = ()
    dead: tuple[Item, ...] = ()


class Brake:
    """Stops a partition where the fault is more likely ours than the entries'."""

    def __init__(self) -> None:
        self._dead_at_s: deque[float] = deque(maxlen=MAX_DEAD_A_MINUTE)

    def count_dead(self) -> None:
        """Before a dead letter is written.

        Raises:
            Halted: too many of them in the last minute.
        """
        now_s = time.monotonic()
        full = len(self._dead_at_s) == MAX_DEAD_A_MINUTE
        if full and now_s - self._dead_at_s[0] < 60:  # noqa: PLR2004 - a minute
            raise Halted(f"{MAX_DEAD_A_MINUTE} dead letters in a minute")
        self._dead_at_s.append(now_s)


class Drain:
    """Brings one partition's outbox to the ledger, for one shift or one recovery.

    The brake is common to all shifts of a worker.
    """

    def __init__(
        self,
        partition: int,
        *,
        ledger: Ledger,
        redis: Redis,
        brake: Brake | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.partition = partition
        self._ledger = ledger
        self._redis = redis
        self._outbox = Outbox(redis, partition)
        self._wire = Wire(redis.connection_pool)
        self._asked: Number | None = None  # after which we have asked for entries
        self._brake = brake or Brake()
        self._gate = gate or Gate()

    async def close(self) -> None:
        """Give the connection to Redis back."""
        await self._wire.close()

    async def once(self, scripts: Scripts, mark: Number, *, shift: int, block_ms: int) -> Number:
        """Take what follows the mark, after waiting for it; answers the new mark.

        Raises:
            Gap, Fenced: recover.
            Superseded: a later shift began.
            LedgerAway, RedisAway: try again.
            Halted: too many dead letters.
        """
        read = await self._read(scripts, mark, block_ms)
        if not read:
            return mark
        async with self._gate.passed() as waited:
            if waited and len(read) < ENTRIES_A_READ:
                read += await self._read_on(scripts, read)
            taking = self._take_entries(read, mark, epoch=scripts.epoch, shift=shift)
            async for taken in taking:
                is_all = taken.to == Number.parse(read[-1][0])
                await self._tell(scripts, taken, block_ms=block_ms if is_all else None)
                mark = max(mark, taken.to)
        return mark

    async def _read(self, scripts: Scripts, mark: Number, block_ms: int) -> list[Entry]:
        """What follows the mark, waited for; it may have been asked for already."""
        asked, self._asked = self._asked, None
        if asked == mark:
            (reply,) = await self._wire.exchange(replies=1)
        else:
            if asked:
                await self._wire.drop()
            command = self._outbox.read_command(mark, count=ENTRIES_A_READ, block_ms=block_ms)
            (reply,) = await self._wire.exchange(command)
        return self._outbox.read_reply(scripts.checked(reply))

    async def _read_on(self, scripts: Scripts, read: Sequence[Entry]) -> list[Entry]:
        """What has come since."""
        last, count = Number.parse(read[-1][0]), ENTRIES_A_READ - len(read)
        (reply,) = await self._wire.exchange(self._outbox.read_command(last, count=count))
        return self._outbox.read_reply(scripts.checked(reply))

    async def survivors(self, epoch: int, mark: Number) -> Number:
        """In a recovery, take all that is left beyond the mark, gaps or not; answers the mark."""
        while read := await self._outbox.read(mark, count=ENTRIES_A_READ):
            for start in range(0, len(read), MAX_ITEMS):
                batch = read[start : start + MAX_ITEMS]
                async for taken in self._take(batch, epoch=epoch, shift=None):
                    self._trace(batch, taken)
                    await self._publish(taken)
            mark = read[-1].number
        return (await self._ledger.partition(self.partition)).mark

    async def _take_entries(
        self, entries: Sequence[Entry], mark: Number, *, epoch: int, shift: int
    ) -> AsyncIterator[Taken]:
        """Take what follows the mark, as much at a time as a transaction may have."""
        while entries and mark.epoch == epoch:
            batch = reserves(mark, entries, most=MAX_ITEMS)
            if not (batch and await self._take_reserves(batch, shift)):
                break
            taken = Taken(mark, batch.to)
            if tracing.tracer:
                self._trace(items_beyond(mark, entries[: batch.entries]), taken)
            yield taken
            mark, entries = batch.to, entries[batch.entries :]
        read = items_beyond(mark, entries)
        for start in range(0, len(read), MAX_ITEMS):
            items = read[start : start + MAX_ITEMS]
            async for taken in self._take(items, epoch=epoch, shift=shift):
                self._trace(items, taken)
                yield taken

    async def _take_reserves(self, batch: Reserves, shift: int) -> bool:
        """The commonest case, in one statement; False if the batch must be looked at otherwise."""
        with suppress(LedgerRefuses):
            if await self._ledger.take_reserves(self.partition, shift, batch):
                _count(len(batch.users))
                return True
        return False

    async def _take(
        self, batch: Sequence[Item], *, epoch: int, shift: int | None
    ) -> AsyncIterator[Taken]:
        """Apply a batch, halving it where the ledger refuses it."""
        if shift is not None and (taken := await self._at_once(batch, epoch=epoch, shift=shift)):
            yield taken
            return
        try:
            yield await self._apply(batch, epoch=epoch, shift=shift)
        except LedgerRefuses as error:
            if len(batch) == 1:
                yield await self._set_aside(batch[0], str(error), epoch=epoch, shift=shift)
                return
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                async for taken in self._take(part, epoch=epoch, shift=shift):
                    yield taken

    async def _at_once(self, batch: Sequence[Item], *, epoch: int, shift: int) -> Taken | None:
        """The plain case, in one statement; None if the batch must be looked at item by item."""
        first = batch[0].number.seq
        if any(item.number != (epoch, seq) for seq, item in enumerate(batch, first)):
            return None
        outcome = plain(batch, partition=self.partition)
        if outcome is None:
            return None
        after, to = Number(epoch, first - 1), batch[-1].number
        with suppress(LedgerRefuses):
            if await self._ledger.take(self.partition, shift, after, to, outcome):
                _count(len(batch))
                return Taken(after, to)
        return None

    async def _apply(self, batch: Sequence[Item], *, epoch: int, shift: int | None) -> Taken:
        """One transaction."""
        async with self._ledger.locked(self.partition) as locked:
            after = self._check(locked, epoch=epoch, shift=shift)
            batch = [item for item in batch if item.number > after]
            if not batch:
                return Taken(after, after)
            if any(item.kind == "poison" or self._is_to_come(item, epoch, shift) for item in batch):
                if len(batch) > 1:
                    raise LedgerRefuses("there is poison in the batch")
                raise LedgerRefuses("no script can have written this entry")
            after = await self._follow(locked, after, batch, recovering=shift is None)
            seats = await locked.seats({item.event_id for item in batch})
            held = await locked.held({(item.event_id, item.user_id) for item in batch})
            ruling = rule(batch, partition=self.partition, seats=seats, held=held)
            given_back = await locked.write(ruling, self.partition)
            await locked.set_mark(self.partition, batch[-1].number)
        _count(len(batch))
        for letter in given_back:
            metrics.SETTLED_LETTERS.labels("cancelled").inc()
            log.info("dead_letter_cancelled", partition=self.partition, booking_id=letter)
        return Taken(after, batch[-1].number, tuple(ruling.rejected))

    async def _set_aside(self, item: Item, reason: str, *, epoch: int, shift: int | None) -> Taken:
        """One transaction for the one item that the ledger can never take."""
        self._brake.count_dead()
        entry = item.entry or json.dumps(item._asdict())
        async with self._ledger.locked(self.partition) as locked:
            after = self._check(locked, epoch=epoch, shift=shift)
            if item.number <= after:
                return Taken(after, after)
            to_come = self._is_to_come(item, epoch, shift)
            if to_come:  # its number will be somebody else's
                to = after
            else:
                after = await self._follow(locked, after, [item], recovering=shift is None)
                await locked.set_mark(self.partition, item.number)
                to = item.number
                if shift is None and item.kind == "poison":
                    # Before Redis lost its end, the number may have been somebody's.
                    await self._note_gap(locked, to, to)
                    after = to
            known = item.kind != "poison" and not to_come
            booking = booking_id(item.number, self.partition) if known else None
            await locked.set_aside(item, reason, entry=entry, booking=booking)
        metrics.DEAD_LETTERS.inc()
        log.error(
            "dead_letter", partition=self.partition, number=str(item.number), reason=reason,
            event_id=item.event_id, user_id=item.user_id, entry=entry,
        )  # fmt: skip
        return Taken(after, to, dead=(item,))

    def _check(self, locked: Locked, *, epoch: int, shift: int | None) -> Number:
        """See that the partition is still ours; answers its mark. ``shift`` is None in recovery."""
        row = locked.row
        if shift is not None and row.shift != shift:
            raise Superseded(f"partition {self.partition} has another shift")
        if row.epoch != epoch or row.recovering != (shift is None):
            if shift is None:
                raise Superseded(f"partition {self.partition} is at epoch {row.epoch}")
            raise Fenced(self.partition, epoch)  # the shift goes on in the epoch that is opened
        return row.mark

    @staticmethod
    def _is_to_come(item: Item, epoch: int, shift: int | None) -> bool:
        """Whether a recovery met a number of the epoch that it opens, or a later one.

        A hand wrote it: no script could.
        """
        return shift is None and item.number.epoch >= epoch

    async def _follow(
        self, locked: Locked, after: Number, batch: Sequence[Item], *, recovering: bool
    ) -> Number:
        """See that each number follows the one before; a recovery notes what is missing.

        Answers the number from which on nothing is missing.
        """
        last = after
        for item in batch:
            number = item.number
            if number != Number(last.epoch, last.seq + 1):
                if not recovering:
                    raise Gap(self.partition, after=last, found=number)
                after = Number(number.epoch, number.seq - 1)
                if number.epoch != last.epoch:
                    await locked.close_epoch(self.partition, last)
                first = last.seq + 1 if number.epoch == last.epoch else 1
                if first < number.seq:
                    await self._note_gap(locked, Number(number.epoch, first), after)
            last = number
        return after

    async def _note_gap(self, locked: Locked, first: Number, last: Number) -> None:
        await locked.note_gap(self.partition, first.epoch, first.seq, last.seq)
        log.error("gap", partition=self.partition, first=str(first), last=str(last))

    def _trace(self, batch: Sequence[Item], taken: Taken) -> None:
        if tracing.tracer:
            items = [item for item in batch if taken.after < item.number <= taken.to]
            if items:
                tracing.drained(tracing.tracer, self.partition, items, to=taken.to)

    async def _tell(self, scripts: Scripts, taken: Taken, *, block_ms: int | None = None) -> None:
        """After the commit: give rejected seats back, tell who waits, let Redis forget.

        With ``block_ms``, the same write asks for what follows, as ``_read`` would.
        """
        if taken.to == taken.after:
            return
        await self._give_back(scripts, taken)
        publish = ("PUBLISH", keys.drained(self.partition), _message(taken))
        acknowledge = scripts.acknowledge(taken.to.seq, tail=TAIL)
        if block_ms is None:
            replies = await self._wire.exchange(publish, acknowledge)
        else:
            read = self._outbox.read_command(taken.to, count=ENTRIES_A_READ, block_ms=block_ms)
            replies = await self._wire.exchange(publish, acknowledge, read, replies=2)
            self._asked = taken.to
        for reply in replies:
            scripts.checked(reply)

    async def _give_back(self, scripts: Scripts, taken: Taken) -> None:
        """Make Redis follow the ledger's refusals, each by compare-and-set."""
        changes: dict[int, list[Change]] = {}
        for item, word, holder in taken.rejected:
            metrics.REJECTED.labels(word).inc()
            log.warning(
                "rejected", partition=self.partition, number=str(item.number), reason=word,
                event_id=item.event_id, user_id=item.user_id,
            )  # fmt: skip
            if word is Word.EVENT_NOT_FOUND:
                await scripts.call(self._redis, scripts.close(item.event_id))
            else:
                changes.setdefault(item.event_id, []).append(
                    Change(item.user_id, str(item.number), holder)
                )
        for item in taken.dead:
            if item.kind == "reserve":
                changes.setdefault(item.event_id, []).append(
                    Change(item.user_id, str(item.number), None)
                )
        for event_id, all_of_them in changes.items():
            for start in range(0, len(all_of_them), MAX_BATCH):
                part = all_of_them[start : start + MAX_BATCH]
                await scripts.call(self._redis, scripts.repair(event_id, part))

    async def _publish(self, taken: Taken) -> None:
        try:
            await self._redis.publish(keys.drained(self.partition), _message(taken))
        except REDIS_ERRORS as error:
            raise RedisAway(f"nobody could be told of the drain: {error}") from error


def _count(items: int) -> None:
    metrics.DRAINED.inc(items)
    metrics.DRAIN_ITEMS.observe(items)


def _message(taken: Taken) -> bytes:
    """What those who wait are told."""
    rejected = [(*item.number, str(word)) for item, word, _ in taken.rejected]
    rejected += [(*item.number, "dead") for item in taken.dead]
    return msgspec.json.encode(Drained(taken.after, taken.to, rejected))
