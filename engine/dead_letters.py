"""Dead letters: what a person can do about an item that the ledger could not take.

To *discard* one is to say that it is dealt with. To *replay* one is to write now, under its own
number, what the drain could not write then. The mark stays where it is. What a replay must never do
is take a seat from somebody who was answered 202. The letter's seat was given back when it was set
aside, so Redis may have sold it; that entry lies in the outbox, and the ledger would reject it if
the letter were simply written before it. Hence this order:

1. See the event warm: only then does Redis know of every seat. Lock the partition (nothing is
   drained), the letter, and the event (no hand changes it).
2. *Take* the seat in Redis, by compare-and-set, if one is left and the user holds none. From here
   on Redis sells nobody the seat that the letter needs; whoever was sold one before is in the
   outbox.
3. Only *then read* the outbox: the other order misses a sale in between. Rule twice. With the
   letter last, as for anybody who asks now: a refusal is the answer. With the letter first, as the
   ledger would have it: nothing else may be ruled otherwise. The seats left in Redis do not tell:
   the ledger goes by the order of the log, and a seat that is free at its end, by a cancel, may not
   be free at its beginning. Then the letter stays, and fits a moment later.
4. Write; see that Redis still has the seat, since an event may be closed at any time; commit.

Whatever else ends a replay gives the seat back. If it dies in between, Redis has a booking that the
ledger has not, and the mark has passed its number: reconciliation releases it. What is left is an
event that is closed, loaded again and sold out while Postgres commits.

A letter whose number Redis still holds is not touched: whoever set it aside has still to give the
seat back, by a compare-and-set on that number, which would undo the replay.
"""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from engine import metrics
from engine.errors import Fenced, LedgerRefuses, Overloaded, RedisAway
from engine.hydrate import Hydration
from engine.log import get_logger
from engine.model import MAX_BOOKING_ID, Item, Number, booking_id, booking_partition
from engine.outbox import Outbox
from engine.reconcile import reconcile_event
from engine.recovery import check_servers, connected
from engine.ruling import Ruling, Seats, rule
from engine.scripts import Change, Scripts, look_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from engine.ledger import Ledger, Letter, Locked
    from engine.recovery import Stores
    from engine.scripts import Command
    from engine.settings import Settings

READ_AT_ONCE: Final = 500
MAX_ATTEMPTS: Final = 8
CONNECTIONS: Final = 2

NO_SCRIPT: Final = "no script wrote it"
NOT_YET: Final = "the ledger must first take what is on its way; try again in a moment"
STILL_REFUSED: Final = "the ledger still refuses it"
NO_SEAT: Final = "Redis does not agree with the ledger; run `onsale reconcile {}`, then try again"

log = get_logger(__name__)


class Outcome(StrEnum):
    """What became of a letter."""

    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    ENDED = "ended"
    NOTHING_TO_END = "nothing_to_end"
    DISCARDED = "discarded"
    STAYS = "stays"
    GONE = "gone"


UNCHANGED: Final = (Outcome.STAYS, Outcome.GONE)


class Settlement(NamedTuple):
    """What became of one letter.

    ``detail`` is the word of a refusal, the id of the booking that was ended, or why it stays.
    """

    id: int
    outcome: Outcome
    detail: str = ""

    def __str__(self) -> str:
        """One sentence."""
        said = {
            Outcome.CONFIRMED: "confirmed",
            Outcome.REJECTED: f"refused: {self.detail}",
            Outcome.CANCELLED: "cancelled: its caller had given it back",
            Outcome.ENDED: f"ended booking {self.detail}",
            Outcome.NOTHING_TO_END: "settled: nothing was left for it to end",
            Outcome.DISCARDED: "discarded",
            Outcome.STAYS: f"stays a dead letter: {self.detail}",
            Outcome.GONE: "settled by somebody else meanwhile",
        }[self.outcome]
        return f"{self.id}: {said}"

    @property
    def forecast(self) -> str:
        """What a replay would do, where this is what it would come to."""
        return {
            Outcome.CONFIRMED: "would be confirmed, unless Postgres refuses it again",
            Outcome.REJECTED: f"would be refused: {self.detail}",
            Outcome.CANCELLED: "would be cancelled: its caller has given it back",
            Outcome.ENDED: f"would end booking {self.detail}",
            Outcome.NOTHING_TO_END: "would be settled: nothing is left for it to end",
        }.get(self.outcome, f"cannot be replayed: {self.detail}")


class Cold(Exception):
    """The event is not loaded, or not any more: load it and begin again."""


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    """An item as the drain sets it aside."""

    number: tuple[int, int]
    kind: Literal["reserve", "cancel"]
    event_id: int
    user_id: str
    at_ms: int
    booking: tuple[int, int] | None
    entry: None


_written = msgspec.json.Decoder(_Written)


def item_of(entry: str) -> Item | None:
    """The item that an entry holds; None if no script wrote it."""
    try:
        fields = msgspec.structs.asdict(_written.decode(entry))
    except msgspec.DecodeError:
        return None
    number, booking = Number(*fields["number"]), fields["booking"]
    return Item(**{**fields, "number": number, "booking": booking and Number(*booking)})


def decide(
    item: Item,
    later: Sequence[Item],
    *,
    mark: Number,
    partition: int,
    seats: dict[int, Seats],
    held: dict[tuple[int, str], int],
) -> Ruling | None:
    """Rule on a letter's item; None if it must wait for what is on its way.

    Args:
        item: a reserve or a cancel.
        later: what the outbox has of its event after it, some of it behind the mark.
        mark: how far the ledger is.
        partition: the item's.
        seats: of the event, if it exists.
        held: booking id by event id and user, for the rows of all these users.
    """

    def ruled(items: Iterable[Item]) -> Ruling:
        return rule(items, partition=partition, seats=seats, held=dict(held))

    if item.kind == "cancel":
        return ruled([item])
    if any(each.booking == item.number for each in later):  # his cancel came while it was pending
        return Ruling(passed={booking_id(item.number, partition): item})
    on_their_way = [each for each in later if each.number > mark]
    last = ruled([*on_their_way, item])
    if last.rejected and last.rejected[-1].item is item:
        return Ruling(rejected=last.rejected[-1:])
    if ruled([item, *on_their_way]).rejected != last.rejected:
        return None
    return ruled([item])


class Replay:
    """Replays dead letters of one partition in one epoch."""

    def __init__(self, stores: Stores, scripts: Scripts) -> None:
        self._ledger = stores.ledger
        self._redis = stores.redis
        self._scripts = scripts
        self._outbox = Outbox(stores.redis, scripts.partition)
        self._hydration = Hydration(stores.ledger, stores.redis)

    async def once(self, letter: Letter, item: Item) -> Settlement:
        """Settle a letter, or say why it stays.

        Raises:
            Fenced: recover, then begin again.
            Cold: begin again.
            LedgerRefuses: nothing was written; the seat may still be taken in Redis.
            LedgerAway, RedisAway, Overloaded: it cannot be done now.
        """
        if item.kind == "reserve":
            await self._hydration.warm(item.event_id, self._scripts)
        async with self._ledger.locked(self._scripts.partition) as locked:
            if locked.row.epoch != self._scripts.epoch or locked.row.recovering:
                raise Fenced(self._scripts.partition, self._scripts.epoch)
            if not await locked.lock_letter(letter.id):
                return Settlement(letter.id, Outcome.GONE)
            return await self._settle(letter, item, locked)

    async def _settle(self, letter: Letter, item: Item, locked: Locked) -> Settlement:
        """Under the lock: take the seat, rule, write. The order is argued at the top."""
        seats = await locked.seats({item.event_id})
        taken = item.kind == "reserve" and await self._take(item, seats.get(item.event_id))
        later = await read_later(self._outbox, item)
        partition, mark = self._scripts.partition, locked.row.mark
        held = await locked.held({(item.event_id, each.user_id) for each in (item, *later)})
        ruling = decide(item, later, mark=mark, partition=partition, seats=seats, held=held)
        fits = ruling is not None and bool(ruling.inserted)
        if taken and not fits:
            await self.give_back(item)
        if ruling is None:
            return Settlement(letter.id, Outcome.STAYS, NOT_YET)
        if fits and not taken:
            return Settlement(letter.id, Outcome.STAYS, NO_SEAT.format(item.event_id))
        await locked.remove_letter(letter.id)
        await locked.write(ruling, partition)
        if fits and not await self._holds(item):
            raise Cold
        return settlement_of(letter.id, ruling)

    async def _take(self, item: Item, seats: Seats | None) -> bool:
        """Take a letter's seat in Redis, if there is one to be taken."""
        if seats is None:
            return False
        look = look_reply(await self._call(self._scripts.look(item.event_id)))
        if look is None:
            raise Cold
        adds_up = look.left == look.total - look.users
        if look.users >= seats.total or not adds_up:
            return False
        change = Change(item.user_id, None, item.number)
        command = self._scripts.repair(item.event_id, [change], total=seats.total)
        changed = await self._call(command)
        if changed == b"cold":
            raise Cold
        return bool(changed)

    async def _holds(self, item: Item) -> bool:
        look = look_reply(await self._call(self._scripts.look(item.event_id, item.user_id)))
        return look is not None and look.held == item.number

    async def give_back(self, item: Item) -> None:
        """Let Redis have a letter's seat again, if its user holds it."""
        change = Change(item.user_id, str(item.number), None)
        await self._call(self._scripts.repair(item.event_id, [change]))

    async def _call(self, command: Command) -> Any:
        return await self._scripts.call(self._redis, command)


async def read_later(outbox: Outbox, item: Item) -> list[Item]:
    """What the outbox has of an item's event after it, without users that no row can have."""
    later: list[Item] = []
    after = item.number
    while items := await outbox.read(after, count=READ_AT_ONCE):
        later += [i for i in items if i.event_id == item.event_id and "\0" not in i.user_id]
        after = items[-1].number
    return later


def settlement_of(letter: int, ruling: Ruling) -> Settlement:
    """What a ruling on one letter comes to."""
    if ruling.inserted:
        return Settlement(letter, Outcome.CONFIRMED)
    if ruling.rejected:
        return Settlement(letter, Outcome.REJECTED, ruling.rejected[0].word)
    if ruling.passed:
        return Settlement(letter, Outcome.CANCELLED)
    if ruling.ended:
        return Settlement(letter, Outcome.ENDED, str(*ruling.ended))
    return Settlement(letter, Outcome.NOTHING_TO_END)


def replayable(letter: Letter, partitions: int) -> Item | None:
    """A letter's item, if a script can have written it into this partition."""
    item = item_of(letter.entry)
    ours = item and item.event_id % partitions == booking_partition(letter.id)
    return item if ours else None


async def replay(stores: Stores, booking: int) -> Settlement:
    """Replay one letter, in whatever epoch its partition is, and let Redis follow.

    Raises:
        LedgerAway, RedisAway, Overloaded: it cannot be done now. Where the answer to the commit was
            lost, or Redis went away after it, it has been done.
    """
    letter = await stores.ledger.letter(booking)
    if letter is None:
        return Settlement(booking, Outcome.GONE)
    item = replayable(letter, stores.partitions)
    if item is None:
        return Settlement(booking, Outcome.STAYS, NO_SCRIPT)
    settlement = await _attempts(stores, letter, item)
    if settlement.outcome not in UNCHANGED:
        metrics.SETTLED_LETTERS.labels(settlement.outcome).inc()
        log.info("dead_letter_replayed", **_facts(letter, item), outcome=str(settlement.outcome))
        await reconcile_event(stores, item.event_id, users=[item.user_id])
    return settlement


async def _attempts(stores: Stores, letter: Letter, item: Item) -> Settlement:
    partition = booking_partition(letter.id)
    epoch = await stores.recovery.opened(partition)
    for _ in range(MAX_ATTEMPTS):
        attempt = Replay(stores, Scripts(partition, epoch))
        try:
            return await attempt.once(letter, item)
        except Cold:
            continue
        except Fenced:
            epoch = await stores.recovery.reopen(partition, epoch)
        except LedgerRefuses as error:
            with suppress(Fenced):  # then nobody has a seat
                await attempt.give_back(item)
            return Settlement(letter.id, Outcome.STAYS, f"{STILL_REFUSED}: {error}")
    raise Overloaded(f"event {item.event_id} could not be made ready")


async def foresee(stores: Stores, letter: Letter) -> str:
    """What a replay would do now, found without any lock.

    Raises:
        LedgerAway: it cannot be known now.
    """
    item = replayable(letter, stores.partitions)
    if item is None:
        return Settlement(letter.id, Outcome.STAYS, NO_SCRIPT).forecast
    try:
        ruling = await _would_rule(stores, booking_partition(letter.id), item)
    except RedisAway:
        return "what a replay would do is not known: Redis does not answer"
    except LedgerRefuses as error:
        return Settlement(letter.id, Outcome.STAYS, f"{STILL_REFUSED}: {error}").forecast
    if ruling is None:
        return Settlement(letter.id, Outcome.STAYS, NOT_YET).forecast
    return settlement_of(letter.id, ruling).forecast


async def _would_rule(stores: Stores, partition: int, item: Item) -> Ruling | None:
    """Rule as under the lock, on what is read in this order."""
    event_id = item.event_id
    later = await read_later(Outbox(stores.redis, partition), item)
    users = {each.user_id for each in (item, *later)}
    mark, rows = await stores.ledger.held_with_mark(partition, event_id, list(users))
    found = await stores.ledger.event(event_id)
    seats = {event_id: Seats(found[0].total_seats, found[1])} if found else {}
    held = {(event_id, user): booking_id(number, partition) for user, number in rows.items()}
    return decide(item, later, mark=mark, partition=partition, seats=seats, held=held)


async def discard(ledger: Ledger, booking: int) -> Settlement:
    """Make a letter a rejected booking; the log has its entry.

    Raises:
        LedgerAway: it cannot be done now.
    """
    async with ledger.discarded(booking) as letter:
        if letter is None:
            return Settlement(booking, Outcome.GONE)
        # Before the commit: rather a line too many than an entry that is nowhere. As an error,
        # so that no LOG_LEVEL leaves it out.
        facts = _facts(letter, item_of(letter.entry))
        log.error("dead_letter_discarded", **facts, outcome=str(Outcome.DISCARDED))
    metrics.SETTLED_LETTERS.labels(Outcome.DISCARDED).inc()
    return Settlement(booking, Outcome.DISCARDED)


def _facts(letter: Letter, item: Item | None) -> dict[str, Any]:
    return {
        "booking_id": letter.id,
        "event_id": letter.event_id,
        "user_id": item.user_id if item else None,
        "reason": letter.reason,
        "entry": letter.entry,
    }


# What the command line calls. Each may raise LedgerAway; those that need Redis, RedisAway.


async def newest(settings: Settings, limit: int) -> tuple[list[Letter], int]:
    """The newest letters, at most ``limit``, and how many there are in all."""
    async with connected(settings, connections=CONNECTIONS) as stores:
        return await stores.ledger.letters(limit)


async def find(settings: Settings, bookings: Iterable[int]) -> tuple[list[Letter], list[str]]:
    """The letters with these ids, and of each id that has none, a sentence that says so."""
    letters, missing = [], []
    async with connected(settings, connections=CONNECTIONS) as stores:
        for booking in dict.fromkeys(bookings):
            known = booking <= MAX_BOOKING_ID
            letter = await stores.ledger.letter(booking) if known else None
            row = await stores.ledger.booking(booking) if known else None
            if letter:
                letters.append(letter)
            elif row:
                missing.append(f"{booking} is no dead letter: that booking is {row.status}")
            else:
                missing.append(f"there is no dead letter {booking}")
    return letters, missing


async def forecast(settings: Settings, letter: Letter) -> str:
    """What a replay of a letter would do now."""
    async with connected(settings, connections=CONNECTIONS) as stores:
        with suppress(RedisAway):
            await check_servers(stores.ledger, stores.redis, settings)
        return await foresee(stores, letter)


async def replay_each(settings: Settings, bookings: Sequence[int]) -> AsyncIterator[Settlement]:
    """Replay these letters, or all of them, oldest first, each in its own transaction."""
    async with connected(settings, connections=CONNECTIONS) as stores:
        await check_servers(stores.ledger, stores.redis, settings)
        for booking in bookings or await stores.ledger.letter_ids():
            yield await replay(stores, booking)


async def discard_each(settings: Settings, bookings: Sequence[int]) -> AsyncIterator[Settlement]:
    """Discard these letters, each in its own transaction."""
    async with connected(settings, connections=CONNECTIONS) as stores:
        for booking in bookings:
            yield await discard(stores.ledger, booking)
