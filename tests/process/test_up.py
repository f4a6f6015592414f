"""``onsale up``: starts everything, keeps it running, and leaves nothing behind."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.embedded import take_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOUND_S = 60.0
NAMED = ("DATABASE_URL", "DB_HOST", "REDIS_URL", "REDIS_HOST", "LISTEN_FD")
ONSALE = [sys.executable, "-m", "engine.cli"]


class Running:
    """An ``onsale up`` that says it is ready."""

    def __init__(self, process: subprocess.Popen[str], data: Path) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, errors_of(data)
        self.process = process
        self.data = data
        self.state: dict[str, Any] = json.loads(line)

    def pids(self) -> dict[str, int]:
        """The process ids as they are now, by name."""
        pids = json.loads((self.data / "up.json").read_text())["pids"]
        return {**pids, "worker": pids["worker"][0]}

    def is_ready(self) -> bool:
        """Whether the API says that all of it works."""
        connection = http.client.HTTPConnection(self.state["api"].split("/")[2], timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def redis(self, *command: str) -> str:
        """The reply to a command that ``onsale redis`` sent."""
        argv = [*ONSALE, "redis", "--data", str(self.data), *command]
        return subprocess.check_output(argv, text=True, env=environment()).strip()

    def end(self, how: signal.Signals) -> int:
        """Send the signal to ``onsale up``; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(BOUND_S)

    def is_gone(self) -> bool:
        """Whether no process is left: neither of the groups, nor one that holds a data lock."""
        pids = self.state["pids"]
        groups = {pids["api"], *pids["worker"], pids["redis"], pids["postgres"]}
        if groups & living_groups():
            return False
        for server in ("redis", "postgres"):
            os.close(take_lock(self.data / server / "lock", within_s=BOUND_S))
        return True


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One ``onsale up`` that the tests of this file share."""
    with onsale_up(tmp_path_factory.mktemp("up")) as up:
        yield up


def test_a_later_start_finds_the_data_of_the_first(tmp_path: Path) -> None:
    """Also in a folder with blanks; SIGTERM and Ctrl-C stop it with exit code 0."""
    data = tmp_path / "my data"
    with onsale_up(data, "--api-workers", "2", "--workers", "2") as first:
        assert first.is_ready()
        assert first.redis("SET", "kept", "by the append-only file") == "OK"
        assert first.end(signal.SIGTERM) == 0
        eventually(first.is_gone)
    with onsale_up(data) as later:
        assert later.redis("GET", "kept") == "by the append-only file"
        assert later.state["database_url"] == first.state["database_url"]
        assert later.end(signal.SIGINT) == 0
        eventually(later.is_gone)
    assert not (data / "up.json").exists()


def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    """Nor do the API's own processes; and the next start is not hindered."""
    with onsale_up(tmp_path, "--api-workers", "2") as up:
        assert up.end(signal.SIGKILL) == -signal.SIGKILL
        eventually(up.is_gone)
    with onsale_up(tmp_path) as next_up:
        assert next_up.is_ready()


@pytest.mark.parametrize("name", ["api", "worker", "redis", "postgres"])
def test_a_child_that_dies_is_started_again(running: Running, name: str) -> None:
    """At the same address: the others need not be told."""
    before = running.pids()
    os.kill(before[name], signal.SIGKILL)
    eventually(lambda: running.pids()[name] != before[name])
    eventually(running.is_ready)
    assert running.pids() == {**before, name: running.pids()[name]}
    assert "died of SIGKILL" in errors_of(running.data)


def test_a_second_up_on_the_same_data_is_refused(running: Running) -> None:
    """In one line that says what to do; the first goes on."""
    code, errors = refused(running.data)
    assert code == 2
    assert len(errors) == 1
    assert f"another onsale up runs on {running.data}" in errors[0]
    assert "--data" in errors[0]
    assert running.is_ready()


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    """In one line that says how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, errors = refused(tmp_path, "--port", port)
    assert code == 2
    assert len(errors) == 1
    assert f"port {port}" in errors[0]
    assert "--port" in errors[0]
    assert not (tmp_path / "redis").exists()


@contextmanager
def onsale_up(data: Path, *options: str) -> Iterator[Running]:
    """An ``onsale up`` on a free port, ready; killed at the end if it still runs."""
    data.mkdir(exist_ok=True)
    argv = [*ONSALE, "up", "--json", "--port", "0", "--data", str(data), *options]
    with (
        error_file(data).open("a") as errors,
        subprocess.Popen(
            argv, cwd=data, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            yield Running(process, data)
        finally:
            process.terminate()


def refused(data: Path, *options: str) -> tuple[int, list[str]]:
    """The exit code and the error lines of an ``onsale up`` that does not start."""
    done = subprocess.run(
        [*ONSALE, "up", "--data", str(data), *options],
        cwd=data,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def environment() -> dict[str, str]:
    """Ours, naming no servers."""
    return {name: value for name, value in os.environ.items() if name not in NAMED}


def error_file(data: Path) -> Path:
    """Where the errors of an ``onsale up`` go."""
    return data / "errors"


def errors_of(data: Path) -> str:
    """What an ``onsale up`` has said on stderr."""
    return error_file(data).read_text()


def living_groups() -> set[int]:
    """The process groups with a member that runs: a zombie has ended, its parent knows it not."""
    groups = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            groups.add(int(group))
    return groups


def eventually(fact: Callable[[], bool]) -> None:
    """Wait until it is so; fail when it is not in time."""
    deadline = time.monotonic() + BOUND_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)
