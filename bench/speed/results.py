"""``results/*.json``: one file a scenario, with everything that was measured and where."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.speed.load import client
from bench.speed.measurement import Measurement, Results

if TYPE_CHECKING:
    from bench.speed.servers import Servers


class Run(msgspec.Struct, frozen=True):
    """A scenario's measurements."""

    about: dict[str, str]
    measurements: list[Measurement]


def about(servers: Servers, *, seconds: int, rounds: int) -> dict[str, str]:
    """What was measured where, and with what."""
    return {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **servers.versions(),
        "client": client(),
        "seconds": str(seconds),
        "rounds": str(rounds),
    }


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(folder: Path, scenario: str, about: dict[str, str], found: list[Measurement]) -> None:
    """Write a scenario's file, in the place of an earlier one."""
    folder.mkdir(exist_ok=True)
    text = msgspec.json.encode(Run(about, found))
    (folder / f"{scenario}.json").write_bytes(text + b"\n")


def read(folder: Path) -> Results:
    """Everything that was written."""
    runs = [
        msgspec.json.decode(path.read_bytes(), type=Run) for path in sorted(folder.glob("*.json"))
    ]
    return Results([each for run in runs for each in run.measurements])
