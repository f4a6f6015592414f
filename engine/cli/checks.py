"""Commands that look at what runs: status, doctor, reconcile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.base import (
    DATA,
    FOUND,
    AsJson,
    DataFolder,
    print_json,
    print_table,
    talking,
)

if TYPE_CHECKING:
    from engine.status import Status


def status(
    *,
    events: Annotated[
        int, typer.Option(min=0, max=1000, help="How many events, the most booked first.")
    ] = 20,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Show each partition's outbox and shift, and how the busiest events stand.

    A holder has worked if a worker of its host has given a sign of life in the last eleven seconds.
    Events are compared by a quick check; what differs is also a line of the log.

    Exits with 0, whatever it shows; 2: could not run.
    """
    import asyncio  # noqa: PLC0415 - see engine/cli/__init__.py

    from engine.recovery import connected  # noqa: PLC0415 - see engine/cli/__init__.py
    from engine.status import status as look  # noqa: PLC0415 - see engine/cli/__init__.py

    async def looked() -> Status:
        async with connected(talking(data), connections=2) as stores:
            return await look(stores, events=events)

    found = asyncio.run(looked())
    if as_json:
        partitions = [each._asdict() for each in found.partitions]
        print_json(
            {
                "partitions": partitions,
                "events": [each._asdict() for each in found.events],
                "event_count": found.event_count,
            }
        )
    else:
        _print_status(found)


def doctor(*, as_json: AsJson = False, data: DataFolder = DATA) -> None:
    """Name what is wrong with both servers, this machine and the sale, or may go wrong.

    Exits with 0: nothing; 1: there are findings; 2: could not run.
    """
    import asyncio  # noqa: PLC0415 - see engine/cli/__init__.py

    from engine.doctor import CHECKS, findings  # noqa: PLC0415 - see engine/cli/__init__.py
    from engine.readings import read  # noqa: PLC0415 - see engine/cli/__init__.py

    found = findings(asyncio.run(read(talking(data))))
    if as_json:
        print_json({"checks": len(CHECKS), "findings": [each._asdict() for each in found]})
    else:
        lines = [f"{each.check}: {each.risk}\n    {each.advice}" for each in found]
        typer.echo("\n".join([*lines, f"{len(CHECKS)} checks, findings: {len(found)}"]))
    if found:
        raise typer.Exit(FOUND)


def _print_status(found: Status) -> None:
    print_table(
        ("partition", "epoch", "state", "depth", "lag s", "shift", "holder", "worker"),
        [(*each[:7], "alive" if each.worked else "not seen") for each in found.partitions],
        long=("holder",),
    )
    typer.echo()
    print_table(
        ("event", "name", "seats", "sold", "left", "says", "drift"),
        [(*each[:6], " ".join(each.drift) or "none") for each in found.events],
        long=("name",),
    )
    if found.event_count > len(found.events):
        typer.echo(f"the busiest {len(found.events)} of {found.event_count}", err=True)


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
