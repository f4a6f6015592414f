"""The tree of errors.

    OnsaleError
    ├── Fault                    something is broken; the caller may try again
    │   ├── Unavailable          a store is away, or its answer was lost
    │   │   ├── RedisAway
    │   │   └── LedgerAway
    │   │       └── LedgerBroken a person must look: disk full, read-only, a missing table
    │   └── Overloaded           a queue or an outbox is at its bound
    ├── Misconfigured            start-up refuses, with the reason
    ├── Fenced                   a script met another epoch: recover
    ├── Dirty                    an event's seats do not add up in Redis: close, then hydrate
    ├── Gap                      numbers are missing from an outbox: recover
    ├── LedgerRefuses            the data of a batch cannot be written
    ├── Superseded               a later shift or epoch began: stop
    └── Halted                   the drain stopped and a person must look

Refusals (``sold_out`` and its kin) are answers, not errors: see ``model.Word``.
"""

from __future__ import annotations

from typing import Final

from redis.exceptions import RedisError

REDIS_ERRORS: Final = (RedisError, OSError, RuntimeError)
"""What redis-py raises where Redis is away; the last is uvloop's, of a connection just closed."""


class OnsaleError(Exception):
    """Whatever onsale raises."""


class Fault(OnsaleError):
    """Something is broken; nothing was decided, or the answer was lost. To try again is safe."""


class Unavailable(Fault):
    """A store is away."""


class RedisAway(Unavailable):
    """Redis does not answer."""


class LedgerAway(Unavailable):
    """Postgres does not answer."""


class LedgerBroken(LedgerAway):
    """Postgres answers, but cannot work."""


class Overloaded(Fault):
    """A queue or an outbox is at its bound."""


class Misconfigured(OnsaleError):
    """A server or a setting is not what the engine's promises need."""


class Fenced(OnsaleError):
    """The partition's Redis state is of another epoch."""

    def __init__(self, partition: int, epoch: int) -> None:
        super().__init__(f"partition {partition} is not at epoch {epoch} in Redis")
        self.partition = partition
        self.epoch = epoch


class Dirty(OnsaleError):
    """An event's seats do not add up in Redis."""


class Gap(OnsaleError):
    """Numbers are missing from an outbox."""

    def __init__(self, partition: int, *, after: object, found: object) -> None:
        super().__init__(f"partition {partition}: after {after} comes {found}")
        self.partition = partition


class LedgerRefuses(OnsaleError):
    """The data cannot be written (SQLSTATE classes 22 and 23); nothing was."""


class Superseded(OnsaleError):
    """A later shift or a later epoch of the partition began: stop."""


class Halted(OnsaleError):
    """The drain of a partition stopped itself: a person must look."""
