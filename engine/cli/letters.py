"""``onsale dead-letters …``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.base import (
    DATA,
    FOUND,
    AsJson,
    DataFolder,
    Limit,
    group,
    instant,
    print_facts,
    print_json,
    print_table,
    readable,
    refuse,
    talking,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.dead_letters import Settlement
    from engine.ledger import Letter
    from engine.settings import Settings

app = group("Look at what the ledger could never take, and replay or discard it.")


@app.command("list")
def list_letters(*, limit: Limit = 100, as_json: AsJson = False, data: DataFolder = DATA) -> None:
    """List dead letters, the newest first.

    Exits with 0, also if there are none; 2: could not run.
    """
    import asyncio  # noqa: PLC0415 - see engine/cli/__init__.py

    from engine.dead_letters import newest  # noqa: PLC0415 - see engine/cli/__init__.py

    letters, total = asyncio.run(newest(talking(data), limit))
    if as_json:
        print_json({"total": total, "letters": [_facts(each) for each in letters]})
    elif letters:
        _print_letters(letters, total)
    else:
        typer.echo("no dead letters")


@app.command()
def show(
    letter: Annotated[int, typer.Argument(metavar="ID", min=1, help="Id of a dead letter.")],
    *,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Print one dead letter whole, and what a replay would do now.

    Exits with 0; 2: there is no such letter, or could not run.
    """
    import asyncio  # noqa: PLC0415 - see engine/cli/__init__.py
    import json  # noqa: PLC0415 - see engine/cli/__init__.py

    from engine.dead_letters import forecast  # noqa: PLC0415 - see engine/cli/__init__.py

    settings = talking(data)
    (found,) = _found(settings, [letter])
    entry = json.loads(found.entry) if as_json else found.entry
    facts = {**_facts(found), "entry": entry, "replay": asyncio.run(forecast(settings, found))}
    (print_json if as_json else print_facts)(facts)


@app.command()
def replay(
    *,
    letters: Annotated[
        list[int] | None, typer.Argument(metavar="ID", min=1, help="Ids of dead letters.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every one, the oldest first.")] = False,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Decide again on dead letters, as if they came now: each is confirmed or refused for good.

    A booking keeps its id. Nobody who was given a seat loses it.

    Exits with 0: each was settled; 1: one or more stay, for the reason that is printed; 2: there is
    no such letter, and nothing was done, or could not run.
    """
    from engine.dead_letters import replay_each  # noqa: PLC0415 - see engine/cli/__init__.py

    if bool(letters) == every:
        raise typer.BadParameter("name dead letters by their ids, or say --all")
    settings = talking(data)
    ids = [each.id for each in _found(settings, letters or [])]
    _settle(replay_each(settings, ids), as_json=as_json)


@app.command()
def discard(
    letters: Annotated[list[int], typer.Argument(metavar="ID", min=1, help="Ids of dead letters.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Say of dead letters that they are dealt with: they are rejected for good.

    Their entries are written to the log, on standard error, and are nowhere else afterwards.

    Exits with 0: discarded; 1: the answer was no; 2: there is no such letter, and nothing was done,
    or could not run.
    """
    from engine.dead_letters import discard_each  # noqa: PLC0415 - see engine/cli/__init__.py

    settings = talking(data)
    ids = [each.id for each in _found(settings, letters)]
    if sys.stdin.isatty() and not yes:
        typer.confirm(f"Discard {', '.join(map(str, ids))} for good?", abort=True, err=True)
    _settle(discard_each(settings, ids), as_json=as_json)


def _found(settings: Settings, ids: Sequence[int]) -> list[Letter]:
    """The dead letters with these ids; if one is missing, nothing is done at all."""
    import asyncio  # noqa: PLC0415 - see engine/cli/__init__.py

    from engine.dead_letters import find  # noqa: PLC0415 - see engine/cli/__init__.py

    letters, missing = asyncio.run(find(settings, ids))
    if missing:
        raise refuse(*map(str, missing))
    return letters


def _settle(settlements: AsyncIterator[Settlement], *, as_json: bool) -> None:
    """Print what becomes of letters, each when it is known; exit with 1 if one stays."""
    import asyncio  # noqa: PLC0415 - see engine/cli/__init__.py

    from engine.dead_letters import Outcome  # noqa: PLC0415 - see engine/cli/__init__.py

    async def settle() -> list[Settlement]:
        settled = []
        async for each in settlements:
            if not as_json:
                typer.echo(readable(each))
            settled.append(each)
        return settled

    settled = asyncio.run(settle())
    if as_json:
        print_json({"letters": [each._asdict() for each in settled]})
    elif not settled:
        typer.echo("no dead letters")
    if any(each.outcome is Outcome.STAYS for each in settled):
        raise typer.Exit(FOUND)


def _facts(letter: Letter) -> dict[str, object]:
    """A letter's columns by name."""
    from engine.dead_letters import item_of  # noqa: PLC0415 - see engine/cli/__init__.py

    item = item_of(letter.entry)
    return {
        "id": letter.id,
        "set_aside_at": instant(letter.set_aside_at_ms),
        "event_id": letter.event_id,
        "user_id": item.user_id if item else None,
        "kind": item.kind if item else "poison",
        "reason": letter.reason,
    }


def _print_letters(letters: list[Letter], total: int) -> None:
    short = [each._replace(reason=each.reason.partition("\n")[0]) for each in letters]
    names = ("id", "set aside", "event", "user", "kind", "reason")
    rows = [list(_facts(each).values()) for each in short]
    print_table(names, rows, long=("user", "reason"))
    if total > len(letters):
        typer.echo(f"the newest {len(letters)} of {total}; see --limit", err=True)
