"""``onsale events …``: events listed, made and changed."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import time
from datetime import datetime
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from engine.cli.base import (
    DATA,
    FOUND,
    MOST,
    After,
    AsJson,
    DataFolder,
    Limit,
    engine_of,
    group,
    instant,
    print_facts,
    print_json,
    print_more,
    print_table,
    refuse,
)
from engine.model import MAX_EVENT_ID, MAX_MS, MAX_SEATS, NewEvent, Word, fault_in_event

if TYPE_CHECKING:
    from engine.model import Availability, Event, EventChange, Page

HEADER: Final = ["name", "total_seats"]
_SEATS: Final = re.compile(r"[0-9]{1,10}")

EventId = Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_EVENT_ID)]
Seats = Annotated[int, typer.Argument(metavar="SEATS", min=0, max=MAX_SEATS)]

At = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z"], help="As 2026-12-01T10:00Z."),
]

app = group("List events, make them, and change how many seats they have.")


@app.command("list")
def list_events(
    *,
    limit: Limit = 100,
    after: After = "",
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """List events with the seats that are left, in the order of their ids.

    Exits with 0, also if there are none; 2: could not run.
    """
    if not re.fullmatch(r"[0-9]{0,10}", after) or int(after or 0) > MAX_EVENT_ID:
        raise typer.BadParameter("--after takes the id of an event")

    async def page() -> Page[Availability]:
        async with engine_of(data) as engine:
            return await engine.events.page(after=int(after or 0), limit=limit)

    found = asyncio.run(page())
    rows = [_facts(each) for each in found.rows]
    if as_json:
        print_json({"events": rows, "next": found.next})
    else:
        names = ("id", "name", "seats", "opens at", "closes at", "left", "source")
        print_table(names, [list(row.values()) for row in rows], long=("name",))
        print_more(found.next)


@app.command()
def show(event_id: EventId, *, as_json: AsJson = False, data: DataFolder = DATA) -> None:
    """Print one event with the seats that are left.

    Exits with 0; 2: there is no such event, or could not run.
    """

    async def one() -> Availability | None:
        async with engine_of(data) as engine:
            return await engine.events.one(event_id)

    found = asyncio.run(one())
    if found is None:
        raise refuse(f"there is no event {event_id}")
    (print_json if as_json else print_facts)(_facts(found))


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    seats: Seats,
    *,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Make an event; it can be booked at once.

    Exits with 0; 2: could not run.
    """
    if fault := fault_in_event(name, seats):
        raise typer.BadParameter(fault)
    (made,) = asyncio.run(_create(data, [NewEvent(name, seats)]))
    (print_json if as_json else print_facts)(_event(made))


@app.command("set-seats")
def set_seats(
    event_id: EventId, seats: Seats, *, as_json: AsJson = False, data: DataFolder = DATA
) -> None:
    """Change how many seats an event has; never below what is booked.

    Exits with 0; 1: it has more bookings than that; 2: there is no such event, or could not run.
    """
    changed = _change(data, event_id, total_seats=seats)
    (print_json if as_json else print_facts)(changed)


@app.command("open")
def open_event(
    event_id: EventId, *, at: At = None, as_json: AsJson = False, data: DataFolder = DATA
) -> None:
    """Sell an event from now on, or from an instant on, and without an end.

    Exits with 0; 2: there is no such event, or could not run.
    """
    opened = _change(data, event_id, opens_ms=_ms(at) if at else None, closes_ms=None)
    (print_json if as_json else print_facts)(opened)


@app.command("close")
def close_event(
    event_id: EventId, *, at: At = None, as_json: AsJson = False, data: DataFolder = DATA
) -> None:
    """Sell an event no more, or not from an instant on. Bookings stay, and can be given back.

    Exits with 0; 1: it would close before it opens; 2: there is no such event, or could not run.
    """
    closed = _change(data, event_id, closes_ms=_ms(at) if at else time.time_ns() // 1_000_000)
    (print_json if as_json else print_facts)(closed)


@app.command("import")
def import_events(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", exists=True, dir_okay=False)],
    *,
    as_json: AsJson = False,
    data: DataFolder = DATA,
) -> None:
    """Make the events of a file: all of them, or none.

    It is CSV in UTF-8, at most 10,000 events, under the header `name,total_seats`.

    Exits with 0; 2: lines that cannot be read, which are named, or could not run.
    """
    wanted, faults = read(file)
    if faults:
        raise refuse(*(f"{file}:{fault}" for fault in faults))
    made = asyncio.run(_create(data, wanted)) if wanted else []
    if as_json:
        print_json({"events": [_event(each) for each in made]})
    else:
        print_table(("id", "name", "seats"), [each[:3] for each in made], long=("name",))


def read(file: Path) -> tuple[list[NewEvent], list[str]]:
    """The events of a file; and what is wrong with it, each fault with its line in front."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return [], [f"{line}: not UTF-8"]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    wanted: list[NewEvent] = []
    faults: list[str] = []
    try:
        if next(reader, []) != HEADER:
            return [], [f"1: the header must be {','.join(HEADER)}"]
        for row in filter(None, reader):
            if fault := _fault(row):
                faults.append(f"{reader.line_num}: {fault}")
            elif len(wanted) == MOST:
                return [], [f"{reader.line_num}: more than {MOST} events"]
            else:
                wanted.append(NewEvent(row[0], int(row[1])))
    except csv.Error as error:
        faults.append(f"{reader.line_num}: {error}")
    return wanted, faults


def _fault(row: list[str]) -> str | None:
    """What is wrong with a row."""
    if len(row) != len(HEADER):
        return f"{len(row)} fields, not {len(HEADER)}"
    if not _SEATS.fullmatch(row[1]):
        return f"total_seats must be an integer from 0 to {MAX_SEATS}"
    return fault_in_event(row[0], int(row[1]))


async def _create(data: Path, wanted: list[NewEvent]) -> list[Event]:
    async with engine_of(data) as engine:
        return await engine.events.create(*wanted)


def _change(data: Path, event_id: int, **changes: Any) -> dict[str, Any]:
    """Change an event; its columns as they are now."""

    async def change() -> EventChange:
        async with engine_of(data) as engine:
            return await engine.events.change(event_id, **changes)

    event, booked, refusal = asyncio.run(change())
    if event is None:
        raise refuse(f"there is no event {event_id}")
    if refusal:
        below = refusal is Word.BELOW_BOOKED
        reason = f"the ledger has {booked} bookings of it" if below else "it would not open first"
        typer.echo(f"onsale: {reason}", err=True)
        raise typer.Exit(FOUND)
    return _event(event)


def _ms(at: datetime) -> int:
    """Unix milliseconds, within what the ledger can hold, as in HTTP."""
    return min(max(round(at.timestamp() * 1000), 0), MAX_MS)


def _event(event: Event) -> dict[str, Any]:
    """An event's own columns by name, as HTTP has them."""
    return {
        "id": event.id,
        "name": event.name,
        "total_seats": event.total_seats,
        "opens_at": instant(event.window.opens_ms),
        "closes_at": instant(event.window.closes_ms),
    }


def _facts(found: Availability) -> dict[str, Any]:
    """An event's columns by name, as HTTP has them."""
    return {
        **_event(found.event),
        "available_seats": found.available_seats,
        "source": found.source,
    }
