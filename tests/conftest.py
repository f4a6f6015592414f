"""Real servers for every test: what cannot be started is an error, never a skip."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from httpx2 import ASGITransport, AsyncClient
from uvicorn import Config, Server

from api import routes
from api.protocol import Protocol
from engine.embedded import PostgresServer, RedisServer
from engine.engine import Engine
from engine.migrate import migrate
from engine.settings import Settings
from tests import world
from tests.api.conformance import Described

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.world import Sale, Stores

PARTITIONS = 4


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One Redis and one migrated Postgres for the whole run; each test has its own events."""
    folder = tmp_path_factory.mktemp("servers")
    with RedisServer(folder / "redis") as redis, PostgresServer(folder / "postgres") as postgres:
        asyncio.run(migrate(postgres.url, PARTITIONS))
        yield Settings(
            _env_file=None,
            redis_url=redis.url,
            database_url=postgres.url,
            partitions=PARTITIONS,
        )


@pytest.fixture(scope="session")
def stores(settings: Settings) -> Stores:
    """The stores, seen from outside."""
    return world.Stores(
        redis_url=settings.redis_dsn,
        database_url=settings.postgres_dsn,
        partitions=settings.partitions,
    )


@pytest.fixture(scope="session")
def worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process that drains what the tests sell."""
    named = world.environment(
        DATABASE_URL=settings.postgres_dsn,
        REDIS_URL=settings.redis_dsn,
        PARTITIONS=str(settings.partitions),
        LOG_LEVEL="error",
    )
    process = subprocess.Popen([sys.executable, "-m", "worker"], env=named)
    yield process
    process.terminate()
    assert process.wait(world.BOUND_S) == 0


@pytest.fixture(scope="session")
async def engine(
    settings: Settings, stores: Stores, worker: subprocess.Popen[bytes]
) -> AsyncIterator[Engine]:
    """An engine in this process, once every partition is open: later a digest stays as it is."""
    engine = await Engine.open(settings)
    await world.until(stores.is_open)
    yield engine
    await engine.close()


@pytest.fixture
async def client(engine: Engine, stores: Stores) -> AsyncIterator[AsyncClient]:
    """A client of the API; after the test the seats are counted."""
    app = Described(routes.build(engine, wait_ms=5000))
    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://onsale") as client:
        yield client
    await stores.count_seats()


@pytest.fixture
def open_event(stores: Stores) -> Callable[..., Awaitable[int]]:
    """Insert an event by hand."""
    return stores.open_event


@pytest.fixture
def stores_digest(stores: Stores, engine: Engine) -> Callable[[], Awaitable[int]]:
    """What both stores hold, as one value."""
    return stores.digest


@pytest.fixture(scope="session")
async def live_api(engine: Engine) -> AsyncIterator[str]:
    """The address of a real server, for what must be sent byte by byte."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = routes.build(engine, wait_ms=5000, body_seconds=1.0)
    config = Config(app, http=Protocol, ws="none", lifespan="off", log_config=None)
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    await serving


@pytest.fixture(scope="module")
def sale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sale]:
    """A whole engine: two API processes, two workers, its own servers."""
    with world.sale(tmp_path_factory.mktemp("sale")) as running:
        yield running
