"""Service keys: kept as hashes, known everywhere within moments, and while Postgres is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from engine import service_keys
from engine.embedded import PostgresServer
from engine.engine import Engine
from engine.errors import LedgerAway, LedgerRefuses
from engine.ledger import KeyRow, Ledger
from engine.migrate import migrate
from engine.permissions import Permission
from engine.service_keys import ServiceKeys, create, every, revoke
from engine.settings import Settings
from engine.tasks import stop
from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

READ = {Permission.READ}


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"box-office-{uuid4().hex}"


@pytest.fixture
async def ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """The ledger that is there."""
    ledger = Ledger(settings.postgres_dsn)
    yield ledger
    await ledger.close()


async def test_a_key_is_found(settings: Settings, ledger: Ledger, name: str) -> None:
    """By itself, with its name and what it is for; another one is nobody's."""
    secret = await create(settings, name, {Permission.RESERVE, Permission.READ})
    assert secret
    keys = ServiceKeys(ledger)
    await keys.read()
    found = keys.find(secret.encode())
    assert found == (name, {Permission.RESERVE, Permission.READ})
    assert keys.find(secret.encode()[:-1]) is None
    assert keys.find(b"") is None
    assert keys.find(b"\xff") is None


async def test_the_key_itself_is_nowhere(settings: Settings, ledger: Ledger, name: str) -> None:
    """The ledger has its hash; nothing that it keeps opens a door."""
    secret = await create(settings, name, READ)
    assert secret
    async with ledger.connection() as connection:
        rows = await connection.fetch("SELECT * FROM service_keys WHERE name = $1", name)
    assert secret.removeprefix(service_keys.PREFIX) not in repr(rows)
    assert rows[0]["digest"] == service_keys.digest_of(secret)
    keys = ServiceKeys(ledger)
    await keys.read()
    assert keys.find(rows[0]["digest"]) is None


async def test_two_keys_are_not_alike(settings: Settings, name: str) -> None:
    """256 bits each."""
    secrets = {await create(settings, f"{name}-{n}", READ) for n in range(3)}
    assert len(secrets) == 3
    assert min(len(secret or "") for secret in secrets) >= len(service_keys.PREFIX) + 43


async def test_a_name_is_one_keys(settings: Settings, name: str) -> None:
    """Until it is revoked; then it is free again, and the old key stays dead."""
    first = await create(settings, name, READ)
    assert await create(settings, name, READ) is None
    assert await revoke(settings, name)
    assert not await revoke(settings, name)
    second = await create(settings, name, READ)
    assert first != second
    assert [row.scopes for row in await every(settings) if row.name == name] == [("read",)]


async def test_scopes_are_those_that_there_are(ledger: Ledger, name: str) -> None:
    """The ledger refuses others, and none."""
    for scopes in ([], ["root"], ["read", "root"]):
        with pytest.raises(LedgerRefuses):
            await ledger.insert_key(name, service_keys.digest_of(name), scopes)


async def test_scope_of_a_later_version(name: str) -> None:
    """Its migration comes before its processes: those that run go on to follow the keys."""
    later = KeyRow(name, service_keys.digest_of("later"), ("read", "refund"), 0)
    keys = ServiceKeys(cast("Ledger", Shelf([later])))
    await keys.read()
    assert keys.find(b"later") == (name, READ)


class Shelf:
    """A ledger that has these keys."""

    def __init__(self, rows: list[KeyRow]) -> None:
        self._rows = rows

    async def keys(self) -> list[KeyRow]:
        """See ``Ledger``."""
        return self._rows


async def test_every_process_hears_of_it(settings: Settings, name: str) -> None:
    """A key works within moments of being made, and no longer when it is revoked."""
    engine = await Engine.open(settings.model_copy(update={"auth": "token"}))
    keys = engine.service_keys
    assert keys
    secret = await create(settings, name, READ) or ""

    async def known() -> bool:
        try:
            return keys.find(secret.encode()) is not None
        except LedgerAway:
            return False

    async def unknown() -> bool:
        return not await known()

    await world.until(known, within_s=5)
    await revoke(settings, name)
    await world.until(unknown, within_s=5)
    await engine.close()


async def test_without_postgres(tmp_path: Path, name: str) -> None:
    """Keys that were read go on working while Postgres is away; what changed is read after."""
    with PostgresServer(tmp_path / "postgres") as postgres:
        await migrate(postgres.url, 1)
        settings = Settings(_env_file=None, database_url=postgres.url)
        secret = (await create(settings, name, READ) or "").encode()
        ledger = Ledger(postgres.url)
        keys = ServiceKeys(ledger)
        following = asyncio.create_task(keys.follow())
        with capture_logs() as logs:
            await world.until(lambda: _is_known(keys, secret))
            postgres.stop()
            keys.changed()
            await world.until(lambda: _said(logs, "keys_not_read"))
            assert await _is_known(keys, secret)
            postgres.start()
            await revoke(settings, name)
            await world.until(lambda: _is_unknown(keys, secret))
        await stop(following)
        await ledger.close()


async def _said(logs: list[object], event: str) -> bool:
    return any(line["event"] == event for line in logs)  # type: ignore[index]


async def _is_known(keys: ServiceKeys, secret: bytes) -> bool:
    try:
        return keys.find(secret) is not None
    except LedgerAway:
        return False


async def _is_unknown(keys: ServiceKeys, secret: bytes) -> bool:
    return keys.find(secret) is None


async def test_before_the_first_reading() -> None:
    """Nobody is told that his key is wrong by a process that has not read any."""
    keys = ServiceKeys(Ledger("postgresql://127.0.0.1:1/x"))
    with pytest.raises(LedgerAway):
        keys.find(b"x")
