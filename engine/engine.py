"""The engine: what the API calls. It puts the parts together and decides nothing itself.

A call goes to Redis first. What Redis cannot answer (the event is cold, its seats do not add up,
the partition is fenced) is mended on the way, and the call tried again: none of these has decided
anything. A call whose answer was lost is never tried again here.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from redis.exceptions import WatchError

from engine import keys, metrics, outbox
from engine.admission import Decision, Lane
from engine.attempt import Awaited
from engine.confirmations import Waiters, refusal_for
from engine.errors import (
    REDIS_ERRORS,
    Dirty,
    Fenced,
    LedgerAway,
    Misconfigured,
    Overloaded,
    RedisAway,
    Unavailable,
)
from engine.events import Events
from engine.hydrate import Hydration
from engine.idempotency import partition_of, request_of
from engine.ledger import Ledger
from engine.limiter import UNLIMITED, Limiter
from engine.log import get_logger
from engine.model import (
    BY_HAND,
    Availability,
    Booking,
    Cancellation,
    Drained,
    Fate,
    Item,
    Number,
    Reservation,
    Status,
    UserStatistics,
    Word,
    booking_id,
    booking_partition,
)
from engine.outbox import Outbox
from engine.recovery import Recovery, check_servers, redis_client
from engine.road import Road
from engine.service_keys import ServiceKeys
from engine.tasks import stop
from engine.watch import Sight, Watches
from engine.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine

    from engine.attempt import Attempt
    from engine.limiter import Allowance
    from engine.scripts import Look
    from engine.settings import Settings
    from engine.watch import Listener

T = TypeVar("T")

MAX_ATTEMPTS: Final = 8
RECOVERY_S: Final = 3.0
COMMAND_S: Final = 2.0
"""A caller waits no longer for a Postgres that hangs."""
RETRY_S: Final = 0.2
HEALTH_CHECK_S: Final = 5
ENTRIES_A_READ: Final = 100

log = get_logger(__name__)

_NO_EVENT: Final = Reservation(Word.EVENT_NOT_FOUND)
_KEY_REUSED: Final = Reservation(Word.KEY_REUSED)
_NO_BOOKING: Final = Cancellation(Word.BOOKING_NOT_FOUND)


class Engine:
    """Reserve, cancel and read, against one Redis and one ledger.

    Every call may raise ``Overloaded``, ``RedisAway`` or ``LedgerAway``: nothing was decided, or
    the answer was lost; to try again is safe.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._partitions = settings.partitions
        self._ledger = Ledger(settings.postgres_dsn, command_s=COMMAND_S)
        self._redis = redis_client(settings)
        self._road = Road(self._redis.connection_pool)
        self._lanes = [
            Lane(
                partition,
                self._road,
                outbox_bound=settings.outbox_bound,
                queue_bound=settings.queue_bound,
            )
            for partition in range(settings.partitions)
        ]
        self._waiters = [Waiters(p, self._fates) for p in range(settings.partitions)]
        self._hydration = Hydration(self._ledger, self._redis)
        self.events = Events(self._ledger, self._lanes, self._hydration)
        self._recovery = Recovery(self._ledger, settings)
        self.limiter = (
            Limiter(
                self._road,
                max_calls=settings.rate_limit_max,
                window_ms=settings.rate_limit_time_window,
            )
            if settings.rate_limit_max
            else None
        )
        self.watches = Watches(self._sight, self._unwatched)
        self.service_keys = ServiceKeys(self._ledger) if settings.auth == "token" else None
        """Who may call; None unless service keys say it."""
        self._reopening: dict[int, asyncio.Task[int]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._away: Unavailable | None = None

    @classmethod
    async def open(cls, settings: Settings) -> Engine:
        """Start. If a server is away, the engine goes on trying in the background.

        Raises:
            Misconfigured: a server cannot keep what onsale promises.
        """
        engine = cls(settings)
        try:
            await engine._connect()
        except Unavailable as error:
            log.warning("not_ready", reason=str(error))
            engine._away = error
            engine._start(engine._until_connected())
        except Misconfigured:
            await engine.close()
            raise
        engine._start(engine._hear_drains())
        engine._start(engine._hear_hands())
        if engine.service_keys:
            engine._start(engine.service_keys.follow())
        return engine

    async def close(self) -> None:
        """Stop."""
        self.release_waiters()
        await self.watches.close()
        await stop(*self._tasks)
        await self._road.close()
        for waiters in self._waiters:
            await waiters.close()
        await self._redis.aclose()
        await self._ledger.close()

    def release_waiters(self) -> None:
        """At shutdown: nobody waits for the ledger any more, and nobody listens."""
        self.watches.release()
        for waiters in self._waiters:
            waiters.release()

    # The calls

    async def reserve(
        self, event_id: int, user_id: str, *, fingerprint: str = "", wait_ms: int
    ) -> Reservation:
        """Give a user a seat, and wait until the ledger has it, at most ``wait_ms``.

        Args:
            event_id: 1 to 2³¹-1.
            user_id: 1 to 255 characters.
            fingerprint: of the Idempotency-Key, or "". A booking that was made under the same one
                is answered again (``replayed``), whatever has become of it.
            wait_ms: 0 not to wait.
        """
        if fingerprint:
            return await self._reserve_once(event_id, user_id, fingerprint, wait_ms)
        made = await self._attempted(event_id, user_id, wait_ms)
        return await self.refused(made, event_id, user_id) if _is_refused(made) else made

    def attempt(self, event_id: int, user_id: str, attempt: Attempt) -> None:
        """``reserve`` for who is not a task, as far as nothing must be waited for.

        The attempt must be one of ``waiters_of`` this event.
        """
        if self._away:
            raise self._away
        self._lanes[event_id % self._partitions].reserve(event_id, user_id, attempt)

    def waiters_of(self, event_id: int) -> Waiters:
        """Those who wait for the ledger to take what was given of this event."""
        return self._waiters[event_id % self._partitions]

    async def refused(self, made: Reservation, event_id: int, user_id: str) -> Reservation:
        """What the ledger's refusal (``rejected``) is to the caller: the booking in the way."""
        if made.word is not Word.ALREADY_BOOKED:
            return Reservation(made.word)
        lane = self._lanes[event_id % self._partitions]
        look = await self._decided(event_id, lane, lambda: lane.look(event_id, user_id))
        if not look or not look.held:
            raise LedgerAway(f"the booking that user {user_id!r} had is gone since")
        return Reservation(made.word, booking_id(look.held, lane.partition))

    async def cancel(
        self, booking: int, *, wait_ms: int, user_id: str | None = None
    ) -> Cancellation:
        """Give a booking's seat back, and wait until the ledger knows, at most ``wait_ms``.

        Repeated, it answers the same again. Where a user is named, a booking of another one is not
        found.
        """
        item = await self._reserve_of(booking)
        if item is not None and user_id in (None, item.user_id):
            lane = self._lanes[booking_partition(booking)]
            decision = await self._free(lane, item.event_id, item.user_id, item.number)
            if decision and decision.word is Word.CANCELLED:
                return await self._cancelled(decision.number, lane, wait_ms)
        for _ in range(MAX_ATTEMPTS):
            found = await self.booking(booking)
            if found is None or found.status in (Status.REJECTED, Status.LOST):
                return _NO_BOOKING
            if user_id is not None and found.user_id != user_id:
                return _NO_BOOKING
            lane = self._lanes[found.event_id % self._partitions]
            if found.status is Status.CANCELLED:
                return await self._cancelled_before(found, lane, wait_ms)
            decision = await self._give_back(found, lane)
            if decision is None:
                return _NO_BOOKING
            if decision.word is Word.CANCELLED:
                return await self._cancelled(decision.number, lane, wait_ms)
        raise Overloaded(f"booking {booking} could not be given back")

    async def booking(self, booking: int) -> Booking | None:
        """Read a booking; None if there never was one with this id.

        The outbox is asked first: in the other order a booking that is just being drained would be
        in neither.
        """
        if isinstance(self._away, LedgerAway):  # not open yet: a cancel on its way is not seen
            raise self._away
        partition, number = booking_partition(booking), Number.of_booking(booking)
        if partition == BY_HAND:
            found = await self._ledger.booking(booking)
            return await self._unless_cancelled(found, number) if found else None
        if partition >= self._partitions:
            return None
        lane = self._lanes[partition]
        try:
            last, item = await self._entry(lane, number)
        except RedisAway as away:
            return await self._in_ledger_only(booking, away)
        try:
            fate, found = await self._in_ledger(booking)
        except LedgerAway:
            # The outbox alone cannot be believed: it may be an older one that was restored.
            found = await self._in_redis(booking, item) if item else None
            if found is None or found.status is Status.CANCELLED:  # or was it rejected?
                raise
            return found
        if found:
            return await self._unless_cancelled(found, number)
        if fate is Status.PENDING and item:
            return await self._on_its_way(booking, item)
        if fate is Status.PENDING:
            fate, found = await self._in_neither(booking, last)
        # Unless lost: a cancel has that number, or a hand removed the row, or nobody was given it.
        return _lost(booking) if fate is Status.LOST else found

    async def event(self, event_id: int) -> Availability | None:
        """Read an event and its seats, as of this instant; without Redis, as of the ledger."""
        lane = self._lanes[event_id % self._partitions]
        try:
            look = await self._decided(event_id, lane, lambda: lane.look(event_id))
        except RedisAway:
            found = await self._ledger.event(event_id)
            if found is None:
                return None
            event, booked = found
            return Availability(event, event.total_seats - booked, "ledger")
        if look is None:
            return None
        return Availability(look.event(event_id), look.left, "redis")

    async def watch(self, event_id: int, *, after_ms: int = 0) -> Listener | None:
        """Listen to an event: see ``Watches.join``."""
        return await self.watches.join(event_id, after_ms=after_ms)

    async def admit(self, caller: str) -> Allowance:
        """Count a call against its caller's rate limit."""
        return await self.limiter.admit(caller) if self.limiter else UNLIMITED

    async def statistics(self, user_id: str) -> UserStatistics:
        """Read what a user has in the ledger."""
        return await self._ledger.user_statistics(user_id)

    async def readiness(self) -> dict[str, str]:
        """Each part, with ``ok`` or what is wrong with it."""
        parts = {"engine": str(self._away or "ok")}
        try:
            await self._redis.ping()
            parts["redis"] = "ok"
        except REDIS_ERRORS as error:
            parts["redis"] = f"does not answer: {error}"
        try:
            await self._ledger.partition(0)
            parts["ledger"] = "ok"
        except LedgerAway as error:
            parts["ledger"] = str(error)
        return parts

    # Under an Idempotency-Key

    async def _reserve_once(
        self, event_id: int, user_id: str, fingerprint: str, wait_ms: int
    ) -> Reservation:
        """Reserve, unless the key has made a booking or stands for something else."""
        request = request_of(fingerprint, event_id, user_id)
        if not await self._claimed(fingerprint, request):
            return _KEY_REUSED
        lane = self._lanes[event_id % self._partitions]
        for _ in range(MAX_ATTEMPTS):
            made = await self._attempted(event_id, user_id, wait_ms, request)
            if _is_refused(made):
                return await self.refused(made, event_id, user_id)
            if made.word is not Word.REPLAYED:
                return made
            number = Number.of_booking(made.booking_id)
            replayed = await self._replayed(number, event_id, user_id, wait_ms)
            if replayed is not None:
                return replayed
            await self._forget(keys.record(lane.partition, request), number)
        raise Overloaded(f"the record of request {request} could not be renewed")

    async def _claimed(self, fingerprint: str, request: str) -> bool:
        """Whether a key stands for this request, from now on or since before."""
        if self._away:
            raise self._away
        return await self._lanes[partition_of(fingerprint, self._partitions)].claim(
            fingerprint, request
        )

    async def _replayed(
        self, number: Number, event_id: int, user_id: str, wait_ms: int
    ) -> Reservation | None:
        """The first answer again, as far as it is true; None where nothing has come of it.

        That is so where the booking is lost, was refused, or was removed by a hand: nobody has the
        seat, and no cancel of the caller's is undone if he books anew.
        """
        partition = event_id % self._partitions
        lane, booking = self._lanes[partition], booking_id(number, partition)
        found = await self.booking(booking)
        refusal = None
        if found and found.status is Status.PENDING:
            status, refusal = await self._confirmed(self._waiters[partition], number, wait_ms)
        elif found and found.status in (Status.CONFIRMED, Status.CANCELLED):
            status = found.status
        else:
            look = await self._decided(event_id, lane, lambda: lane.look(event_id, user_id))
            if look is None or look.held != number:
                return None
            if found is None or found.status is not Status.REJECTED:
                log.warning("dirty", event_id=event_id, reason=f"nobody knows booking {booking}")
                await self._close(event_id, lane)
                return None
            status, refusal = found.status, refusal_for(found.reason or "")  # not given back yet
        if refusal is not None:
            return await self.refused(Reservation(refusal), event_id, user_id)
        return Reservation(Word.REPLAYED, booking, found.created_at_ms, status)

    async def _forget(self, record: str, number: Number) -> None:
        """Remove a record of what holds no seat, unless it names another booking by now.

        No epoch is compared: such a record answers nobody, whichever Redis has it.
        """
        try:
            async with self._redis.pipeline() as together:
                await together.watch(record)
                if Number.held(await together.get(record) or b"") == number:
                    together.multi()
                    together.delete(record)
                    await together.execute()
        except WatchError:  # somebody else did
            return
        except REDIS_ERRORS as error:
            metrics.REDIS_ERRORS.inc()
            raise RedisAway(f"Redis does not answer: {error}") from error

    async def _attempted(
        self, event_id: int, user_id: str, wait_ms: int, request: str = ""
    ) -> Reservation:
        """What has come of an attempt to book, made until Redis has decided."""
        lane, waiters = self._lanes[event_id % self._partitions], self.waiters_of(event_id)

        def attempt() -> asyncio.Future[Reservation | None]:
            made: asyncio.Future[Reservation | None] = asyncio.get_running_loop().create_future()
            lane.reserve(event_id, user_id, Awaited(waiters, wait_ms, made), request)
            return made

        return await self._decided(event_id, lane, attempt) or _NO_EVENT

    # Making ready

    async def _decided(
        self, event_id: int, lane: Lane, ask: Callable[[], Awaitable[T | None]]
    ) -> T | None:
        """Ask Redis, making the event ready for it where needed; None if there is no event."""
        if self._away:
            raise self._away
        for _ in range(MAX_ATTEMPTS):
            try:
                answer = await ask()
                if answer is not None:
                    return answer
                scripts = lane.scripts
                if scripts and not await self._hydration.warm(event_id, scripts):
                    return None
            except Fenced as error:
                await self._reopen(error.partition, error.epoch)
            except Dirty as error:
                log.warning("dirty", event_id=event_id, reason=str(error))
                await self._close(event_id, lane)
        raise Overloaded(f"event {event_id} could not be made ready")

    async def _close(self, event_id: int, lane: Lane) -> None:
        if lane.scripts:
            with contextlib.suppress(Fenced):  # then it is cold already
                await lane.scripts.call(self._redis, lane.scripts.close(event_id))

    async def _reopen(self, partition: int, epoch: int) -> None:
        """Recover a partition, once for all who ask."""
        task = self._reopening.get(partition)
        if task is None:
            task = asyncio.create_task(self._recovery.reopen(partition, epoch))
            self._reopening[partition] = task
            task.add_done_callback(lambda _: self._reopening.pop(partition, None))
        try:
            opened = await asyncio.wait_for(asyncio.shield(task), RECOVERY_S)
        except TimeoutError:
            raise RedisAway(f"partition {partition} is being recovered") from None
        self._lanes[partition].adopt(opened)
        self._waiters[partition].ask_soon()  # what was lost is known now

    # Waiting

    async def _confirmed(
        self, waiters: Waiters, number: Number, wait_ms: int
    ) -> tuple[Status, Word | None]:
        """Whether the ledger took a number in time, or the word of its refusal."""
        if wait_ms <= 0:
            return Status.PENDING, None
        try:
            return Status.CONFIRMED, await waiters.wait(number, wait_ms)
        except TimeoutError:
            return Status.PENDING, None

    async def _give_back(self, booking: Booking, lane: Lane) -> Decision | None:
        """Ask Redis to cancel; not found if it does not hold the booking, None without an event."""
        event_id, number = booking.event_id, Number.of_booking(booking.id)
        decision = await self._free(lane, event_id, booking.user_id, number)
        if decision and decision.word is not Word.CANCELLED:
            again = await self.booking(booking.id)
            if again and again.status is booking.status:  # a hand's, that Redis has not followed
                await self._close(event_id, lane)
        return decision

    async def _free(
        self, lane: Lane, event_id: int, user_id: str, number: Number
    ) -> Decision | None:
        """Free the seat that a user has under this number; not found if he does not have it."""
        return await self._decided(event_id, lane, lambda: lane.cancel(event_id, user_id, number))

    async def _cancelled(self, number: Number, lane: Lane, wait_ms: int) -> Cancellation:
        """The answer to a cancel with this number, once the ledger has it or the wait is over."""
        waiters = self._waiters[lane.partition]
        waiters.granted(number)
        status, _ = await self._confirmed(waiters, number, wait_ms)
        return Cancellation(Word.CANCELLED, in_ledger=status is Status.CONFIRMED)

    async def _cancelled_before(self, booking: Booking, lane: Lane, wait_ms: int) -> Cancellation:
        """A cancel repeated: wait until the ledger has passed whatever is on its way."""
        try:
            last, _ = await self._entry(lane, Number(0, 1))
            async with asyncio.timeout(wait_ms / 1000):
                await self._ledger.mark_reaches(lane.partition, last)
            found = await self._ledger.booking(booking.id)
        except (TimeoutError, Unavailable):
            return Cancellation(Word.CANCELLED)
        in_ledger = found is not None and found.status is Status.CANCELLED
        return Cancellation(Word.CANCELLED, in_ledger=in_ledger)

    async def _fates(
        self, partition: int, numbers: Collection[Number]
    ) -> dict[Number, Fate] | None:
        try:
            return await self._ledger.fates(partition, numbers)
        except LedgerAway:
            return None

    # Reading what is on its way

    async def _entry(self, lane: Lane, number: Number) -> tuple[Number, Item | None]:
        """The last number given out, and the reserve with this number if the outbox has it."""
        for _ in range(MAX_ATTEMPTS):
            try:
                seq, entry = await lane.find(number)
            except Fenced as error:
                await self._reopen(error.partition, error.epoch)
                continue
            epoch = lane.scripts.epoch if lane.scripts else 0
            items = outbox.items(entry[0], outbox.fields_of(entry[1])) if entry else []
            wanted = (i for i in items if i.number == number and i.kind == "reserve")
            return Number(epoch, seq), next(wanted, None)
        raise RedisAway(f"partition {lane.partition} is being recovered")

    async def _reserve_of(self, booking: int) -> Item | None:
        """What the outbox has of a booking; the ledger need not be asked whose it is."""
        partition = booking_partition(booking)
        if partition < self._partitions:  # else it is a hand's, or nobody's
            with contextlib.suppress(RedisAway):
                lane, number = self._lanes[partition], Number.of_booking(booking)
                return (await self._entry(lane, number))[1]
        return None

    async def _in_ledger(self, booking: int) -> tuple[Status, Booking | None]:
        """What became of a booking's number, and its row. In this order, so that no row is missed.

        ``confirmed`` without a row: a cancel has that number, or a hand removed the row.
        """
        number = Number.of_booking(booking)
        fates = await self._ledger.fates(booking_partition(booking), [number])
        return fates[number].status, await self._ledger.booking(booking)

    async def _in_neither(self, booking: int, last: Number) -> tuple[Status, Booking | None]:
        """``_in_ledger`` of what the ledger has not passed and the outbox does not have."""
        partition, number = booking_partition(booking), Number.of_booking(booking)
        if number.epoch == last.epoch and number <= last:  # it was given out: a gap
            await self._reopen(partition, last.epoch)
            return await self._in_ledger(booking)
        if last.epoch < number.epoch <= (await self._ledger.partition(partition)).epoch:
            raise RedisAway(f"partition {partition} was opened on another Redis")
        return Status.PENDING, None

    async def _in_ledger_only(self, booking: int, away: RedisAway) -> Booking | None:
        """A booking while Redis is away; what the ledger has not reached cannot be known."""
        fate, found = await self._in_ledger(booking)
        if fate is Status.PENDING and not found:
            raise away
        return _lost(booking) if fate is Status.LOST and not found else found

    async def _in_redis(self, booking: int, item: Item) -> Booking | None:
        """A booking as Redis has it now: pending or cancelled; None if it cannot say."""
        lane = self._lanes[item.event_id % self._partitions]
        with contextlib.suppress(RedisAway):
            look = await self._look(lane, item.event_id, item.user_id)
            # In a later epoch the event was loaded anew, without what is only in this one's outbox.
            if look and lane.scripts and lane.scripts.epoch == item.number.epoch:
                status = Status.PENDING if look.held == item.number else Status.CANCELLED
                event = look.event(item.event_id)
                return _of_item(booking, item, status)._replace(event=event)
        return None

    async def _on_its_way(self, booking: int, item: Item) -> Booking:
        """A booking that is in the outbox and not in the ledger: pending, or cancelled since."""
        found = await self._in_redis(booking, item)
        if found is None:
            lane, status = self._lanes[item.event_id % self._partitions], Status.PENDING
            with contextlib.suppress(RedisAway):
                if await self._cancel_follows(lane, item.number):
                    status = Status.CANCELLED
            found = _of_item(booking, item, status)
        return found

    async def _unless_cancelled(self, found: Booking, number: Number) -> Booking:
        """A booking of the ledger, unless its cancel is on the way."""
        if found.status is not Status.CONFIRMED:
            return found
        lane = self._lanes[found.event_id % self._partitions]
        with contextlib.suppress(RedisAway):
            look = await self._look(lane, found.event_id, found.user_id)
            if look and look.held == number:
                return found
            if await self._cancel_follows(lane, number):
                return found._replace(status=Status.CANCELLED)
            return await self._ledger.booking(found.id) or found
        return found

    @staticmethod
    async def _look(lane: Lane, event_id: int, user_id: str) -> Look | None:
        """What Redis has of an event and a user, if it can be believed now."""
        with contextlib.suppress(Fenced, Dirty):
            return await lane.look(event_id, user_id)
        return None

    async def _cancel_follows(self, lane: Lane, booking: Number) -> bool:
        """Whether the outbox has a cancel of a booking, drained already or not."""
        outbox = Outbox(self._redis, lane.partition)
        pages = outbox.pages(booking, await outbox.last(), count=ENTRIES_A_READ)
        async for page in pages:
            if any(item.booking == booking for item in page):
                return True
        return False

    # Watching

    async def _sight(self, event_id: int) -> Sight | None:
        """An event as a watcher sees it at this instant."""
        seats = await self.event(event_id)
        if seats is None:
            return None
        lane = self._lanes[event_id % self._partitions]
        depth = None if seats.source == "ledger" else await lane.depth()
        refused = lane.refused.setdefault(event_id, 0)  # last: a look that fails opens no feed
        return Sight(seats, depth, self._waiters[lane.partition].confirm_ms(), refused)

    def _unwatched(self, event_id: int) -> None:
        """Nobody listens to an event any more."""
        self._lanes[event_id % self._partitions].refused.pop(event_id, None)

    # In the background

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _connect(self) -> None:
        for row in await check_servers(self._ledger, self._redis, self._settings):
            self._lanes[row.partition].adopt(row.epoch)
        self._away = None

    async def _until_connected(self) -> None:
        said = ""
        while self._away:
            await asyncio.sleep(RETRY_S)
            try:
                await self._connect()
            except Unavailable as error:
                self._away = error
            except Misconfigured as error:
                if said != str(error):
                    said = str(error)
                    log.critical("misconfigured", reason=said)

    async def _hear_drains(self) -> None:
        """Tell the waiters what the workers publish."""
        while True:
            try:
                await self._hear_drains_once()
            except REDIS_ERRORS as error:
                metrics.REDIS_ERRORS.inc()
                log.warning("drains_not_heard", reason=str(error))
            except Exception:  # without this task every caller would wait in vain
                log.exception("drains_not_heard")
            await asyncio.sleep(RETRY_S)

    async def _hear_drains_once(self) -> None:
        channels = {keys.drained(p).encode(): waiters for p, waiters in enumerate(self._waiters)}
        names = [channel.decode() for channel in channels]
        decode = msgspec.json.Decoder(Drained).decode
        wire = Wire(self._redis.connection_pool)
        async with contextlib.aclosing(wire.messages(names, check_s=HEALTH_CHECK_S)) as messages:
            async for message in messages:
                if message:
                    channel, text = message
                    channels[channel].heard(decode(text))
                else:
                    for waiters in self._waiters:
                        waiters.ask_soon()

    async def _hear_hands(self) -> None:
        """Learn of new events at once."""
        while True:
            try:
                await self._ledger.listen(self._heard)
            except LedgerAway as error:
                log.warning("hands_not_heard", reason=str(error))
            await asyncio.sleep(RETRY_S)

    def _heard(self, news: str) -> None:
        """What a hand has changed may be an event that was not there before, or a service key."""
        if self.service_keys and news in ("keys", "all"):
            self.service_keys.changed()
        if news == "keys":
            return
        words = news.split(" ", 2)
        known = len(words) > 1 and words[1].isdecimal()
        self._hydration.appeared(int(words[1]) if known else None)


def _is_refused(made: Reservation) -> bool:
    """Whether the ledger has refused what Redis had granted."""
    return made.status is Status.REJECTED


def _lost(booking: int) -> Booking:
    return Booking(booking, 0, "", 0, Status.LOST)


def _of_item(booking: int, item: Item, status: Status) -> Booking:
    return Booking(booking, item.event_id, item.user_id, item.at_ms, status)
