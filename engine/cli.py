"""The command line: ``onsale …``.

Each command imports what it needs when it runs, so that ``onsale --help`` is quick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import Fault, Misconfigured, Unavailable
from engine.permissions import Permission  # noqa: TC001 - typer reads it

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.dead_letters import Settlement
    from engine.ledger import Letter
    from engine.settings import Settings

DATA = Path(".onsale")
STAYED = 1
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

dead_letters = typer.Typer(
    help="Look at what the ledger could never take, and replay or discard it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(dead_letters, name="dead-letters")

keys = typer.Typer(
    help="Make, list and revoke the keys of services that call when AUTH=token.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(keys, name="keys")

DataFolder = Annotated[Path, typer.Option("--data", help="Folder of the servers' data.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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


@app.command(context_settings={**PASS_ON_ALL, "help_option_names": []})
def drill(context: typer.Context) -> None:
    """Sell on a system of its own while it is being broken, and judge it; see its --help."""
    _become_of_the_clone("bench.drill", context.args)


@app.command(context_settings={**PASS_ON_ALL, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Measure it beside other ways to sell seats, on this machine; see its --help."""
    _become_of_the_clone("bench", context.args)


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
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Find the differences between Redis and the ledger, and mend them.

    Exits with 0: no drift is left; 1: a dry run found some; 2: could not run.
    """
    raise typer.Exit(_reconcile(_running(data), events or [], dry_run=dry_run, as_json=as_json))


@dead_letters.command("list")
def list_letters(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 100,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """List dead letters, the newest first.

    Exits with 0, also if there are none; 2: could not run.
    """
    import asyncio  # noqa: PLC0415 - see the top

    from engine.dead_letters import newest  # noqa: PLC0415 - see the top

    letters, total = asyncio.run(newest(_talking(data), limit))
    _print_letters(letters, total, as_json=as_json)


@dead_letters.command()
def show(
    letter: Annotated[int, typer.Argument(metavar="ID", min=1, help="Id of a dead letter.")],
    *,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Print one dead letter whole, and what a replay would do now.

    Exits with 0; 2: there is no such letter, or could not run.
    """
    import asyncio  # noqa: PLC0415 - see the top

    from engine.dead_letters import forecast  # noqa: PLC0415 - see the top

    settings = _talking(data)
    (found,) = _found(settings, [letter])
    _print_letter(found, asyncio.run(forecast(settings, found)), as_json=as_json)


@dead_letters.command()
def replay(
    *,
    letters: Annotated[
        list[int] | None, typer.Argument(metavar="ID", min=1, help="Ids of dead letters.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every one, the oldest first.")] = False,
    data: DataFolder = DATA,
) -> None:
    """Decide again on dead letters, as if they came now: each is confirmed or refused for good.

    A booking keeps its id. Nobody who was given a seat loses it.

    Exits with 0: each was settled; 1: one or more stay, for the reason that is printed; 2: there is
    no such letter, and nothing was done, or could not run.
    """
    from engine.dead_letters import replay_each  # noqa: PLC0415 - see the top

    if bool(letters) == every:
        raise typer.BadParameter("name dead letters by their ids, or say --all")
    settings = _talking(data)
    ids = [each.id for each in _found(settings, letters or [])]
    _settle(replay_each(settings, ids))


@dead_letters.command()
def discard(
    letters: Annotated[list[int], typer.Argument(metavar="ID", min=1, help="Ids of dead letters.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: DataFolder = DATA,
) -> None:
    """Say of dead letters that they are dealt with: they are rejected for good.

    Their entries are written to the log, on standard error, and are nowhere else afterwards.

    Exits with 0: discarded; 1: the answer was no; 2: there is no such letter, and nothing was done,
    or could not run.
    """
    from engine.dead_letters import discard_each  # noqa: PLC0415 - see the top

    settings = _talking(data)
    ids = [each.id for each in _found(settings, letters)]
    if sys.stdin.isatty() and not yes:
        typer.confirm(f"Discard {', '.join(map(str, ids))} for good?", abort=True)
    _settle(discard_each(settings, ids))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose it is: letters, digits, dots, dashes.")],
    *,
    scopes: Annotated[
        list[Permission], typer.Option("--scope", help="What it is for; more than once for more.")
    ],
    data: DataFolder = DATA,
) -> None:
    """Make a key and print it. It is nowhere afterwards: the ledger keeps its hash.

    Exits with 0; 2: the name is taken, or could not run.
    """
    import asyncio  # noqa: PLC0415 - see the top
    import re  # noqa: PLC0415 - see the top

    from engine import service_keys  # noqa: PLC0415 - see the top

    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise typer.BadParameter("a name is 1 to 64 letters, digits, dots, dashes or underscores")
    secret = asyncio.run(service_keys.create(_talking(data), name, set(scopes)))
    if secret is None:
        raise Misconfigured(f"there is a key {name} already: revoke it, or choose another name")
    typer.echo(secret)


@keys.command("list")
def list_keys(*, as_json: AsJson = False, data: DataFolder = DATA) -> None:
    """List the keys by name: what each is for, and since when. No key can be printed again."""
    import asyncio  # noqa: PLC0415 - see the top
    import json  # noqa: PLC0415 - see the top

    from engine import service_keys  # noqa: PLC0415 - see the top

    rows = [
        {"name": row.name, "scopes": list(row.scopes), "created_at": _instant(row.created_at_ms)}
        for row in asyncio.run(service_keys.every(_talking(data)))
    ]
    if as_json:
        typer.echo(json.dumps({"keys": rows}))
    else:
        lines = (f"{row['name']}\t{' '.join(row['scopes'])}\t{row['created_at']}" for row in rows)
        typer.echo("\n".join(lines) or "no keys")


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="Whose key.")], *, data: DataFolder = DATA
) -> None:
    """Revoke a key: every API process that hears Postgres refuses it within moments.

    Exits with 0; 2: there is no key of this name, or could not run.
    """
    import asyncio  # noqa: PLC0415 - see the top

    from engine import service_keys  # noqa: PLC0415 - see the top

    if not asyncio.run(service_keys.revoke(_talking(data), name)):
        raise Misconfigured(f"there is no key {name}")
    typer.echo(f"{name} is revoked")


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
    except (Misconfigured, Fault) as error:
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


def _talking(data: Path) -> Settings:
    """The settings of what runs, with the log on standard error."""
    from engine.log import configure  # noqa: PLC0415 - see the top

    settings = _running(data)
    configure(settings)
    return settings


def _found(settings: Settings, ids: Sequence[int]) -> list[Letter]:
    """The dead letters with these ids; if one is missing, nothing is done at all."""
    import asyncio  # noqa: PLC0415 - see the top

    from engine.dead_letters import find  # noqa: PLC0415 - see the top

    letters, missing = asyncio.run(find(settings, ids))
    if missing:
        typer.echo("\n".join(f"onsale: {each}" for each in missing), err=True)
        raise typer.Exit(CANNOT_RUN)
    return letters


def _settle(settlements: AsyncIterator[Settlement]) -> None:
    """Print what becomes of letters, each when it is known; exit with 1 if one stays."""
    import asyncio  # noqa: PLC0415 - see the top

    from engine.dead_letters import Outcome  # noqa: PLC0415 - see the top

    async def settle() -> list[Outcome]:
        outcomes = []
        async for each in settlements:
            typer.echo(_readable(each))
            outcomes.append(each.outcome)
        return outcomes

    outcomes = asyncio.run(settle())
    if not outcomes:
        typer.echo("no dead letters")
    if Outcome.STAYS in outcomes:
        raise typer.Exit(STAYED)


def _facts(letter: Letter) -> dict[str, object]:
    """A letter's columns by name."""
    from engine.dead_letters import item_of  # noqa: PLC0415 - see the top

    item = item_of(letter.entry)
    return {
        "id": letter.id,
        "set_aside_at": _instant(letter.set_aside_at_ms),
        "event_id": letter.event_id,
        "user_id": item.user_id if item else None,
        "kind": item.kind if item else "poison",
        "reason": letter.reason,
    }


def _instant(at_ms: int) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415 - see the top

    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _print_letters(letters: list[Letter], total: int, *, as_json: bool) -> None:
    """A table on a terminal; else columns with tabs between them."""
    import json  # noqa: PLC0415 - see the top

    from rich.console import Console  # noqa: PLC0415 - see the top
    from rich.table import Table  # noqa: PLC0415 - see the top

    if as_json:
        typer.echo(json.dumps({"total": total, "letters": [_facts(each) for each in letters]}))
        return
    if not letters:
        typer.echo("no dead letters")
        return
    short = [each._replace(reason=each.reason.partition("\n")[0]) for each in letters]
    shown = [[_readable(value) for value in _facts(each).values()] for each in short]
    names = ("id", "set aside", "event", "user", "kind", "reason")
    if sys.stdout.isatty():
        table = Table(box=None, pad_edge=False)
        for name in names:
            table.add_column(name, overflow="fold", no_wrap=name not in ("user", "reason"))
        for cells in shown:
            table.add_row(*cells)
        Console(markup=False, highlight=False).print(table)
    else:
        typer.echo("\n".join("\t".join(cells) for cells in (names, *shown)))
    if total > len(letters):
        typer.echo(f"the newest {len(letters)} of {total}; see --limit", err=True)


def _print_letter(letter: Letter, forecast: str, *, as_json: bool) -> None:
    """Everything about a letter, one fact a line."""
    import json  # noqa: PLC0415 - see the top

    facts = {**_facts(letter), "entry": letter.entry, "replay": forecast}
    if as_json:
        typer.echo(json.dumps({**facts, "entry": json.loads(letter.entry)}))
    else:
        lines = (f"{name:<13} {_readable(value)}" for name, value in facts.items())
        typer.echo("\n".join(lines))


def _readable(value: object) -> str:
    """A value in one line; what a terminal would obey is escaped."""
    text = "" if value is None else str(value).replace("\n", " ")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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


def _become_of_the_clone(module: str, args: list[str]) -> None:
    from importlib.util import find_spec  # noqa: PLC0415 - see the top

    if find_spec("bench") is None:
        raise Misconfigured(f"{module} is part of the source tree: run it in a clone of it")
    _become([sys.executable, "-m", module, *args])


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
