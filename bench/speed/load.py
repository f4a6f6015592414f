"""The load: what is asked of a server, by wrk or, where it is absent, by a client of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

BUCKET_S: Final = 0.02
"""What the counts over time are counts of."""
GRACE_S: Final = 60.0
SCRIPT: Final = Path(__file__).with_name("wrk.lua")

Kind = Literal["reserve", "mixed", "look"]


class Load(NamedTuple):
    """What is asked: see ``wrk.lua``."""

    kind: Kind
    first_event: int
    last_event: int
    tag: str
    users: int = 0
    prefer: str = ""

    @property
    def words(self) -> list[str]:
        """The same as words on a command line."""
        range_ = [str(self.first_event), str(self.last_event)]
        return [self.kind, *range_, str(self.users), self.prefer, self.tag]


class Outcome(msgspec.Struct, frozen=True):
    """What came of a load.

    ``latency_ms`` has points (percent, ms); ``series`` the answers with each status, in buckets of
    ``BUCKET_S`` from the first request on. ``failed`` connections broke; ``late`` answers took
    longer than the client's patience.
    """

    seconds: float
    failed: int
    late: int
    latency_ms: list[tuple[float, float]]
    series: dict[int, list[int]]
    client_cpu_s: float = 0.0

    @property
    def answers(self) -> dict[int, int]:
        """How many answers had each status."""
        return {status: sum(counts) for status, counts in sorted(self.series.items())}

    def count(self, *statuses: int) -> int:
        """How many answers had one of these statuses; of any, if none is named."""
        answers = self.answers
        return sum(answers.get(status, 0) for status in statuses or answers)

    def percentile_ms(self, percent: float) -> float:
        """The latency at one of the points that were taken."""
        return dict(self.latency_ms)[percent]


@cache
def client() -> str:
    """``wrk`` if it is on PATH, else ``asyncio``."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def drive(url: str, load: Load, *, connections: int, seconds: int) -> Outcome:
    """Ask for so many seconds over so many connections, each of which waits for its answers.

    Raises:
        RuntimeError: the client failed; with what it printed.
    """
    if client() == "wrk":
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={GRACE_S:.0f}s"]
        argv += ["-s", str(SCRIPT), url, "--", *load.words]
    else:
        argv = [sys.executable, "-m", "bench.speed.client", str(connections), str(seconds), url]
        argv += load.words
    before = _children_cpu_s()
    done = subprocess.run(  # noqa: S603 - our own arguments, no shell
        argv, capture_output=True, text=True, check=False, timeout=seconds + GRACE_S
    )
    if done.returncode or not done.stdout.strip():
        raise RuntimeError(f"{argv[0]} failed:\n{done.stdout}{done.stderr}")
    outcome = msgspec.json.decode(done.stdout.splitlines()[-1], type=Outcome, strict=False)
    return msgspec.structs.replace(outcome, client_cpu_s=_children_cpu_s() - before)


def _children_cpu_s() -> float:
    """CPU seconds of the children that ended: between two calls, of the client alone."""
    times = os.times()
    return times.children_user + times.children_system
