"""A few sessions with Postgres, each lent to one caller at a time.

asyncpg's own pool puts a proxy around each session and takes it back in a task of its own, which
costs a small drain more than it can spare (``python -m bench.drain``). Nothing of ours outlives its
transaction, so there is nothing to reset between two callers.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from asyncpg import InterfaceError, PostgresError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from asyncpg import Connection

IDLE_S: Final = 300.0
"""A session that nobody used for so long may be gone without a word (a firewall forgot it)."""


class Sessions:
    """At most ``most`` sessions; each is made when it is needed, and kept for the next caller."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], *, most: int, wait_s: float
    ) -> None:
        self._connect = connect
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(most)
        self._idle: list[tuple[Connection, float]] = []
        self._open: set[Connection] = set()
        self._is_closed = False

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """Borrow a session.

        Raises:
            TimeoutError: none was free, or could be made, in ``wait_s``.
            OSError, asyncpg's errors: none could be made.
        """
        session = None if self._places.locked() else self._free()
        if session:
            await self._places.acquire()  # at once: it is not locked
        else:
            session = await self._wait_for_one()
        try:
            yield session
        except PostgresError:
            raise
        except BaseException:
            await self._see_idle(session)
            raise
        finally:
            if self._is_closed or session.is_closed() or session.is_in_transaction():
                self._end(session)
            else:
                self._idle.append((session, time.monotonic()))
            self._places.release()

    def close(self) -> None:
        """End all sessions, also those that somebody has, and make no more."""
        self._is_closed = True
        for session in tuple(self._open):
            self._end(session)

    async def _wait_for_one(self) -> Connection:
        async with asyncio.timeout(self._wait_s):
            await self._places.acquire()
            try:
                session = self._free()
                if session is None:
                    session = await self._connect()
                    self._open.add(session)
            except BaseException:
                self._places.release()
                raise
        return session

    async def _see_idle(self, session: Connection) -> None:
        """See that nothing goes on in a session any more, or end it.

        If the caller was cancelled or waited too long, asyncpg is telling Postgres to stop, and
        whoever has the session next would wait for that, each of them, if Postgres does not hear.
        """
        try:
            await session.execute("SELECT", timeout=self._wait_s)
        except Exception:  # noqa: BLE001 - why it does not answer is nothing to the caller
            self._end(session)
        except asyncio.CancelledError:
            self._end(session)
            raise

    def _free(self) -> Connection | None:
        """The session that was used last, so that those beyond need come of age."""
        if self._is_closed:
            raise InterfaceError("the sessions are closed")
        while self._idle:
            session, since_s = self._idle.pop()
            if not session.is_closed() and time.monotonic() - since_s < IDLE_S:
                return session
            self._end(session)
        return None

    def _end(self, session: Connection) -> None:
        self._open.discard(session)
        session.terminate()
