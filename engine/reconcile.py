"""Reconciliation: find the differences between Redis and the ledger, and mend Redis.

The search takes no lock. First the ledger's rows, in pages, each against what Redis has of these
users. Then the counts: what is booked at a mark, and what the entries beyond it add, must be as
many users as Redis has. If every row was in Redis and it has no more users than that, it has none
whom the ledger does not know. Only if something differed is Redis read in pages too (HSCAN), and
after each page the ledger, in one statement with the mark: users in the order of a hash cost the
ledger many times what they cost in its own.

What differs is a candidate: most of them are bookings on their way. Each is looked at again while
the partition is locked, so that nothing is drained and the event is not changed by hand:

- *release*: Redis has a booking, the ledger has none of this user, and the mark has passed it;
- *fix*: the ledger has another booking of this user, and the mark has passed the one in Redis;
- *add*: the ledger has a booking, Redis has none, and nothing of this user is in the outbox. In
  this order: a cancel that is seen to have happened in Redis is in the outbox by then.

Then Redis is changed by compare-and-set. Under the lock an unchanged booking that the mark has
passed cannot arrive later, and an *add* only takes a seat. Seats are counted anew, and the total is
the ledger's.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from engine import keys, metrics
from engine.drain import ENTRIES_A_READ
from engine.errors import REDIS_ERRORS, Fenced, RedisAway
from engine.log import get_logger
from engine.model import MAX_BATCH, Event, Number
from engine.outbox import Outbox, last_of
from engine.recovery import check_servers, connected
from engine.scripts import Change, Scripts, look_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from redis.asyncio import Redis

    from engine.ledger import Ledger, Locked
    from engine.recovery import Stores
    from engine.scripts import Command, Look
    from engine.settings import Settings

Kind = Literal["release", "fix", "add", "total", "left", "count", "gone", "fenced"]
READ_AT_ONCE: Final = 500
LOOKED_AT_ONCE: Final = 100
LOCKED_AT_ONCE: Final = 100
"""Users; sales that wait for the ledger wait while they are looked at."""

log = get_logger(__name__)


class Drift(NamedTuple):
    """A difference between Redis and the ledger.

    ``redis`` and ``ledger`` are what each says: a booking's number, or a count of seats.
    """

    event_id: int
    kind: Kind
    user_id: str | None
    redis: str | None
    ledger: str | None

    def __str__(self) -> str:
        """One sentence."""
        who = f"event {self.event_id}, user {self.user_id!r}"
        return {
            "release": f"{who}: Redis has booking {self.redis}, the ledger has none",
            "fix": f"{who}: Redis has booking {self.redis}, the ledger {self.ledger}",
            "add": f"{who}: the ledger has booking {self.ledger}, Redis has none",
            "total": f"event {self.event_id}: {self.redis} seats in Redis, {self.ledger} "
            "in the ledger",
            "left": f"event {self.event_id}: Redis says {self.redis} seats are left, its users "
            f"leave {self.ledger}",
            "count": f"event {self.event_id}: the ledger says {self.redis} seats are booked, its "
            f"rows say {self.ledger}",
            "gone": f"event {self.event_id}: Redis has it, the ledger has not",
            "fenced": f"event {self.event_id}: Redis has lost its partition's epoch {self.ledger}; "
            "it is recovered when the next one asks",
        }[self.kind]


class Checked(NamedTuple):
    """One event, compared: whether Redis had it, and what differed."""

    warm: bool
    drift: list[Drift]


class Report(NamedTuple):
    """What a run found, by event, and how many events it looked at (warm ones among them)."""

    events: int
    warm: int
    drift: list[Drift]


class Reconciliation:
    """Compares one partition's events with the ledger."""

    def __init__(self, ledger: Ledger, redis: Redis, scripts: Scripts) -> None:
        self._ledger = ledger
        self._redis = redis
        self._scripts = scripts
        self._partition = scripts.partition
        self._outbox = Outbox(redis, scripts.partition)

    async def event(
        self, event_id: int, *, dry_run: bool, full: bool = True, users: list[str] | None = None
    ) -> Checked:
        """Compare one event, and mend it unless it is a dry run.

        Args:
            event_id: the event.
            dry_run: only look.
            full: compare every user; else only if the counts differ.
            users: compare these users alone.

        Raises:
            Fenced: recover first.
            LedgerAway, RedisAway: it cannot be done now.
        """
        every = full and users is None
        drift = await self._count(event_id, dry_run=dry_run) if every else []
        warm = await self._look(event_id) is not None
        if warm:
            drift += await self._compare(event_id, users, dry_run=dry_run, full=full)
        elif full and not dry_run:
            # A hydration under way may have read what has changed since: it begins again.
            await self._call(self._scripts.repair(event_id, []))
        for difference in drift:
            metrics.DRIFT.labels(difference.kind).inc()
            log.warning(
                "drift", **difference._asdict(), mended=not dry_run, sentence=str(difference)
            )
        return Checked(warm, drift)

    async def _compare(
        self, event_id: int, users: list[str] | None, *, dry_run: bool, full: bool
    ) -> list[Drift]:
        """The seats, and these users; or all of them, at least if the counts differ."""
        mark = (await self._ledger.partition(self._partition)).mark
        travellers = _Travellers(self._outbox, event_id, mark)
        mend = partial(self._mend, event_id, travellers, dry_run=dry_run)
        drift = await mend(users or [], seats=True)
        if users is None and (full or drift or not await self._counts_agree(event_id)):
            async for candidates in _batches(self._unlike_the_ledger(event_id, travellers)):
                drift += await mend(candidates)
            if drift or not await self._counts_agree(event_id):
                async for candidates in _batches(self._unknown_to_the_ledger(event_id)):
                    drift += await mend(candidates)
        return drift

    async def _count(self, event_id: int, *, dry_run: bool) -> list[Drift]:
        """The ledger's own count against its rows: triggers keep them equal."""
        booked, count = await self._ledger.count(event_id)
        if booked != count and not dry_run:
            booked, count = await self._ledger.mend_count(event_id)
        if booked == count:
            return []
        return [Drift(event_id, "count", None, str(booked), str(count))]

    async def _look(self, event_id: int) -> Look | None:
        return look_reply(await self._call(self._scripts.look(event_id)))

    async def _counts_agree(self, event_id: int) -> bool:
        """Whether the ledger's count and the entries beyond its mark make Redis's users.

        The mark and its count are of one instant; so are, later, the users and the end of the
        entries. What the ledger is going to reject makes it cry wolf.
        """
        found = await self._ledger.booked_with_mark(self._partition, event_id)
        if found is None:
            return False
        mark, expected = found
        users, end = await self._users_and_end(event_id)
        async for page in self._outbox.pages(mark, end, count=ENTRIES_A_READ):
            kinds = [item.kind for item in page if item.event_id == event_id]
            expected += kinds.count("reserve") - kinds.count("cancel")
        return users == expected

    async def _users_and_end(self, event_id: int) -> tuple[int, Number]:
        """How many users Redis has, and the number of the last entry, both of one instant."""
        try:
            async with self._redis.pipeline() as together:
                together.hlen(keys.users(self._partition, event_id))
                together.xrevrange(keys.outbox(self._partition), count=1)
                users, last = await together.execute()
        except REDIS_ERRORS as error:
            raise RedisAway(f"Redis does not answer: {error}") from error
        return users, last_of(last)

    async def _unlike_the_ledger(
        self, event_id: int, travellers: _Travellers
    ) -> AsyncIterator[list[str]]:
        """Users whose row is not what Redis has, in pages of the ledger."""
        last_user = ""
        while rows := await self._ledger.bookings_after(event_id, last_user, MAX_BATCH):
            last_user = rows[-1].user_id
            held = await self._held(event_id, [row.user_id for row in rows])
            if held is None:
                return
            if held != dict(rows):
                on_their_way = await travellers.seen()
                different = [row.user_id for row in rows if held.get(row.user_id) != row.number]
                if candidates := [user for user in different if user not in on_their_way]:
                    yield candidates

    async def _unknown_to_the_ledger(self, event_id: int) -> AsyncIterator[list[str]]:
        """Users in Redis who have no row although the mark has passed them, in pages of Redis."""
        async for held in self._redis_pages(event_id):
            writable = list(filter(_writable, held))
            mark, rows = await self._ledger.held_with_mark(self._partition, event_id, writable)
            unknown = [
                user
                for user, text in held.items()
                if user not in rows and Number.held(text) <= mark
            ]
            if unknown:
                yield unknown

    async def _redis_pages(self, event_id: int) -> AsyncIterator[dict[str, str]]:
        """What all users of an event hold in Redis, at most ``MAX_BATCH`` users at a time."""
        key, cursor = keys.users(self._partition, event_id), 0
        while True:
            try:
                cursor, page = await self._redis.hscan(key, cursor, count=READ_AT_ONCE)
            except REDIS_ERRORS as error:
                raise RedisAway(f"Redis does not answer: {error}") from error
            pairs = [(_text(user), _text(value)) for user, value in page.items()]
            for start in range(0, len(pairs), MAX_BATCH):
                yield dict(pairs[start : start + MAX_BATCH])
            if cursor == 0:
                return

    async def _held(self, event_id: int, users: list[str]) -> dict[str, str] | None:
        """What these users hold in Redis; None if the event is cold, and so nobody holds anything.

        Both of one instant: an event is closed, and loaded anew, while others look at it.
        """
        names = [user.encode(errors="surrogateescape") for user in users]
        try:
            async with self._redis.pipeline() as together:
                together.hget(keys.event(self._partition, event_id), "epoch")
                together.hmget(keys.users(self._partition, event_id), names)
                epoch, values = await together.execute()
        except REDIS_ERRORS as error:
            raise RedisAway(f"Redis does not answer: {error}") from error
        if epoch != str(self._scripts.epoch).encode():
            return None
        pairs = zip(users, values, strict=True)
        return {user: _text(value) for user, value in pairs if value}

    async def _mend(
        self,
        event_id: int,
        travellers: _Travellers,
        users: list[str],
        *,
        dry_run: bool,
        seats: bool = False,
    ) -> list[Drift]:
        """Under the lock, look at these users again (and the seats), and make Redis follow."""
        if users:
            await travellers.seen()  # so that little is left to read under the lock
        async with self._ledger.locked(self._partition) as locked:
            if locked.row.epoch != self._scripts.epoch or locked.row.recovering:
                raise Fenced(self._partition, self._scripts.epoch)
            event = await locked.event(event_id)
            look = await self._look(event_id)
            if look is None:
                return []
            if event is None:
                if not dry_run:
                    await self._call(self._scripts.close(event_id))
                return [Drift(event_id, "gone", None, str(look.total), None)]
            drift = list(_seat_drift(event, look)) if seats else []
            changes = [
                change
                for start in range(0, len(users), MAX_BATCH)
                for change in await self._judge(
                    locked, event_id, travellers, users[start : start + MAX_BATCH]
                )
            ]
            drift += [_user_drift(event_id, change) for change in changes]
            if not dry_run and (drift or (event.name, event.window) != (look.name, look.window)):
                for start in range(0, max(len(changes), 1), MAX_BATCH):
                    part = changes[start : start + MAX_BATCH]
                    command = self._scripts.repair(
                        event_id, part,
                        total=event.total_seats, name=event.name, window=event.window,
                    )  # fmt: skip
                    await self._call(command)
        return drift

    async def _judge(
        self, locked: Locked, event_id: int, travellers: _Travellers, users: list[str]
    ) -> list[Change]:
        """Which users really differ, now that nothing is drained. In this order: see above."""
        places = [(event_id, user) for user in users if _writable(user)]
        found = await locked.held(places) if places else {}
        rows = {user: Number.of_booking(booking) for (_, user), booking in found.items()}
        held = await self._held(event_id, users)
        if held is None:
            return []
        absent = [user for user in users if user in rows and user not in held]
        on_their_way = await travellers.seen() if absent else set()
        changes = []
        for user in users:
            row, mine = rows.get(user), held.get(user)
            if mine is None:
                if row is not None and user not in on_their_way:
                    changes.append(Change(user, None, row))
            elif not _same(mine, row) and Number.held(mine) <= locked.row.mark:
                changes.append(Change(user, mine, row))
        return changes

    async def _call(self, command: Command) -> bytes | list[bytes] | int:
        reply: bytes | list[bytes] | int = await self._scripts.call(self._redis, command)
        return reply


class _Travellers:
    """Users of an event with an entry beyond the mark at which the search began.

    The outbox is read once, and each time only what is new of it. So the set grows: who has arrived
    since stays in it, and is left to the next run.
    """

    def __init__(self, outbox: Outbox, event_id: int, mark: Number) -> None:
        self._outbox = outbox
        self._event_id = event_id
        self._read_to = mark
        self._users: set[str] = set()

    async def seen(self) -> set[str]:
        """All that had an entry when this was called."""
        end = await self._outbox.last()
        async for page in self._outbox.pages(self._read_to, end, count=ENTRIES_A_READ):
            self._users.update(item.user_id for item in page if item.event_id == self._event_id)
        self._read_to = max(self._read_to, end)
        return self._users


async def _batches(pages: AsyncIterator[list[str]]) -> AsyncIterator[list[str]]:
    """The same users, as many as may be looked at under one lock."""
    batch: list[str] = []
    async for page in pages:
        batch += page
        while len(batch) >= LOCKED_AT_ONCE:
            yield batch[:LOCKED_AT_ONCE]
            del batch[:LOCKED_AT_ONCE]
    if batch:
        yield batch


def _fenced(event_id: int, epoch: int) -> Drift:
    return Drift(event_id, "fenced", None, None, str(epoch))


def _text(value: bytes) -> str:
    """What Redis has, whoever wrote it."""
    return value.decode(errors="surrogateescape")


def _writable(user: str) -> bool:
    """Whether the ledger can have such a user; what a hand wrote into Redis may be no text."""
    try:
        user.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in user


def _same(held: str, row: Number | None) -> bool:
    return row is not None and held == str(row)


def _seat_drift(event: Event, look: Look) -> Iterable[Drift]:
    if look.total != event.total_seats:
        yield Drift(event.id, "total", None, str(look.total), str(event.total_seats))
    elif look.left != look.total - look.users:
        yield Drift(event.id, "left", None, str(look.left), str(look.total - look.users))


def _user_drift(event_id: int, change: Change) -> Drift:
    kind: Kind = "fix"
    if change.expected is None:
        kind = "add"
    elif change.new is None:
        kind = "release"
    ledger = str(change.new) if change.new else None
    return Drift(event_id, kind, change.user_id, change.expected, ledger)


async def reconcile_event(
    stores: Stores,
    event_id: int,
    *,
    dry_run: bool = False,
    full: bool = True,
    users: list[str] | None = None,
) -> Checked:
    """Compare one event in whatever epoch its partition is; see ``Reconciliation.event``.

    Raises:
        LedgerAway, RedisAway: it cannot be done now.
    """
    partition = event_id % stores.partitions
    epoch = await stores.recovery.opened(partition)
    if epoch == 0:  # nothing was ever sold from it
        return Checked(warm=False, drift=[])
    while True:
        reconciliation = Reconciliation(stores.ledger, stores.redis, Scripts(partition, epoch))
        try:
            return await reconciliation.event(event_id, dry_run=dry_run, full=full, users=users)
        except Fenced:
            if dry_run:
                return Checked(warm=False, drift=[_fenced(event_id, epoch)])
            epoch = await stores.recovery.reopen(partition, epoch)


async def suspects(stores: Stores) -> AsyncIterator[int]:
    """Events that are not plainly equal in both stores: to be looked at more closely.

    A look at every event that costs next to nothing: no lock, a page of them at a time. Equal are
    the seats, and as many users as the ledger has booked; an event that is being sold seldom is.

    Raises:
        LedgerAway, RedisAway: it cannot be done now.
    """
    epochs = {row.partition: row.epoch for row in await stores.ledger.partitions()}
    last = 0
    while page := await stores.ledger.events_after(last, LOOKED_AT_ONCE):
        last = page[-1][0].id
        replies = await _looks(stores, epochs, [event for event, _ in page])
        for (event, booked), reply in zip(page, replies, strict=True):
            if not _plainly_equal(event, booked, reply):
                yield event.id


async def _looks(stores: Stores, epochs: dict[int, int], events: list[Event]) -> list[Any]:
    """What ``look`` replies of each event, whatever it is."""
    try:
        async with stores.redis.pipeline(transaction=False) as together:
            for event in events:
                partition = event.id % stores.partitions
                scripts = Scripts(partition, epochs[partition])
                together.execute_command(*scripts.look(event.id))
            replies: list[Any] = await together.execute(raise_on_error=False)
    except REDIS_ERRORS as error:
        raise RedisAway(f"Redis does not answer: {error}") from error
    return replies


def _plainly_equal(event: Event, booked: int, reply: Any) -> bool:
    """Whether an event is cold, or Redis has its seats and as many users as are booked."""
    if isinstance(reply, Exception) or reply == b"fenced":
        return False
    look = look_reply(reply)
    return look is None or (
        look.event(event.id) == event and look.users == booked == look.total - look.left
    )


async def close_event(stores: Stores, event_id: int) -> None:
    """Make one event cold: the next who asks for it loads it from the ledger.

    Raises:
        LedgerAway, RedisAway: it cannot be done now.
    """
    partition = event_id % stores.partitions
    scripts = Scripts(partition, await stores.recovery.opened(partition))
    with suppress(Fenced):  # then it is cold already
        await scripts.call(stores.redis, scripts.close(event_id))


async def run(settings: Settings, event_ids: list[int], *, dry_run: bool) -> Report:
    """Compare these events, or all of them; mend Redis unless it is a dry run.

    Raises:
        Misconfigured: the servers are not what onsale needs.
        LedgerAway, RedisAway: they do not answer.
    """
    async with connected(settings, connections=2) as stores:
        await check_servers(stores.ledger, stores.redis, settings)
        wanted = event_ids or await stores.ledger.event_ids()
        checked = [await reconcile_event(stores, event, dry_run=dry_run) for event in wanted]
    return Report(
        events=len(checked),
        warm=sum(each.warm for each in checked),
        drift=[difference for each in checked for difference in each.drift],
    )
