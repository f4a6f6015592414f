"""``python -m bench.drill.report FILE…``: results of drills as a table for docs/guarantees.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from bench.drill.rounds import Result

KINDS: Final = ("201", "202", "409", "503", "no answer", "lost")
HEAD: Final = ("fault", "rounds", "calls", *KINDS, "healed within", "broken")


def rows(played: list[Result], names: list[str]) -> list[list[str]]:
    """A row for each fault that struck, and one for all: see ``HEAD``."""
    of_each = {name: [each for each in played if name in each.faults] for name in names}
    return [[name, *_row(of_it)] for name, of_it in [*of_each.items(), ("all", played)] if of_it]


def _row(played: list[Result]) -> list[str]:
    sums = [sum(each.counts.get(kind, 0) for each in played) for kind in KINDS]
    calls = sum(sum(each.counts.values()) - each.counts.get("lost", 0) for each in played)
    healing_s = max(each.healing_s for each in played)
    broken = sum(bool(each.violations) for each in played)
    return [*(f"{n:,}" for n in (len(played), calls, *sums)), f"{healing_s:.1f} s", str(broken)]


def markdown(played: list[Result]) -> str:
    """The table, and the seeds in a sentence."""
    names = sorted({name for each in played for name in each.faults})
    table = [list(HEAD), ["---"] + ["---:"] * (len(HEAD) - 1), *rows(played, names)]
    seeds = sorted(each.seed for each in played)
    hours = sum(each.seconds for each in played) / 3600
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([*lines, "", f"Seeds {seeds[0]} to {seeds[-1]}, {hours:.1f} hours."])


def main() -> None:
    """Print the table of all files."""
    played = [
        result
        for name in sys.argv[1:]
        for result in msgspec.json.decode(Path(name).read_bytes(), type=list[Result])
    ]
    sys.stdout.write(markdown(played) + "\n")


if __name__ == "__main__":
    main()
