"""The Lua scripts: loaded, fenced, and called with typed arguments.

The fence. A script of the selling path carries its partition and epoch in its text, so that each
partition and epoch has scripts, and hashes, of its own. They are called by EVALSHA only, and
recovery alone loads them. So a Redis that restarted or was promoted does not have them (NOSCRIPT),
and one that was flushed or restored has another epoch in its log (``fenced``). Both raise
``Fenced``, and both mean: recover. A master that was demoted, took over the state of a replica that
lagged, and was promoted again has the scripts and the epoch: so the selling scripts also look
whether it has the name (``master_replid``) that it had when the epoch was opened.

The partition must be part of the text. With the epoch alone, a Redis that restarts with partition 1
at epoch 2 and partition 2 at epoch 3 would get partition 2's scripts back from the recovery of
partition 1, while partition 2 has not been recovered.

Never use redis-py's ``register_script`` here: it loads by itself what it misses.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from redis.exceptions import NoScriptError, OutOfMemoryError

from engine import keys, metrics
from engine.errors import REDIS_ERRORS, Fenced, Overloaded, RedisAway
from engine.model import MAX_BATCH, Event, Number, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis.asyncio import Redis

FENCED = (
    "reserve",
    "cancel",
    "look",
    "find",
    "lease",
    "stage",
    "install",
    "close",
    "repair",
    "acknowledge",
)

MAX_DIGITS = 15
"""Of a bound of a window, in Unix milliseconds."""

Command: TypeAlias = tuple[str | bytes | int, ...]


@cache
def source(name: str) -> str:
    """The text of a script as it lies in ``lua/``."""
    return (Path(__file__).parent.parent / "lua" / f"{name}.lua").read_text(encoding="utf-8")


class Change(NamedTuple):
    """One compare-and-set of ``repair``: ``None`` stands for no booking.

    ``expected`` is as Redis has it: a hand may have written anything there. For the same reason
    ``user_id`` may have lone surrogates in the place of bytes that are not UTF-8.
    """

    user_id: str
    expected: str | None
    new: Number | None


class Look(NamedTuple):
    """An event as Redis has it at one instant; a total or left that a hand broke is below zero."""

    total: int
    left: int
    users: int
    name: str
    held: Number | None
    window: Window

    def event(self, event_id: int) -> Event:
        """The event, whose id Redis does not repeat."""
        return Event(event_id, self.name, self.total, self.window)


class Scripts:
    """The scripts of one partition at one epoch.

    The methods named after scripts return the command to send; its reply goes through ``checked``.
    """

    def __init__(self, partition: int, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self._log = keys.log(partition)
        self._outbox = keys.outbox(partition)
        fence = f"local EPOCH = '{epoch}' -- of partition {partition}\n"
        self.texts = {name: _fenced(source(name), fence) for name in FENCED}
        self._sha = {name: _sha(text) for name, text in self.texts.items()}

    def reserve(
        self, event_id: int, users: Sequence[str], requests: Sequence[str], *, bound: int
    ) -> Command:
        """Give seats to users; beside each the request that he made under a key, or ""."""
        p = self.partition
        recorded = dict.fromkeys(filter(None, requests))
        places = {request: place for place, request in enumerate(recorded, start=1)}
        return (
            "EVALSHA", self._sha["reserve"], 4 + len(places),
            self._log, self._outbox, keys.event(p, event_id), keys.users(p, event_id),
            *(keys.record(p, request) for request in places),
            event_id, bound, len(users), *users,
            *(places.get(request, 0) for request in requests if places),
        )  # fmt: skip

    def cancel(self, event_id: int, user_id: str, booking: Number, *, bound: int) -> Command:
        """Give one booking's seat back."""
        p = self.partition
        return (
            "EVALSHA", self._sha["cancel"], 4,
            self._log, self._outbox, keys.event(p, event_id), keys.users(p, event_id),
            event_id, bound, user_id, str(booking),
        )  # fmt: skip

    def look(self, event_id: int, user_id: str = "") -> Command:
        """Read an event, and what a user holds of it."""
        p = self.partition
        return (
            "EVALSHA", self._sha["look"], 3,
            self._log, keys.event(p, event_id), keys.users(p, event_id), user_id,
        )  # fmt: skip

    def find(self, number: Number) -> Command:
        """Read the entry that holds a number."""
        return ("EVALSHA", self._sha["find"], 2, self._log, self._outbox, str(number))

    def lease(self, event_id: int, token: str, *, lease_ms: int) -> Command:
        """Become the one who hydrates an event."""
        p = self.partition
        return (
            "EVALSHA", self._sha["lease"], 4,
            self._log, keys.event(p, event_id), keys.lease(p, event_id), keys.staging(p, event_id),
            token, lease_ms,
        )  # fmt: skip

    def stage(
        self, event_id: int, token: str, rows: Iterable[tuple[str, str]], *, lease_ms: int
    ) -> Command:
        """Bring a page of users, each with his number, to the staging."""
        p = self.partition
        pairs = [text for row in rows for text in row]
        return (
            "EVALSHA", self._sha["stage"], 3,
            self._log, keys.lease(p, event_id), keys.staging(p, event_id),
            token, lease_ms, *pairs,
        )  # fmt: skip

    def install(self, event: Event, token: str, *, staged: int) -> Command:
        """Open a hydrated event for sale."""
        event_id, name, total, window = event
        p = self.partition
        return (
            "EVALSHA", self._sha["install"], 5,
            self._log, keys.event(p, event_id), keys.users(p, event_id),
            keys.lease(p, event_id), keys.staging(p, event_id),
            token, total, name, staged, *_bounds(window),
        )  # fmt: skip

    def close(self, event_id: int) -> Command:
        """Make an event cold."""
        p = self.partition
        return (
            "EVALSHA", self._sha["close"], 4,
            self._log, keys.event(p, event_id), keys.users(p, event_id), keys.lease(p, event_id),
        )  # fmt: skip

    def repair(
        self,
        event_id: int,
        changes: Sequence[Change],
        *,
        total: int | None = None,
        name: str | None = None,
        window: Window | None = None,
    ) -> Command:
        """Make an event equal to the ledger, at most ``MAX_BATCH`` users at a time."""
        if len(changes) > MAX_BATCH:
            raise ValueError(f"{len(changes)} changes in one repair: {MAX_BATCH} at most")
        p = self.partition
        triples: list[str | bytes] = []
        for user_id, expected, new in changes:
            user = user_id.encode(errors="surrogateescape")
            triples += (user, expected or "", str(new) if new else "")
        return (
            "EVALSHA", self._sha["repair"], 4,
            self._log, keys.event(p, event_id), keys.users(p, event_id), keys.lease(p, event_id),
            "" if total is None else total, name or "", *_bounds(window), *triples,
        )  # fmt: skip

    def acknowledge(self, seq: int, *, tail: int) -> Command:
        """Tell Redis how far the ledger is."""
        return ("EVALSHA", self._sha["acknowledge"], 2, self._log, self._outbox, seq, tail)

    def checked(self, reply: Any) -> Any:
        """A reply without its faults.

        Raises:
            Fenced: the partition must be recovered.
            Overloaded: Redis is out of memory.
            RedisAway: any other error of Redis; what it was is in the message.
        """
        if reply == b"fenced" or isinstance(reply, NoScriptError):
            raise Fenced(self.partition, self.epoch)
        if isinstance(reply, OutOfMemoryError):
            raise Overloaded("Redis has reached maxmemory")
        if isinstance(reply, Exception):
            raise RedisAway(f"Redis answered: {reply}") from reply
        return reply

    async def call(self, redis: Redis, command: Command) -> Any:
        """Send one command over redis-py and check its reply.

        The client must be one that never tries again by itself (``redis_client``).
        """
        try:
            reply = await redis.execute_command(*command)
        except NoScriptError as error:
            reply = error
        except REDIS_ERRORS as error:
            metrics.REDIS_ERRORS.inc()
            raise RedisAway(f"Redis does not answer: {error}") from error
        return self.checked(reply)

    async def load(self, redis: Redis) -> None:
        """Put the scripts into Redis. For recovery alone."""
        for text in self.texts.values():
            await redis.execute_command("SCRIPT LOAD", text)


def look_reply(reply: Any) -> Look | None:
    """The reply of ``look``; None if the event is cold."""
    if reply == b"cold":
        return None
    total, left, users, name, held, opens, closes = reply
    return Look(
        total,
        left,
        users,
        name.decode(errors="replace"),
        Number.held(held) if held else None,
        Window(_bound(opens), _bound(closes)),
    )


def _bounds(window: Window | None) -> tuple[str | int, ...]:
    """A window as the scripts take it: "" is no bound, "keep" whatever is there."""
    if window is None:
        return "keep", "keep"
    return tuple("" if bound is None else bound for bound in window)


def _bound(held: bytes) -> int | None:
    """A bound as Redis has it; of what a hand wrote and is no instant, ``look`` makes no seats."""
    return int(held) if held.isdigit() and len(held) <= MAX_DIGITS else None


def unfenced(name: str, key_count: int, *keys_and_args: str | int) -> tuple[Command, Command]:
    """The call of a script that is not fenced (it sells nothing): by its digest, and with its text.

    The second is for a Redis that lacks it (``NoScriptError``); then it has it.
    """
    text = source(name)
    rest = (key_count, *keys_and_args)
    return ("EVALSHA", _sha(text), *rest), ("EVAL", text, *rest)


async def evaluate(redis: Redis, name: str, key_count: int, *keys_and_args: str | int) -> Any:
    """Run a script that is not fenced, over redis-py."""
    by_digest, with_text = unfenced(name, key_count, *keys_and_args)
    try:
        return await redis.execute_command(*by_digest)
    except NoScriptError:
        return await redis.execute_command(*with_text)


def _fenced(text: str, fence: str) -> str:
    first, _, rest = text.partition("\n")
    return f"{first}\n{fence}{rest}"


@cache
def _sha(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()
