"""Service keys: who may call when ``AUTH=token``.

The ledger keeps the SHA-256 of each key. An API process has all of them in memory: there are few.
It reads them again whenever the ledger says that one was made or revoked, and whenever it hears the
ledger again after a silence. So a call asks nobody, a key goes on working while Postgres is away,
and a stranger who tries keys costs a hash.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.errors import LedgerAway
from engine.ledger import Ledger
from engine.log import get_logger
from engine.permissions import Permission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from engine.ledger import KeyRow
    from engine.settings import Settings

SECRET_BYTES: Final = 32
PREFIX: Final = "onsale_"
"""So that a scanner for secrets knows one."""
RETRY_S: Final = 0.5

log = get_logger(__name__)


class ServiceKey(NamedTuple):
    """Whose key it is, and what it is for."""

    name: str
    permissions: frozenset[Permission]


class ServiceKeys:
    """The keys as this process knows them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._keys: dict[bytes, ServiceKey] | None = None
        self._news = asyncio.Event()
        self._news.set()

    def changed(self) -> None:
        """The keys may be others than those that were read."""
        self._news.set()

    async def follow(self) -> None:
        """Read the keys, and again after each change, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.read()
            except LedgerAway as error:
                log.warning("keys_not_read", reason=str(error))
                self._news.set()
                await asyncio.sleep(RETRY_S)

    async def read(self) -> None:
        """Read all keys.

        Raises:
            LedgerAway: what was read before still counts.
        """
        rows = await self._ledger.keys()
        self._keys = {row.digest: _key(row) for row in rows}

    def find(self, secret: bytes) -> ServiceKey | None:
        """Whose key this is; None if it is nobody's.

        Raises:
            LedgerAway: no key was ever read.
        """
        if self._keys is None:
            raise LedgerAway("the service keys were not read yet")
        return self._keys.get(sha256(secret).digest())


def new_secret() -> str:
    """A key that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest_of(secret: str) -> bytes:
    """What the ledger keeps of a key."""
    return sha256(secret.encode()).digest()


def _key(row: KeyRow) -> ServiceKey:
    """A later version, whose migration went first, may know scopes that this one does not."""
    return ServiceKey(row.name, frozenset(each for each in Permission if each in row.scopes))


async def create(settings: Settings, name: str, permissions: Collection[Permission]) -> str | None:
    """Make a key; the key itself, which is nowhere afterwards. None if the name is taken.

    Raises:
        LedgerAway: it may have been made, but nobody knows it: revoke it.
    """
    secret = new_secret()
    async with _ledger(settings) as ledger:
        made = await ledger.insert_key(name, digest_of(secret), sorted(permissions))
    return secret if made else None


async def revoke(settings: Settings, name: str) -> bool:
    """Revoke a key; False if there is none of that name."""
    async with _ledger(settings) as ledger:
        return await ledger.delete_key(name)


async def every(settings: Settings) -> list[KeyRow]:
    """All keys, by name."""
    async with _ledger(settings) as ledger:
        return await ledger.keys()


@asynccontextmanager
async def _ledger(settings: Settings) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings.postgres_dsn, connections=1)
    try:
        yield ledger
    finally:
        await ledger.close()
