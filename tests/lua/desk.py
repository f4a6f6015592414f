"""A partition's keys in Redis, opened by hand: nobody drains them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine import keys
from engine.outbox import items
from engine.scripts import Scripts, source

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from engine.model import Item
    from engine.scripts import Command

PLENTY = 1_000_000
EVENT = 17


class Desk:
    """One partition at epoch 3, with one event (17) that has no seats until ``put_on_sale``."""

    def __init__(self, redis: Redis, partition: int) -> None:
        self.redis = redis
        self.partition = partition
        self.scripts = Scripts(partition, 3)
        self.log = keys.log(partition)
        self.outbox = keys.outbox(partition)
        self.event = keys.event(partition, EVENT)
        self.users = keys.users(partition, EVENT)
        self.lease = keys.lease(partition, EVENT)
        self.staging = keys.staging(partition, EVENT)

    async def open(self) -> Desk:
        """Open the partition the way a recovery does."""
        await self.open_epoch(3)
        await self.scripts.load(self.redis)
        return self

    async def open_epoch(self, epoch: int) -> str:
        """Advance to an epoch, and open its outbox; what ``open`` answers."""
        await self.answer(self.unfenced("advance", self.log, epoch))
        return await self.answer(self.unfenced("open", self.log, self.outbox, epoch))

    @staticmethod
    def unfenced(name: str, *keys_and_epoch: str | int) -> Command:
        """The command of a script that recovery alone runs: its last argument is the epoch."""
        return ("EVAL", source(name), len(keys_and_epoch) - 1, *keys_and_epoch)

    async def put_on_sale(self, total: int, *, sold: dict[str, str] | None = None) -> None:
        """Make the event warm, with these users holding these numbers."""
        sold = sold or {}
        fields = {"epoch": 3, "total": total, "left": total - len(sold), "name": "Чайка"}
        await self.redis.hset(self.event, mapping=fields)
        if sold:
            await self.redis.hset(self.users, mapping=sold)

    async def answer(self, command: Command) -> Any:
        """A script's answer, bytes as text."""
        return _text(await self.redis.execute_command(*command))

    async def refused(self, command: Command) -> Any:
        """A script's answer, which must have changed no key."""
        before = await self.snapshot()
        answer = await self.answer(command)
        assert await self.snapshot() == before
        return answer

    async def reserve(
        self, *users: str, requests: dict[str, str] | None = None, bound: int = PLENTY
    ) -> list[Any]:
        """What each user is answered, without the time; a word if it is for all of them."""
        answer = await self.answer(self.ask(*users, requests=requests, bound=bound))
        return answer[1:] if isinstance(answer, list) else answer

    def ask(
        self, *users: str, requests: dict[str, str] | None = None, bound: int = PLENTY
    ) -> Command:
        """The command that asks for seats of the event, for some users by a request under a key."""
        sent = [(requests or {}).get(user, "") for user in users]
        return self.scripts.reserve(EVENT, users, sent, bound=bound)

    async def held(self) -> dict[str, str]:
        """User → number."""
        return _text(await self.redis.hgetall(self.users))

    async def recorded(self, request: str) -> str | None:
        """The number of the booking that a request has made."""
        return _text(await self.redis.get(keys.record(self.partition, request)))

    async def left(self) -> int:
        """The event's ``left``."""
        return int(await self.redis.hget(self.event, "left"))

    async def entries(self) -> list[tuple[str, dict[str, str]]]:
        """The outbox, without the entry that opens it."""
        return _text((await self.redis.xrange(self.outbox))[1:])

    async def items(self) -> list[Item]:
        """The outbox as the drain reads it."""
        found = await self.redis.xrange(self.outbox)
        return [item for entry, fields in found for item in items(entry, fields)]

    async def snapshot(self) -> dict[bytes, tuple[bytes, int]]:
        """Every key of the partition, whole, and when it expires."""
        found = self.redis.scan_iter(f"onsale:{{{self.partition}}}:*", count=1000)
        return {
            key: (await self.redis.dump(key), await self.redis.execute_command("PEXPIRETIME", key))
            async for key in found
        }


def _text(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list | tuple):
        return type(reply)(_text(part) for part in reply)
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    return reply
