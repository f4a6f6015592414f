"""Every Redis key of onsale is spelled here, and nowhere else.

All keys of a partition carry the hash tag ``{p}``, so that each script stays in one slot.
"""

from __future__ import annotations

JOBS = "onsale:jobs"
"""Sorted set: arq's queue."""


def worker(host: str) -> str:
    """String with a time to live: a worker of this host is alive."""
    return f"onsale:worker:{host}"


def log(partition: int) -> str:
    """Hash: ``epoch``, ``seq`` (last number given out), ``acked`` (last one the ledger took)."""
    return f"onsale:{{{partition}}}:log"


def outbox(partition: int) -> str:
    """Stream: what the ledger must learn, one entry a script call."""
    return f"onsale:{{{partition}}}:outbox"


def event(partition: int, event_id: int) -> str:
    """Hash: ``epoch``, ``total``, ``left``, ``name``."""
    return f"onsale:{{{partition}}}:event:{event_id}"


def users(partition: int, event_id: int) -> str:
    """Hash: user → ``epoch-seq`` of the booking."""
    return f"onsale:{{{partition}}}:event:{event_id}:users"


def claim(partition: int, fingerprint: str) -> str:
    """String with a time to live: which request an Idempotency-Key stands for.

    It lies in a partition of the key's own: the request may be about an event of any.
    """
    return f"onsale:{{{partition}}}:claim:{fingerprint}"


def record(partition: int, request: str) -> str:
    """String with a time to live: ``epoch-seq`` of the booking that a request has made."""
    return f"onsale:{{{partition}}}:record:{request}"


def lease(partition: int, event_id: int) -> str:
    """String with a time to live: the token of who is hydrating the event."""
    return f"onsale:{{{partition}}}:event:{event_id}:lease"


def staging(partition: int, event_id: int) -> str:
    """Hash with a time to live: users on their way from the ledger, until they are installed."""
    return f"onsale:{{{partition}}}:event:{event_id}:staging"


def limit(caller: str) -> str:
    """String with a time to live: how far a caller (``key …``, ``user …``, or an address) is."""
    return f"onsale:{{limit}}:{caller}"


def drained(partition: int) -> str:
    """Channel: which numbers the ledger has taken."""
    return f"onsale:{{{partition}}}:drained"
