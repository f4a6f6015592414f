"""The command line: ``onsale …``.

Each command imports what it needs when it runs, so that ``onsale --help`` is quick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from engine.settings import Settings

DATA = Path(".onsale")
CANNOT_RUN = 2
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
PASS_ON_ALL = {**PASS_ON, "allow_interspersed_args": False}

app = typer.Typer(
    help="A Redis-first seat reservation engine with Postgres as its ledger.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DataFolder = Annotated[Path, typer.Option("--data", help="Folder of the servers' data.")]


@app.command()
def up(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [HOST]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0: any.  [PORT]")
    ] = None,
    api_workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that serve HTTP.  [API_WORKERS]")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that write the ledger.")
    ] = 1,
    data: DataFolder = DATA,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, print one line of JSON instead.")
    ] = False,
) -> None:
    """Start the whole engine here, with its own Redis and Postgres unless some are named.

    Name them with REDIS_URL or REDIS_HOST, and with DATABASE_URL or DB_HOST.
    """
    from engine.up import run  # noqa: PLC0415 - see the top

    chosen = {"host": host, "port": port, "api_workers": api_workers}
    settings = _settings().model_copy(update={k: v for k, v in chosen.items() if v is not None})
    run(settings, data, workers=workers, as_json=as_json)


@app.command(context_settings=PASS_ON)
def api(context: typer.Context) -> None:
    """Serve HTTP: `python -m api`."""
    _become([sys.executable, "-m", "api", *context.args])


@app.command(context_settings=PASS_ON)
def worker(context: typer.Context) -> None:
    """Write the ledger: `python -m worker`."""
    _become([sys.executable, "-m", "worker", *context.args])


@app.command()
def migrate(data: DataFolder = DATA) -> None:
    """Bring the ledger's schema up to date; print what was applied."""
    import asyncio  # noqa: PLC0415 - see the top

    from engine import migrate as migrations  # noqa: PLC0415 - see the top

    settings = _running(data)
    applied = asyncio.run(migrations.migrate(settings.postgres_dsn, settings.partitions))
    typer.echo("\n".join(applied) or "nothing to apply")


@app.command()
def reconcile(
    *,
    events: Annotated[list[int] | None, typer.Argument(help="Ids; none: every event.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Find, but do not mend.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: DataFolder = DATA,
) -> None:
    """Find the differences between Redis and the ledger, and mend them.

    Exits with 0: no drift is left; 1: a dry run found some; 2: could not run.
    """
    raise typer.Exit(_reconcile(_running(data), events or [], dry_run=dry_run, as_json=as_json))


@app.command(context_settings=PASS_ON_ALL)
def psql(context: typer.Context, data: DataFolder = DATA) -> None:
    """Open the ledger of the running engine in psql, or run its arguments: -c 'SELECT …'."""
    from engine.up import psql_command  # noqa: PLC0415 - see the top

    _become([*psql_command(_running(data).postgres_dsn), *context.args])


@app.command(context_settings=PASS_ON_ALL)
def redis(context: typer.Context, data: DataFolder = DATA) -> None:
    """Send one command to the running engine's Redis and print the reply."""
    import redis as client  # noqa: PLC0415 - see the top

    try:
        with client.Redis.from_url(_running(data).redis_dsn) as connection:
            connection.response_callbacks.clear()  # replies as Redis sent them
            _print_reply(connection.execute_command(*(context.args or ["PING"])))
    except client.ResponseError as error:
        raise Misconfigured(str(error)) from None
    except client.RedisError as error:
        raise Unavailable(str(error)) from None


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of  # noqa: PLC0415 - see the top

    typer.echo(version_of("onsale"))


def main() -> None:
    """Run the command line; what the user can mend ends in one line and exit code 2."""
    try:
        app()
    except (Misconfigured, Unavailable) as error:
        typer.echo(f"onsale: {error}", err=True)
        sys.exit(CANNOT_RUN)


def _settings() -> Settings:
    from engine.settings import Settings  # noqa: PLC0415 - see the top

    return Settings.load()


def _running(data: Path) -> Settings:
    """The settings, with the servers of the ``onsale up`` that runs on this folder, if any.

    Servers that are named in the environment take precedence.
    """
    import json  # noqa: PLC0415 - see the top

    from engine.up import STATE_FILE  # noqa: PLC0415 - see the top

    settings = _settings()
    try:
        state = json.loads((data / STATE_FILE).read_text())
    except FileNotFoundError:
        return settings
    found = {}
    if not settings.names_postgres:
        found["database_url"] = state["database_url"]
    if not settings.names_redis:
        found["redis_url"] = state["redis_url"]
    return settings.model_copy(update=found)


def _reconcile(settings: Settings, events: list[int], *, dry_run: bool, as_json: bool) -> int:
    """Reconcile, print the report and return the exit code."""
    import asyncio  # noqa: PLC0415 - see the top
    import json  # noqa: PLC0415 - see the top

    from engine.log import configure  # noqa: PLC0415 - see the top
    from engine.reconcile import run  # noqa: PLC0415 - see the top

    configure(settings)
    report = asyncio.run(run(settings, events, dry_run=dry_run))
    if as_json:
        drift = [each._asdict() for each in report.drift]
        typer.echo(json.dumps({**report._asdict(), "drift": drift}))
    else:
        lines = [str(each) for each in report.drift]
        what = "found" if dry_run else "mended"
        total = f"{report.events} events, {report.warm} in Redis; drift {what}: {len(lines)}"
        typer.echo("\n".join([*lines, total]))
    return int(dry_run and bool(report.drift))


def _become(argv: list[str]) -> None:
    """Replace this process by another program."""
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - our own program, no shell
    except FileNotFoundError:
        raise Misconfigured(f"there is no {argv[0]} here") from None


def _print_reply(reply: object) -> None:
    """Print a reply of Redis: lists one item a line, bytes that are no text escaped."""
    if isinstance(reply, list):
        for each in reply:
            _print_reply(each)
    elif isinstance(reply, bytes):
        typer.echo(reply.decode(errors="backslashreplace"))
    else:
        typer.echo("(nil)" if reply is None else str(reply))


if __name__ == "__main__":
    main()
