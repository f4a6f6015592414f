"""Commands that look at what runs: reconcile."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.base import DATA, FOUND, AsJson, DataFolder, print_json, talking


def reconcile(
    *,
    events: Annotated[list[int] | None, typer.Argument(help="Ids; none: every event.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Find, but do not mend.")] = False,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Find the differences between Redis and the ledger, and mend them.

    Exits with 0: no drift is left; 1: a dry run found some; 2: could not run.
    """
    import asyncio  # noqa: PLC0415 - see engine/cli/__init__.py

    from engine.reconcile import run  # noqa: PLC0415 - see engine/cli/__init__.py

    report = asyncio.run(run(talking(data), events or [], dry_run=dry_run))
    if as_json:
        print_json({**report._asdict(), "drift": [each._asdict() for each in report.drift]})
    else:
        lines = [str(each) for each in report.drift]
        what = "found" if dry_run else "mended"
        total = f"{report.events} events, {report.warm} in Redis; drift {what}: {len(lines)}"
        typer.echo("\n".join([*lines, total]))
    if dry_run and report.drift:
        raise typer.Exit(FOUND)
