"""``onsale drill``: sell under faults, and judge what was promised."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.drill.faults import FAULTS, Fault
from bench.drill.report import HEAD, rows
from bench.drill.rounds import Result, draw, play
from bench.drill.stack import Stack
from engine.log import configure
from engine.settings import Settings

BROKEN: Final = 1
WIDTH: Final = 120

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def drill(  # noqa: PLR0913 - the options of a command
    *,
    seed: Annotated[int, typer.Option(help="Of the first round; each later one adds 1.")] = 1,
    faults: Annotated[
        str, typer.Option(help="Names with commas between; several: two to four at once.")
    ] = "",
    alone: Annotated[bool, typer.Option("--alone", help="One fault a round, in turn.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    until_broken: Annotated[
        bool, typer.Option("--until-broken", help="End at the first round that breaks a promise.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for data, logs and every round's history.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="File for the results, as JSON.")] = None,
    names: Annotated[bool, typer.Option("--list", help="Print the faults' names.")] = False,
) -> None:
    """Sell on a whole system of its own while it is being broken, then judge what was promised.

    Two API processes, two workers, a Redis and a Postgres are started in a folder; 64 clients
    reserve, cancel and read; faults come. A round is repeated with its seed and the same faults.

    Exits with 0: every promise was kept; 1: one was broken.
    """
    if names:
        typer.echo("\n".join(f"{each.name:26} {each.strike.__doc__}" for each in FAULTS.values()))
        return
    chosen = faults.split(",") if faults else list(FAULTS)
    if unknown := set(chosen) - set(FAULTS):
        raise typer.BadParameter(f"no such fault: {', '.join(sorted(unknown))}; see --list")
    configure(Settings(log_level="error"))
    with tempfile.TemporaryDirectory(prefix="onsale-drill-") as folder:
        drawn = {each: draw(each, chosen, alone=alone) for each in range(seed, seed + rounds)}
        system = run(keep or Path(folder), drawn, results, until_broken=until_broken)
        played = asyncio.run(system)
    show(played)
    raise typer.Exit(BROKEN if any(each.violations for each in played) else 0)


async def run(
    folder: Path, drawn: dict[int, list[Fault]], results: Path | None, *, until_broken: bool
) -> list[Result]:
    """Play a round for each seed, all on one system; the results are written after each."""
    played: list[Result] = []
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    async with Stack(folder).running() as stack:
        with progress:
            task = progress.add_task("", total=len(drawn))
            for seed, faults in drawn.items():
                what = f"seed {seed}: {', '.join(each.name for each in faults)}"
                progress.update(task, description=what)
                result = await play(stack, seed, faults, folder / f"round-{seed}")
                played.append(result)
                _write(played, results)
                progress.advance(task)
                for violation in result.violations:
                    text = f"{what}\n  breaks {violation.invariant}: {violation.sentence}"
                    progress.console.print(text, soft_wrap=True, markup=False)
                if result.violations and until_broken:
                    break
    return played


def _write(played: list[Result], results: Path | None) -> None:
    if results:
        results.write_bytes(msgspec.json.format(msgspec.json.encode(played)))


def show(played: list[Result]) -> None:
    """Print a table: what became of the rounds in which each fault struck."""
    table = Table(*HEAD)
    for row in rows(played, list(FAULTS)):
        table.add_row(*row)
    Console(width=max(Console().width, WIDTH)).print(table)
    for each in played:
        for violation in each.violations:
            typer.echo(f"seed {each.seed} breaks {violation.invariant}: {violation.sentence}")
    seconds = sum(each.seconds for each in played)
    broken = ", ".join(str(each.seed) for each in played if each.violations)
    typer.echo(
        f"{len(played)} rounds in {seconds:.0f} s; seeds that broke a promise: {broken or 'none'}"
    )


app(prog_name="onsale drill")
