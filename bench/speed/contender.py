"""Who is measured: the programs of each contender, and how it is started and stopped."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.embedded import LOOPBACK
from engine.up import BACKLOG, Program, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.speed.servers import Servers

READY_BOUND_S: Final = 60.0
STOP_BOUND_S: Final = 20.0


class Contender(NamedTuple):
    """Programs that sell seats; ``store`` says where what they sold can be counted.

    ``most_seats`` bounds the seats of all events together, for who must make each beforehand.
    """

    name: str
    api: str
    worker: str = ""
    store: str = "nowhere"
    most_seats: int = 10_000_000
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether this is onsale."""
        return self.store == "onsale"

    @property
    def keeps_in_redis(self) -> bool:
        """Whether a booking stays in Redis."""
        return self.store in ("onsale", "redis")


ONSALE: Final = Contender("onsale", "api", "worker", "onsale")
LIMITED: Final = ONSALE._replace(
    name="onsale_limited", settings=(("RATE_LIMIT_MAX", "1000000000"),)
)
UNMETERED: Final = ONSALE._replace(name="onsale_unmetered", api="bench.contenders.onsale_unmetered")
BARE: Final = Contender("bare", "bench.contenders.bare")
BARE_ASGI: Final = Contender("bare_asgi", "bench.contenders.bare_asgi")
EVALSHA: Final = Contender("redis_evalsha", "bench.contenders.redis_evalsha", store="redis")
ARQ_JOB: Final = Contender(
    "arq_job", "bench.contenders.arq_job", "bench.contenders.arq_worker", "postgres"
)
FOR_UPDATE: Final = Contender(
    "postgres_for_update", "bench.contenders.postgres_for_update", store="postgres"
)
STATEMENT: Final = Contender(
    "postgres_statement", "bench.contenders.postgres_statement", store="postgres"
)
SEAT_ROWS: Final = Contender(
    "postgres_seats", "bench.contenders.postgres_seats", store="postgres", most_seats=60_000
)
BATCHED: Final = Contender(
    "postgres_batched", "bench.contenders.postgres_batched", store="postgres"
)
BATCHED_FULL: Final = Contender(
    "postgres_batched_full", "bench.contenders.postgres_batched_full", store="postgres"
)
BATCHED_EXPRESS: Final = Contender(
    "postgres_batched_express", "bench.contenders.postgres_batched_express", store="postgres"
)
BATCHED_PLAIN: Final = Contender(
    "postgres_batched_plain", "bench.contenders.postgres_batched_plain", store="postgres"
)
CONTENDERS: Final = (
    ONSALE,
    BARE,
    BARE_ASGI,
    EVALSHA,
    ARQ_JOB,
    FOR_UPDATE,
    STATEMENT,
    SEAT_ROWS,
    BATCHED,
    BATCHED_FULL,
    BATCHED_EXPRESS,
    BATCHED_PLAIN,
)


class Running:
    """A contender's programs, and the servers beside them."""

    def __init__(self, servers: Servers, contender: Contender, at_end: ExitStack) -> None:
        self.contender = contender
        self._servers = servers
        self._at_end = at_end
        self._listener = at_end.enter_context(socket.create_server((LOOPBACK, 0), backlog=BACKLOG))
        self._environment = {
            "HOST": LOOPBACK,
            "DATABASE_URL": servers.database_url(contender),
            "REDIS_URL": servers.redis_url(contender),
            "RATE_LIMIT_MAX": "0",
            "LOG_LEVEL": "error",
            "PROMETHEUS_MULTIPROC_DIR": str(servers.fresh_folder("metrics")),  # as `onsale up` does
            **dict(contender.settings),
        }
        self.pids = {"redis": servers.redis.pid, "postgres": servers.postgres.pid}

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"

    def start_api(self) -> None:
        """Start the API, and return when it is ready.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        handed = str(self._listener.fileno())
        api = self._start("api", self.contender.api, {"LISTEN_FD": handed}, int(handed))
        self._servers.await_fact(
            lambda: ask(self.url, "/ready") == "ready" or api.exit_code is not None,
            within_s=READY_BOUND_S,
            what=f"{self.contender.name} is ready",
        )
        if api.exit_code is not None:
            raise RuntimeError(f"{self.contender.name} ended with {api.exit_code}")

    def start_worker(self) -> None:
        """Start the worker, if it has one."""
        if self.contender.worker:
            self._start("worker", self.contender.worker, {})

    def _start(self, role: str, module: str, more: dict[str, str], *inherited: int) -> Program:
        program = Program(role, module, self._environment | more, *inherited)
        program.launch()
        self._at_end.callback(program.join, STOP_BOUND_S)
        self._at_end.callback(program.terminate)
        self.pids[role] = program.pid
        return program


@contextmanager
def running(servers: Servers, contender: Contender, *, worker: bool = True) -> Iterator[Running]:
    """Start a contender's programs, ready to be asked; stop them at the end."""
    with ExitStack() as at_end:
        started = Running(servers, contender, at_end)
        if worker:
            started.start_worker()
        started.start_api()
        yield started
