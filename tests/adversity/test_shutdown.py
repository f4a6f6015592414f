"""SIGTERM: nobody is cut off, nothing is lost, and it does not take long."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, contextmanager
from typing import IO, TYPE_CHECKING

import pytest

from tests import world
from tests.adversity.customers import Customer, balance, rush

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.world import Sale

WAITERS = 50
PROMPTLY_S = 5.0


@contextmanager
def worker(sale: Sale, log: IO[bytes] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """One more worker, which we can ask to end, and where its log goes if not to ours."""
    named = world.environment(
        DATABASE_URL=sale.database_url,
        REDIS_URL=sale.redis_url,
        PARTITIONS=str(sale.partitions),
    )
    argv = [sys.executable, "-m", "worker"]
    with subprocess.Popen(argv, env=named, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


async def ends(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM; the exit code, which comes promptly."""
    process.terminate()
    return await asyncio.to_thread(process.wait, PROMPTLY_S)


async def holds_every_shift(sale: Sale, process: subprocess.Popen[bytes]) -> bool:
    """Whether this worker has the turn to drain each partition."""
    rows = await sale.sql("SELECT DISTINCT holder FROM partitions")
    return [row["holder"] for row in rows] == [f"{socket.gethostname()}:{process.pid}"]


async def test_an_api_that_ends_gives_every_waiter_his_answer(sale: Sale) -> None:
    """Who waits for the ledger gets his 202 at once, and the next API sells on."""
    event_id = await sale.open_event(1000)
    users = f"onsale:{{{event_id % sale.partitions}}}:event:{event_id}:users"
    (api,) = sale.pids("api")
    async with AsyncExitStack() as hanging_up:
        callers = [await hanging_up.enter_async_context(sale.caller()) for _ in range(WAITERS)]
        await Customer(callers[0], event_id, "first").reserve()
        with sale.stopped("worker"):
            waiting = [
                asyncio.create_task(caller.reserve(event_id, f"user-{n}", prefer="wait=10"))
                for n, caller in enumerate(callers)
            ]

            async def all_hold_a_seat() -> bool:
                async with sale.redis() as redis:
                    return await redis.hlen(users) == WAITERS + 1

            await world.until(all_hold_a_seat)
            os.kill(api, signal.SIGTERM)
            async with asyncio.timeout(PROMPTLY_S):
                answers = await asyncio.gather(*waiting)
    assert {(answer.status, answer.body["status"]) for answer in answers} == {(202, "pending")}

    async def another_runs() -> bool:
        return sale.pids("api") != [api]

    await world.until(another_runs)
    async with sale.caller() as caller:
        await Customer(caller, event_id, "next").reserve()
        await sale.count_seats()
        for answer in answers:
            assert (await caller.read(answer.body["id"])).body["status"] == "confirmed"


async def test_a_worker_that_ends_in_the_middle_of_a_drain_loses_nothing(sale: Sale) -> None:
    """It ends its transaction and exits with 0; another one drains on."""
    event_id = await sale.open_event(1_000_000)
    with worker(sale) as process:
        with sale.stopped("worker"):
            await world.until(lambda: holds_every_shift(sale, process))
            async with rush(sale, event_id) as crowd:
                await crowd.sell(500)
                assert await ends(process) == 0
        await balance(sale, crowd.customers)


@pytest.mark.parametrize("name", ["redis", "postgres"])
@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_worker_ends_promptly_while_a_server_is_away(
    sale: Sale, name: str, how: str
) -> None:
    """With 0, also when it can reach nobody any more."""
    event_id = await sale.open_event(10)
    with worker(sale) as process:
        with sale.stopped("worker"):
            await world.until(lambda: holds_every_shift(sale, process))
        async with sale.caller() as caller:
            await Customer(caller, event_id, "ann").reserve()
        away = sale.stopped(name) if how == "stopped" else sale.killed(name)
        with away:
            assert await ends(process) == 0
    await world.until(lambda: sale.answers(name))
    await sale.count_seats()


async def test_a_worker_ends_promptly_while_it_starts_again(sale: Sale, tmp_path: Path) -> None:
    """Redis was away long enough to end what runs in the worker; SIGTERM comes before the next."""
    log = tmp_path / "log"

    async def has_said(what: str, times: int) -> bool:
        return log.read_text().count(what) >= times

    with log.open("wb") as to_log, worker(sale, to_log) as process:
        with sale.stopped("worker"):
            await world.until(lambda: holds_every_shift(sale, process))
        with sale.killed("redis"):
            await world.until(lambda: has_said("drain_waits", 10 * sale.partitions))
        await world.until(lambda: has_said("worker_restarts", 1))
        assert await ends(process) == 0
