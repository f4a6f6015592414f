"""``onsale up``: the whole engine on one machine, started in order and kept running.

One thread and no event loop. A signal becomes a ``KeyboardInterrupt`` wherever the start-up or
the watch happens to be, and whatever was started is stopped in order. Should this process be
killed, its children die with it: see ``engine.embedded``.

The API's socket is bound here and inherited. A port that is taken is therefore told before
anything starts, and a new API process finds the connections that the dead one left waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from engine.embedded import (
    LOOPBACK,
    Child,
    PostgresServer,
    RedisServer,
    find_psql,
    take_lock,
    write_private,
)
from engine.errors import Misconfigured, OnsaleError, Unavailable
from engine.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from engine.settings import Settings

STATE_FILE = "up.json"
BACKLOG = 4096
READY_BOUND_S = 60.0
READY_POLL_S = 0.05
DRAIN_BOUND_S = 20.0  # uvicorn gives the requests under way 15 s
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Program(Child):
    """One of our own packages, run as ``python -P -m``.

    ``-P``: were the working directory looked through first, its ``api`` would be taken for ours.
    """

    # Nothing that was promised lives in them, and a graceful end needs the servers, which are
    # ending at the same time.
    death_signal = signal.SIGKILL

    def __init__(
        self, name: str, module: str, environment: Mapping[str, str], *descriptors: int
    ) -> None:
        super().__init__(name)
        self._argv = [sys.executable, "-P", "-m", module]
        self._environment = environment
        self._descriptors = descriptors

    def launch(self) -> None:
        """Start the program. What it prints goes to our stderr: stdout is for our own answer."""
        environment = {**os.environ, **self._environment}
        self._process = self._spawn(
            self._argv, pass_fds=self._descriptors, env=environment, stdout=sys.stderr
        )


class Watch:
    """Starts children again when they die, each after a pause that grows while it keeps dying."""

    def __init__(self, children: list[Child], console: Console) -> None:
        self._console = console
        self._started = dict.fromkeys(children, time.monotonic())
        self._pause = dict.fromkeys(children, FIRST_PAUSE_S)
        self._due: dict[Child, float] = {}

    def next_due_s(self) -> float | None:
        """Seconds until a child is to be started again; None while all of them run."""
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else None

    def tend_once(self) -> bool:
        """Note who died, start again who is due; return whether anyone was started."""
        now = time.monotonic()
        for child in self._started:
            if child not in self._due and child.exit_code is not None:
                self._note_death(child, now)
        due = [child for child, when in self._due.items() if when <= now]
        restarted = [self._restart(child) for child in due]
        return any(restarted)

    def _note_death(self, child: Child, now: float) -> None:
        steady = now - self._started[child] > STEADY_S
        pause = FIRST_PAUSE_S if steady else self._pause[child]
        self._pause[child] = min(2 * pause, LONGEST_PAUSE_S)
        self._due[child] = now + pause
        say(self._console, f"{child.name} (pid {child.pid}) {_ending(child)}; again in {pause} s")

    def _restart(self, child: Child) -> bool:
        del self._due[child]
        self._started[child] = time.monotonic()
        try:
            child.launch()
        except (OnsaleError, OSError) as error:
            self._due[child] = time.monotonic() + LONGEST_PAUSE_S
            say(self._console, f"{child.name} cannot start: {error}")
            return False
        return True


class Up:
    """The processes of one ``onsale up`` and where they answer."""

    def __init__(self, settings: Settings, data: Path, console: Console, *, workers: int) -> None:
        settings.check_exposure(settings.host)
        self._settings = settings
        self._data = data
        self._console = console
        self._listener = listen(settings.host, settings.port)
        self.redis = None if settings.names_redis else RedisServer(data / "redis")
        self.postgres = None if settings.names_postgres else PostgresServer(data / "postgres")
        self.api: Child | None = None
        self.workers: list[Child] = []
        self._worker_count = workers

    @property
    def api_url(self) -> str:
        """Where the API answers from this machine."""
        host, port = self._listener.getsockname()[:2]
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def redis_url(self) -> str:
        """The Redis in use, ours or the one that was named."""
        return self.redis.url if self.redis else self._settings.redis_dsn

    @property
    def database_url(self) -> str:
        """The Postgres in use, ours or the one that was named."""
        return self.postgres.url if self.postgres else self._settings.postgres_dsn

    def start(self) -> None:
        """Start everything in order; return when the API says that it is ready.

        Raises:
            OnsaleError: a part did not start; the message says which and why.
        """
        for server in filter(None, (self.redis, self.postgres)):
            with self._step(server.name):
                server.start()
        with self._step("schema"):
            asyncio.run(migrate(self.database_url, self._settings.partitions))
        with self._step("API and workers"):
            self._launch_programs()
            self._await_ready()

    def watch(self) -> None:
        """Keep everything running until a signal comes."""
        watch = Watch(self.children(), self._console)
        with woken_by_children() as woken:
            while True:
                if watch.tend_once():
                    self.write_state()
                if select.select([woken], [], [], watch.next_due_s())[0]:
                    woken.recv(4096)

    def stop(self) -> None:
        """Stop the API, then the workers, then the servers."""
        (self._data / STATE_FILE).unlink(missing_ok=True)
        self._listener.close()
        programs: list[list[Child]] = [[self.api] if self.api else [], self.workers]
        for together in programs:
            for child in together:
                child.terminate()
            for child in together:
                child.join(DRAIN_BOUND_S)
        for server in filter(None, (self.postgres, self.redis)):
            server.stop()

    def children(self) -> list[Child]:
        """Every process that we started."""
        return [*filter(None, (self.redis, self.postgres, self.api)), *self.workers]

    def state(self) -> dict[str, Any]:
        """Addresses and process ids, as ``--json`` prints them."""
        return {
            "api": self.api_url,
            "redis_url": self.redis_url,
            "database_url": self.database_url,
            "pids": {
                "api": self.api.pid if self.api else None,
                "worker": [worker.pid for worker in self.workers],
                "redis": self.redis.pid if self.redis else None,
                "postgres": self.postgres.pid if self.postgres else None,
            },
        }

    def write_state(self) -> None:
        """Leave the addresses and process ids in the data folder, for ``onsale psql`` and kin."""
        write_private(self._data / STATE_FILE, json.dumps(self.state()) + "\n")

    def _launch_programs(self) -> None:
        environment = {
            "DATABASE_URL": self.postgres.local_url if self.postgres else self.database_url,
            "REDIS_URL": self.redis.local_url if self.redis else self.redis_url,
            "HOST": self._settings.host,
            "PORT": str(self._listener.getsockname()[1]),
            "PROMETHEUS_MULTIPROC_DIR": str(self._fresh_metrics()),
            "METRICS_PORT": "0",  # the API answers for all
        }
        listen_fd = self._listener.fileno()
        serving = {"API_WORKERS": str(self._settings.api_workers), "LISTEN_FD": str(listen_fd)}
        self.api = Program("API", "api", environment | serving, listen_fd)
        self.workers = [
            Program(f"worker {number}", "worker", environment)
            for number in range(1, self._worker_count + 1)
        ]
        for program in (self.api, *self.workers):
            program.launch()

    def _fresh_metrics(self) -> Path:
        """A folder in which API processes and workers count together."""
        folder = self._data / "metrics"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_BOUND_S
        while (answer := ask(self.api_url, "/ready")) != "ready":
            for child in self.children():
                if child.exit_code is not None:
                    raise Unavailable(f"{child.name} {_ending(child)} while starting")
            if time.monotonic() > deadline:
                raise Unavailable(f"not ready after {READY_BOUND_S:.0f} s: {answer}")
            time.sleep(READY_POLL_S)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        with self._console.status(f"starting {name} …"):
            yield
        say(self._console, f"{name}: {time.monotonic() - begun:.1f} s")


def run(settings: Settings, data: Path, *, workers: int, as_json: bool) -> None:
    """Run the whole engine until SIGINT, SIGTERM or SIGHUP comes; then return.

    Prints to stdout, once all of it answers, either where to look or one line of JSON.

    Raises:
        OnsaleError: a part did not start; everything that did was stopped.
    """
    console = Console(stderr=True)
    data = data.absolute()
    with contextlib.suppress(KeyboardInterrupt), locked(data):
        interrupt_on_signals()
        up = Up(settings, data, console, workers=workers)
        with ExitStack() as at_end:
            at_end.callback(up.stop)
            up.start()
            up.write_state()
            if as_json:
                sys.stdout.write(json.dumps(up.state()) + "\n")
            else:
                show(up, data)
            sys.stdout.flush()
            up.watch()


def show(up: Up, data: Path) -> None:
    """Print where everything is and the commands to try, whole, so that they can be pasted."""
    own, named = f"data in {data}", "was running already"
    table = Table("", "address", "", box=None, pad_edge=False, show_header=False)
    table.add_row("API", up.api_url, f"try {up.api_url}/docs in a browser")
    table.add_row("Postgres", up.database_url.rpartition("@")[2], own if up.postgres else named)
    table.add_row("Redis", up.redis_url.rpartition("@")[2], own if up.redis else named)
    psql = shlex.join(psql_command(up.database_url))
    redis_cli = shlex.join(redis_command(up.redis_url, data))
    event = "INSERT INTO events (name, total_seats) VALUES ('Opening night', 100) RETURNING id"
    reserve = f"curl -i {shlex.quote(up.api_url + '/api/bookings/reserve')}"
    booking = """-H 'content-type: application/json' -d '{"event_id": 1, "user_id": "ann"}'"""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    for title, command in (
        ("look into the ledger", psql),
        ("look into Redis", f"{redis_cli} INFO keyspace"),
        ("open an event", f'{psql} -c "{event}"'),
        ("reserve a seat of it", f"{reserve} {booking}"),
    ):
        console.print(f"\n# {title}\n{command}")
    console.print("\nCtrl-C stops everything.")


def psql_command(database_url: str) -> list[str]:
    """The command that opens the ledger."""
    return [find_psql() or "psql", database_url]


def redis_command(redis_url: str, data: Path) -> list[str]:
    """The command that talks to Redis: its own client, or else ours."""
    for client in ("redis-cli", "valkey-cli"):
        if shutil.which(client) and not redis_url.startswith("unix:"):  # which they do not know
            return [client, "--no-auth-warning", "-u", redis_url]
    script = Path(sys.executable).with_name("onsale")
    onsale = [str(script)] if script.exists() else [sys.executable, "-m", "engine.cli"]
    return [*onsale, "redis", "--data", str(data)]


def listen(host: str, port: int) -> socket.socket:
    """Open the API's socket.

    Raises:
        Misconfigured: the address is taken, or not of this machine, or not for us to take.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # Python adds the address
        choose = "choose another with --port (or PORT), --host (or HOST)"
        raise Misconfigured(f"cannot listen on port {port} of {host}: {reason}; {choose}") from None


def ask(url: str, path: str) -> str:
    """``ready`` if GET answers 200; else what it said, in one line."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({error!r})"
    finally:
        connection.close()
    return "ready" if answer.status == http.client.OK else f"{answer.status} {body}"


def interrupt_on_signals() -> None:
    """Turn the first signal into a KeyboardInterrupt, and let no other one disturb the stop."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in SIGNALS:
        if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:  # nohup
            signal.signal(each, interrupt)


@contextmanager
def woken_by_children() -> Iterator[socket.socket]:
    """A socket that has something to read whenever a child has ended."""
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.settimeout(0)
        writing.settimeout(0)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(before)


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the data folder: one ``onsale up`` at a time.

    Raises:
        Misconfigured: another one runs on it, or the folder cannot be made.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = take_lock(data / "lock", within_s=0)
    except OSError as error:
        raise Misconfigured(f"cannot keep data in {data}: {error.strerror}") from None
    except Misconfigured:
        raise Misconfigured(
            f"another onsale up runs on {data}: stop it, or choose another folder with --data"
        ) from None
    try:
        yield
    finally:
        os.close(lock)


def say(console: Console, text: str) -> None:
    """Print a line of progress."""
    console.print(f"onsale: {text}", soft_wrap=True, highlight=False, markup=False)


def _ending(child: Child) -> str:
    code = child.exit_code or 0
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
