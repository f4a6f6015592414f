"""What processes take: CPU seconds and memory, as ``/proc`` has them (Linux)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/PID/stat behind the name, which may hold blanks: proc(5) counts from 1 and has the
# name second.
PARENT, USER, SYSTEM, ENDED_USER, ENDED_SYSTEM = 1, 11, 12, 13, 14


def stat(pid: int) -> list[str]:
    """The fields behind the name; empty if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    parents = {each: int(fields[PARENT]) for each in _pids() if (fields := stat(each))}
    found, seen = [pid], 0
    while seen < len(found):
        found += [child for child, parent in parents.items() if parent == found[seen]]
        seen += 1
    return found


def seconds(pid: int) -> float:
    """CPU seconds of a process and of all below it, also of those that ended and were waited for.

    So backends of Postgres that come and go are counted.
    """
    ticks = 0
    for each in tree(pid):
        if fields := stat(each):
            ticks += sum(int(fields[n]) for n in (USER, SYSTEM, ENDED_USER, ENDED_SYSTEM))
    return ticks * TICK_S


def taken(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds by role."""
    return {role: seconds(pid) for role, pid in pids.items()}


def since(before: Mapping[str, float], pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds by role from an earlier ``taken`` until now."""
    return {role: seconds(pids[role]) - earlier for role, earlier in before.items()}


def resident_bytes(pid: int) -> int:
    """Memory that a process has resident; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
