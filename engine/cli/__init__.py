"""The command line: ``onsale …``.

Each command imports what it needs when it runs, so that ``onsale --help`` is quick.
"""

from __future__ import annotations

import sys

import typer

from engine.cli import bookings, checks, crowd, events, keys, letters, processes
from engine.cli.base import CANNOT_RUN
from engine.errors import Fault, LedgerRefuses, Misconfigured

app = typer.Typer(
    help="A Redis-first seat reservation engine with Postgres as its ledger.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(processes.up)
app.command(context_settings=processes.PASS_ON)(processes.api)
app.command(context_settings=processes.PASS_ON)(processes.worker)
app.command()(processes.migrate)
app.add_typer(events.app, name="events")
app.add_typer(bookings.app, name="bookings")
app.command()(checks.status)
app.command()(checks.doctor)
app.command()(checks.reconcile)
app.command()(crowd.rush)
app.add_typer(letters.app, name="dead-letters")
app.add_typer(keys.app, name="keys")
app.command(context_settings=processes.PASS_ON_ALL)(processes.psql)
app.command(context_settings=processes.PASS_ON_ALL)(processes.redis)
app.command(context_settings=processes.PASS_ON_WHOLE)(processes.drill)
app.command(context_settings=processes.PASS_ON_WHOLE)(processes.bench)
app.command()(processes.version)


def main() -> None:
    """Run the command line; what the user can mend ends in one line and exit code 2."""
    try:
        app(prog_name="onsale")
    except (Misconfigured, Fault, LedgerRefuses) as error:
        typer.echo(f"onsale: {error}", err=True)
        sys.exit(CANNOT_RUN)
