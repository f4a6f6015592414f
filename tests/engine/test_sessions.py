"""Sessions: a few, each lent to one at a time, and none that is not as it was."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from engine import sessions as sessions_module
from engine.sessions import Sessions
from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.engine.house import House

MOST = 2


@asynccontextmanager
async def _sessions(house: House, wait_s: float = 5.0) -> AsyncIterator[Sessions]:
    dsn = house.settings.postgres_dsn
    sessions = Sessions(lambda: asyncpg.connect(dsn), most=MOST, wait_s=wait_s)
    yield sessions
    sessions.close()


async def _pid(sessions: Sessions) -> int:
    async with sessions.one() as session:
        pid: int = session.get_server_pid()
        return pid


async def test_kept_for_the_next(house: House) -> None:
    """One after the other have the same one; two at once do not."""
    async with _sessions(house) as sessions:
        first = await _pid(sessions)
        assert await _pid(sessions) == first
        async with sessions.one() as session:
            assert await _pid(sessions) != session.get_server_pid()


async def test_no_more_than_so_many(house: House) -> None:
    """Who finds none waits until one is given back."""
    async with _sessions(house) as sessions, AsyncExitStack() as others:
        pids = {(await others.enter_async_context(sessions.one())).get_server_pid() for _ in "ab"}
        waiting = asyncio.create_task(_pid(sessions))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        await others.aclose()
        assert await waiting in pids


async def test_waits_so_long(house: House) -> None:
    """And his place in the line is nobody's any more."""
    async with _sessions(house, wait_s=0.05) as sessions:
        async with sessions.one(), sessions.one():
            with pytest.raises(TimeoutError):
                await _pid(sessions)
        async with sessions.one(), sessions.one():
            pass


async def test_one_that_could_not_be_made(house: House) -> None:
    """It takes nobody's place."""
    async with _sessions(house) as sessions:
        connect = sessions._connect  # noqa: SLF001 - as if Postgres were away

        async def refuse() -> None:
            raise ConnectionRefusedError

        sessions._connect = refuse  # type: ignore[assignment]  # noqa: SLF001
        for _ in range(MOST + 1):
            with pytest.raises(ConnectionRefusedError):
                await _pid(sessions)
        sessions._connect = connect  # noqa: SLF001
        await _pid(sessions)


async def test_transaction_that_somebody_left_open(house: House) -> None:
    """It ends, with its locks, and nobody has that session again."""
    async with _sessions(house) as sessions:
        async with sessions.one() as session:
            await session.execute("BEGIN; LOCK TABLE gaps")
            pid = session.get_server_pid()
        assert await _pid(sessions) != pid
        await house.sql("SELECT FROM gaps")


async def test_cancelled_in_a_statement(house: House) -> None:
    """The next caller has a session that answers his own question."""
    async with _sessions(house) as sessions:

        async def sleep() -> None:
            async with sessions.one() as session:
                await session.execute("SELECT pg_sleep(60)")

        sleeping = asyncio.create_task(sleep())

        async def asleep() -> bool:
            return bool(
                await house.sql("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            )

        await world.until(asleep)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        async with sessions.one() as one, sessions.one() as other:
            for session in (one, other):
                assert await session.fetchval("SELECT 7") == 7


async def test_cancelled_and_postgres_does_not_hear(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that does not become idle is ended, and not handed from one to the next."""
    monkeypatch.setattr(asyncpg.Connection, "_cancel_current_command", lambda *_: None)
    async with _sessions(house, wait_s=0.2) as sessions:
        pid = await _pid(sessions)
        with pytest.raises(TimeoutError):
            async with sessions.one() as session:
                await session.execute("SELECT pg_sleep(60)", timeout=0.1)
        assert await _pid(sessions) != pid


async def test_one_that_broke_or_came_of_age(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has it again."""
    async with _sessions(house) as sessions:
        async with sessions.one() as session:
            pid = session.get_server_pid()
        await house.sql("SELECT pg_terminate_backend($1)", pid)

        async def broken() -> bool:
            return bool(session.is_closed())

        await world.until(broken)
        second = await _pid(sessions)
        assert second != pid
        monkeypatch.setattr(sessions_module, "IDLE_S", 0.0)
        assert await _pid(sessions) != second


async def test_closed(house: House) -> None:
    """Every session ends, also the one that somebody has, and no other is made."""
    async with _sessions(house) as sessions:
        await _pid(sessions)
        async with sessions.one() as mine, sessions.one() as other:
            sessions.close()
            assert mine.is_closed()
            assert other.is_closed()
        with pytest.raises(asyncpg.InterfaceError):
            await _pid(sessions)
