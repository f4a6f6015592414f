"""The command that lets a crowd at an event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from engine.cli.base import DATA, FOUND, AsJson, DataFolder, talking
from engine.model import MAX_EVENT_ID

if TYPE_CHECKING:
    from engine.settings import Settings

PICTURE: Final = Path("rush.svg")


def rush(  # noqa: PLR0913 - what a person may choose
    *,
    event: Annotated[
        int | None, typer.Argument(min=1, max=MAX_EVENT_ID, help="Id; none, or no such: a new one.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, max=1_000_000, help="Who want a seat.")] = 50_000,
    seats: Annotated[
        int, typer.Option(min=1, max=MAX_EVENT_ID, help="Of the event, if it is made.")
    ] = 1000,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="Kept to the API.")] = 64,
    url: Annotated[
        str | None, typer.Option(help="Address of the API; else that of `onsale up`, or PORT's.")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="ONSALE_TOKEN", help="Service key to show, where AUTH=token.")
    ] = "",
    picture: Annotated[Path, typer.Option(help="File for the picture, an SVG.")] = PICTURE,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Let a crowd at an event of the running API, and prove from the ledger that it adds up.

    The API must let one address make that many calls: RATE_LIMIT_MAX=0. Where AUTH=jwt, each
    user's token is signed with JWT_SECRET.

    Exits with 0: it adds up; 1: it does not; 2: could not run.
    """
    from engine import rush as rushes  # noqa: PLC0415 - see engine/cli/__init__.py

    settings = talking(data)
    wanted = rushes.Wanted(
        url or _api_url(settings, data), event, users, seats, connections, picture, token.strip()
    )
    if not rushes.run(settings, wanted, as_json=as_json):
        raise typer.Exit(FOUND)


def _api_url(settings: Settings, data: Path) -> str:
    """Where the API of the ``onsale up`` on this folder is, or where the settings have it."""
    from engine.up import STATE_FILE  # noqa: PLC0415 - see engine/cli/__init__.py

    try:
        state: dict[str, str] = json.loads((data / STATE_FILE).read_text())
    except FileNotFoundError:
        return f"http://{settings.host}:{settings.port}"
    return state["api"]
