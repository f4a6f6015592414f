"""Redis decides, one ``EVALSHA`` a request, sent by redis-py as its manual shows.

The script keeps less than ours: no epoch, no fence, no self-check. It writes the same three things:
the user, the counter and an entry for the ledger, which nobody reads here.
"""

from __future__ import annotations

import os
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bench.contenders.face import Away, Face, Peer, Verdict
from bench.contenders.serve import serve
from engine.model import Word

CONNECTIONS: Final = 1000

BOOK: Final = """
local event, users, outbox = KEYS[1], KEYS[2], KEYS[3]
local event_id, user = ARGV[1], ARGV[2]
local held = redis.call('HGET', users, user)
if held then return { 'already_booked', tonumber(held) } end
local left = redis.call('HGET', event, 'left')
if not left then return { 'event_not_found' } end
if tonumber(left) <= 0 then return { 'sold_out' } end
local id = redis.call('HINCRBY', event, 'sold', 1)
redis.call('HINCRBY', event, 'left', -1)
redis.call('HSET', users, user, id)
redis.call('XADD', outbox, '*', 'event', event_id, 'user', user, 'id', id)
local time = redis.call('TIME')
return { 'reserved', id, time[1] * 1000 + math.floor(time[2] / 1000) }
"""


def event_key(event_id: int) -> str:
    """Hash: ``left`` and ``sold``."""
    return f"evalsha:event:{event_id}"


def users_key(event_id: int) -> str:
    """Hash: user to the number of his booking."""
    return f"evalsha:users:{event_id}"


class EvalSha(Peer):
    """One call of a script a request. Accepted, and not in any ledger: 202."""

    granted = 202

    async def open(self) -> None:
        """Connect, and load the script."""
        self._redis = Redis.from_url(os.environ["REDIS_URL"], max_connections=CONNECTIONS)
        self._sha = await self._redis.script_load(BOOK)

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def reserve(self, event_id: int, user_id: str) -> Verdict:
        """Call the script."""
        keys = (event_key(event_id), users_key(event_id), "evalsha:outbox")
        try:
            word, *booking = await self._redis.evalsha(self._sha, 3, *keys, event_id, user_id)
        except (RedisError, OSError) as error:
            raise Away from error
        return Verdict(Word(word.decode()), *booking)


if __name__ == "__main__":
    serve(Face(EvalSha()))
