"""``onsale bookings …``: who has, and had, which seat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.base import (
    DATA,
    After,
    AsJson,
    DataFolder,
    Limit,
    engine_of,
    group,
    instant,
    print_json,
    print_more,
    print_table,
    refuse,
)
from engine.model import MAX_BOOKING_ID, MAX_EVENT_ID, Page, Place

if TYPE_CHECKING:
    from pathlib import Path

    from engine.model import Booking

app = group("Find bookings.")


@app.command()
def find(  # noqa: PLR0913 - options, by their names
    *,
    user: Annotated[str | None, typer.Option(help="Of this user, the newest first.")] = None,
    event: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_EVENT_ID, help="Of this event, in the order of users."),
    ] = None,
    booking: Annotated[
        int | None, typer.Option("--id", min=1, max=MAX_BOOKING_ID, help="The one with this id.")
    ] = None,
    limit: Limit = 100,
    after: After = "",
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Find the bookings of a user or of an event, in the ledger; or one, wherever it is.

    What is pending is found by its id alone.

    Exits with 0, also if a user or an event has none; 2: there is no such event or booking, or
    could not run.
    """
    if sum(each is not None for each in (user, event, booking)) != 1:
        raise typer.BadParameter("say one of --user, --event and --id")
    if user is not None:
        found = asyncio.run(_of_user(data, user, _place(after), limit))
    elif event is not None:
        found = asyncio.run(_of_event(data, event, after, limit))
    else:
        found = asyncio.run(_one(data, booking or 0))
    rows = [_facts(each) for each in found.rows]
    if as_json:
        print_json({"bookings": rows, "next": found.next})
    else:
        names = ("id", "event", "user", "created", "status", "ended", "reason")
        print_table(names, [list(row.values()) for row in rows], long=("user", "reason"))
        print_more(found.next)


async def _of_user(data: Path, user: str, after: Place | None, limit: int) -> Page[Booking]:
    async with engine_of(data) as engine:
        return await engine.events.bookings_of_user(user, after=after, limit=limit)


async def _of_event(data: Path, event_id: int, after: str, limit: int) -> Page[Booking]:
    async with engine_of(data) as engine:
        found = await engine.events.bookings_of(event_id, after=after, limit=limit)
    if found is None:
        raise refuse(f"there is no event {event_id}")
    return found


async def _one(data: Path, booking: int) -> Page[Booking]:
    async with engine_of(data) as engine:
        found = await engine.booking(booking)
    if found is None:
        raise refuse(f"there is no booking {booking}")
    return Page([found], None)


def _place(after: str) -> Place | None:
    if not after:
        return None
    try:
        return Place.parse(after)
    except ValueError:
        raise typer.BadParameter("--after takes the `next` of an earlier answer") from None


def _facts(found: Booking) -> dict[str, Any]:
    """A booking's columns by name, as HTTP has them; nobody knows those of a lost one."""
    return {
        "id": found.id,
        "event_id": found.event_id or None,
        "user_id": found.user_id or None,
        "created_at": instant(found.created_at_ms or None),
        "status": found.status,
        "ended_at": instant(found.ended_at_ms),
        "reason": found.reason,
    }
