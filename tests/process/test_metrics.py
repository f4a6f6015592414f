"""What is counted: over HTTP, by the API and by a worker of its own."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from httpx2 import AsyncClient, HTTPError

from tests import world
from tests.engine.house import database

if TYPE_CHECKING:
    from engine.settings import Settings
    from tests.world import Sale


WORKER = [sys.executable, "-m", "worker"]


def value(text: str, name: str) -> float:
    """The sum of a metric's samples; 0 where it has none."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


async def test_all_processes_together(sale: Sale) -> None:
    """Whichever API process answers, it answers for all, workers among them."""
    event_id = await sale.open_event(50)

    async def metrics() -> str:
        async with AsyncClient() as client:
            return (await client.get(f"{sale.api}/metrics")).text

    before = await metrics()
    async with sale.caller() as caller:
        for user in range(30):
            assert (await caller.reserve(event_id, f"u{user}")).status == 201
    after = await metrics()
    for name, least in (
        ('onsale_reservations_total{outcome="reserved"}', 30),
        ("onsale_accept_seconds_count", 1),
        ("onsale_confirm_seconds_count", 1),
        ("onsale_batch_users_sum", 30),
        ("onsale_drained_total", 30),
        ("onsale_drain_items_sum", 30),
    ):
        grown = value(after, re.escape(name)) - value(before, re.escape(name))
        assert grown >= least, name
    assert value(after, "onsale_accept_seconds_sum") > 0
    partitions = set(re.findall(r'^onsale_outbox_depth{partition="(\d+)"}', after, re.MULTILINE))
    assert partitions == set(map(str, range(sale.partitions)))


def _named(settings: Settings, dsn: str, port: int) -> dict[str, str]:
    return world.environment(
        DATABASE_URL=dsn,
        REDIS_URL=settings.redis_dsn,
        PARTITIONS=str(settings.partitions),
        METRICS_PORT=str(port),
        LOG_LEVEL="error",
    )


async def test_a_worker_of_its_own(settings: Settings) -> None:
    """With ``METRICS_PORT`` it serves its own numbers, but on no port that is taken or open."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        named = _named(settings, settings.postgres_dsn, port)
        done = subprocess.run(  # noqa: ASYNC221 - nothing else is to run
            WORKER, env=named, capture_output=True, text=True, check=False
        )
    assert done.returncode == 3
    assert done.stderr.startswith(f"onsale worker: cannot serve metrics on port {port}")

    named = _named(settings, settings.postgres_dsn, port) | {"HOST": "0.0.0.0", "AUTH": "token"}  # noqa: S104  refused
    done = subprocess.run(  # noqa: ASYNC221 - nothing else is to run
        WORKER, env=named, capture_output=True, text=True, check=False, timeout=world.BOUND_S
    )
    assert done.returncode == 3
    assert done.stderr.startswith("onsale worker: METRICS_PORT of a worker is open to everybody")

    async with database(settings.postgres_dsn) as empty:  # it waits, and does no harm
        named = _named(settings, empty, port)
        with subprocess.Popen(WORKER, env=named) as process:  # noqa: ASYNC220 - at once

            async def answers() -> bool:
                try:
                    async with AsyncClient() as client:
                        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
                except HTTPError:
                    return False
                return "# TYPE onsale_ledger_errors_total counter" in answer.text

            try:
                await world.until(answers)
            finally:
                process.terminate()
    assert process.returncode == 0
