"""Commands that start something, or become another program."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final, NoReturn

import typer

from engine.cli.base import (
    DATA,
    AsJson,
    DataFolder,
    print_json,
    running,
    settings_of_environment,
)
from engine.errors import Misconfigured, Unavailable

PASS_ON: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
PASS_ON_ALL: Final = {**PASS_ON, "allow_interspersed_args": False}
PASS_ON_WHOLE: Final = {**PASS_ON_ALL, "help_option_names": []}


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
    from engine.up import run  # noqa: PLC0415 - see engine/cli/__init__.py

    chosen = {"host": host, "port": port, "api_workers": api_workers}
    given = {name: value for name, value in chosen.items() if value is not None}
    settings = settings_of_environment().model_copy(update=given)
    run(settings, data, workers=workers, as_json=as_json)


def api(context: typer.Context) -> None:
    """Serve HTTP: `python -m api`."""
    _become([sys.executable, "-P", "-m", "api", *context.args])


def worker(context: typer.Context) -> None:
    """Write the ledger: `python -m worker`."""
    _become([sys.executable, "-P", "-m", "worker", *context.args])


def drill(context: typer.Context) -> None:
    """Sell on a system of its own while it is being broken, and judge it; see its --help."""
    _become_of_the_clone("bench.drill", context.args)


def bench(context: typer.Context) -> None:
    """Measure it beside other ways to sell seats, on this machine; see its --help."""
    _become_of_the_clone("bench", context.args)


def migrate(*, as_json: AsJson = False, data: DataFolder = DATA) -> None:
    """Bring the ledger's schema up to date; print what was applied.

    Exits with 0, also if nothing was; 2: could not run.
    """
    import asyncio  # noqa: PLC0415 - see engine/cli/__init__.py

    from engine import migrate as migrations  # noqa: PLC0415 - see engine/cli/__init__.py

    settings = running(data)
    applied = asyncio.run(migrations.migrate(settings.postgres_dsn, settings.partitions))
    if as_json:
        print_json({"applied": applied})
    else:
        typer.echo("\n".join(applied) or "nothing to apply")


def psql(context: typer.Context, data: DataFolder = DATA) -> None:
    """Open the ledger of the running engine in psql, or run its arguments: -c 'SELECT …'."""
    from engine.up import psql_command  # noqa: PLC0415 - see engine/cli/__init__.py

    _become([*psql_command(running(data).postgres_dsn), *context.args])


def redis(context: typer.Context, *, as_json: AsJson = False, data: DataFolder = DATA) -> None:
    """Send one command to the running engine's Redis and print the reply.

    Options of onsale come before the command. Exits with 0; 2: Redis refused it, or could not run.
    """
    import redis as client  # noqa: PLC0415 - see engine/cli/__init__.py

    try:
        with client.Redis.from_url(running(data).redis_dsn) as connection:
            connection.response_callbacks.clear()  # replies as Redis sent them
            reply = connection.execute_command(*(context.args or ["PING"]))
    except client.ResponseError as error:
        raise Misconfigured(str(error)) from None
    except client.RedisError as error:
        raise Unavailable(str(error)) from None
    if as_json:
        print_json({"reply": _texts(reply)})
    else:
        _print_reply(reply)


def version(*, as_json: AsJson = False) -> None:
    """Print the version."""
    from importlib.metadata import version as version_of  # noqa: PLC0415 - see __init__.py

    number = version_of("onsale")
    if as_json:
        print_json({"version": number})
    else:
        typer.echo(number)


def _become_of_the_clone(module: str, args: list[str]) -> None:
    from importlib.util import find_spec  # noqa: PLC0415 - see engine/cli/__init__.py

    if find_spec("bench") is None:
        raise Misconfigured(f"{module} is part of the source tree: run it in a clone of it")
    _become([sys.executable, "-m", module, *args])


def _become(argv: list[str]) -> NoReturn:
    """Replace this process by another program."""
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - our own program, no shell
    except FileNotFoundError:
        raise Misconfigured(f"there is no {argv[0]} here") from None


def _texts(reply: object) -> object:
    """A reply of Redis with text in the place of bytes; what is no text is escaped."""
    if isinstance(reply, list):
        return [_texts(each) for each in reply]
    return reply.decode(errors="backslashreplace") if isinstance(reply, bytes) else reply


def _print_reply(reply: object) -> None:
    """Print a reply of Redis: lists one item a line."""
    if isinstance(reply, list):
        for each in reply:
            _print_reply(each)
    else:
        typer.echo("(nil)" if reply is None else str(_texts(reply)))
