"""Idempotency-Key: one key, one request, one booking; for a day.

A key is two facts in Redis. Its *claim* says which request it stands for: it is made before the
request is decided, lies in a partition of the key's own, and refuses every other request. The
*record* of the request says which booking it made: the script that gives the seat writes it, in the
partition of the event, so there is none without the other. A process that dies between the two has
decided nothing, and the same request goes on where it was.

Both outlive what becomes of the booking, so that a request that comes late, after a cancel, books
nothing. What was refused has no record: nothing was done, and it is judged anew.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

DAY_S: Final = 86_400
"""How long a claim lives; a record as long (``lua/reserve.lua``)."""


def fingerprint_of(key: bytes, caller: str) -> str:
    """What a key is known by. Each caller has keys of his own; whoever has no name, shares his."""
    return _digest(caller.encode() + b"\0" + key)


def request_of(fingerprint: str, event_id: int, user_id: str) -> str:
    """What is asked for under a key: its meaning, not how it was written."""
    return _digest(f"{fingerprint} {event_id} {user_id}".encode())


def partition_of(fingerprint: str, partitions: int) -> int:
    """The partition in which a key has its claim."""
    return int(fingerprint, 16) % partitions


def _digest(meaning: bytes) -> str:
    return blake2b(meaning, digest_size=16).hexdigest()
