"""``make bench``: onsale beside other ways to sell seats, on this machine, in one run.

Starts Redis and Postgres, and lets each contender have them in turn, A B A B …, under the same
load. Prints medians and ratios; writes ``results/*.json`` and pictures beside this file.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.speed import report, results, scenario, ways
from bench.speed.measurement import Measurement, Results
from bench.speed.servers import Servers
from bench.speed.turn import Turn

FOLDER = Path(__file__).parent / "results"
SECONDS = 5
ROUNDS = 3
SHORT_SECONDS = 2
SHORT_ROUNDS = 2

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    short: Annotated[
        bool,
        typer.Option("--short", help="A minute; fails if a ratio is missed by a factor of two."),
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this scenario; may be repeated.")
    ] = None,
    seconds: Annotated[int, typer.Option(min=1, help="How long a turn lasts.")] = SECONDS,
    rounds: Annotated[int, typer.Option(min=1, help="How many turns each side has.")] = ROUNDS,
) -> None:
    """Measure onsale beside its peers and print ratios.

    Exits with 1 if the short form misses a ratio by far, or if anybody broke his promise.
    """
    if short:
        seconds, rounds = SHORT_SECONDS, SHORT_ROUNDS
    chosen = list(scenario.short() if short else scenario.scenarios())
    chosen = [each for each in chosen if not only or each.name in only]
    if unknown := set(only or ()) - {each.name for each in chosen}:
        known = ", ".join(each.name for each in scenario.scenarios())
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: known are {known}")
    allow_many_connections()
    printed = report.console()
    with Servers() as servers:
        about = results.about(servers, seconds=seconds, rounds=rounds)
        printed.print("  ".join(f"{name} {fact}" for name, fact in about.items()))
        measured = []
        for each in chosen:
            found = measure(servers, each, seconds=seconds, rounds=rounds)
            measured += found
            printed.print(report.table(Results(found), each.name, f"\n{each.title}"))
            printed.print("\n".join(report.figures(Results(found), each.name)))
            if not short:
                results.write(FOLDER, each.name, about, found)
    everything = Results(measured)
    printed.print(report.verdicts(everything))
    if short:
        missed = report.missed(everything)
        printed.print("\n".join(missed))
        sys.exit(1 if missed else 0)
    draw()


def measure(
    servers: Servers, each: scenario.Scenario, *, seconds: int, rounds: int
) -> list[Measurement]:
    """Let each side have its turn, and again, as often as said."""
    return [
        ways.take(Turn(servers, each, side, number=number, seconds=seconds))
        for number in range(1, (each.rounds or rounds) + 1)
        for side in each.sides
    ]


def draw() -> None:
    """Draw what was written, of this run or an earlier one."""
    from bench.speed import pictures  # noqa: PLC0415 - the short form does without matplotlib

    pictures.draw(results.read(FOLDER), FOLDER)


def allow_many_connections() -> None:
    """Let the children open as many files as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    app()
