"""What the commands have in common: options, exit codes, which servers are meant, how to print."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.engine import Engine
    from engine.settings import Settings

DATA: Final = Path(".onsale")
FOUND: Final = 1
"""It ran, and the answer is a no, or something that a person should look at."""
CANNOT_RUN: Final = 2
MOST: Final = 10_000

DataFolder = Annotated[Path, typer.Option("--data", help="Folder of the servers' data.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=MOST, help="How many at most.")]
After = Annotated[str, typer.Option(help="What follows the `next` of an earlier answer.")]


def group(text: str) -> typer.Typer:
    """A command that has commands."""
    return typer.Typer(
        help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def settings_of_environment() -> Settings:
    """The settings, as the environment has them."""
    from engine.settings import Settings  # noqa: PLC0415 - see engine/cli/__init__.py

    return Settings.load()


def running(data: Path) -> Settings:
    """The settings, with the servers of the ``onsale up`` that runs on this folder, if any.

    Servers that are named in the environment take precedence.
    """
    from engine.up import STATE_FILE  # noqa: PLC0415 - see engine/cli/__init__.py

    settings = settings_of_environment()
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


def talking(data: Path) -> Settings:
    """The settings of what runs, with the log on standard error."""
    from engine.log import configure  # noqa: PLC0415 - see engine/cli/__init__.py

    settings = running(data)
    configure(settings)
    return settings


@asynccontextmanager
async def engine_of(data: Path) -> AsyncIterator[Engine]:
    """The engine that the API has, against the same servers."""
    from engine.engine import Engine  # noqa: PLC0415 - see engine/cli/__init__.py

    engine = await Engine.open(talking(data))
    try:
        yield engine
    finally:
        await engine.close()


def refuse(*reasons: str) -> typer.Exit:
    """What to raise where nothing was done: the reasons, a line each, and exit code 2."""
    typer.echo("\n".join(f"onsale: {reason}" for reason in reasons), err=True)
    return typer.Exit(CANNOT_RUN)


def print_json(value: dict[str, Any]) -> None:
    """One document, in one line."""
    typer.echo(json.dumps(value))


def print_table(
    names: Sequence[str], rows: Sequence[Sequence[object]], *, long: Sequence[str] = ()
) -> None:
    """A table on a terminal, where ``long`` columns may break; else tabs between the columns."""
    from rich.console import Console  # noqa: PLC0415 - see engine/cli/__init__.py
    from rich.table import Table  # noqa: PLC0415 - see engine/cli/__init__.py

    shown = [[readable(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        typer.echo("\n".join("\t".join(cells) for cells in (names, *shown)))
        return
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name not in long)
    for cells in shown:
        table.add_row(*cells)
    Console(markup=False, highlight=False).print(table)


def print_facts(facts: dict[str, Any]) -> None:
    """One fact a line."""
    width = max(map(len, facts)) + 1
    lines = (f"{name:<{width}} {readable(value)}" for name, value in facts.items())
    typer.echo("\n".join(lines))


def print_more(after: str | None) -> None:
    """Where to read on, if there is more."""
    if after is not None:
        typer.echo(f"there is more: --after '{readable(after)}'", err=True)


def readable(value: object) -> str:
    """A value in one line; what a terminal would obey is escaped."""
    text = "" if value is None else str(value).replace("\n", " ")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def instant(at_ms: int | None) -> str | None:
    """Unix milliseconds as RFC 3339, in UTC."""
    from datetime import UTC, datetime  # noqa: PLC0415 - see engine/cli/__init__.py

    if at_ms is None:
        return None
    second, millisecond = divmod(at_ms, 1000)
    at = datetime.fromtimestamp(second, UTC).replace(tzinfo=None)
    return f"{at.isoformat()}.{millisecond:03d}Z"
