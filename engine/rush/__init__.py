"""``onsale rush``: an on-sale in the terminal, against an API that runs, and the proof of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from engine.errors import Misconfigured
from engine.ledger import Ledger
from engine.model import NewEvent
from engine.rush.crowd import Crowd
from engine.rush.picture import MEDIAN_SHARE, P99_SHARE, draw, share
from engine.rush.proof import Proof, prove
from engine.rush.tokens import tokens

if TYPE_CHECKING:
    from pathlib import Path

    from engine.model import Event
    from engine.settings import Settings

REFRESH_S: Final = 0.25
NAME: Final = "Rush"


class Wanted(NamedTuple):
    """What a person asked for. Without an event, or with one that is not there, one is made."""

    url: str
    event_id: int | None
    users: int
    seats: int
    connections: int
    picture: Path
    key: str
    """Of a service, which the API may ask for; else empty."""


def run(settings: Settings, wanted: Wanted, *, as_json: bool) -> bool:
    """Let a crowd in, show it, and print the proof; whether it holds.

    Raises:
        Misconfigured: the API refuses to serve so many calls.
        Unavailable: the API or the ledger does not answer.
    """
    return asyncio.run(_run(settings, wanted, as_json=as_json))


async def _run(settings: Settings, wanted: Wanted, *, as_json: bool) -> bool:
    _see_that_it_can_be_written(wanted.picture)
    token_of = tokens(settings, wanted.key)
    console = Console(stderr=as_json, highlight=False)
    ledger = Ledger(settings.postgres_dsn, connections=2)
    try:
        event = await _event(ledger, wanted)
        partitions = len(await ledger.partitions())
        crowd = Crowd(wanted.url, event.id, wanted.users, token_of)
        left = await crowd.left()
        console.print(
            f"{event.name} (event {event.id}): {left:,} of {event.total_seats:,} seats left, "
            f"{wanted.users:,} users at {wanted.connections} connections of {wanted.url}",
            markup=False,
        )
        await _show(console, crowd, left, wanted.connections)
        proof = await prove(crowd, ledger, partitions=partitions)
    finally:
        await ledger.close()
    path = _paint(event, crowd, wanted.picture)
    if as_json:
        print(json.dumps(_facts(event, crowd, proof, path)))  # noqa: T201 - what was asked for
    else:
        _print(console, crowd, proof, path)
    return proof.holds


async def _event(ledger: Ledger, wanted: Wanted) -> Event:
    found = await ledger.event(wanted.event_id) if wanted.event_id else None
    if found:
        return found[0]
    (made,) = await ledger.create_events([NewEvent(NAME, wanted.seats)])
    return made


async def _show(console: Console, crowd: Crowd, left: int, connections: int) -> None:
    """Bars, the rate and the latency of the moment, until everybody has his answer."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[more]}", markup=False),
        console=console,
        expand=True,
        refresh_per_second=int(1 / REFRESH_S),
    )
    answered = bars.add_task("answered", total=crowd.users, more="")
    sold = bars.add_task("sold", total=max(left, 0), more="")
    with bars:
        rushing = asyncio.create_task(crowd.rush(connections))
        seen, at_s = 0, asyncio.get_running_loop().time()
        while not rushing.done():
            await asyncio.wait([rushing], timeout=REFRESH_S)
            now_s = asyncio.get_running_loop().time()
            part = crowd.answers[seen:]
            took_ms = sorted(each.took_ms for each in part)
            rate = len(part) / (now_s - at_s)
            more = f"{rate:,.0f}/s, p50 {share(took_ms, MEDIAN_SHARE):.1f} ms"
            bars.update(answered, completed=len(crowd.answers), more=more)
            refused = f"{crowd.counts['sold_out']:,} refused"
            bars.update(sold, completed=len(crowd.told), more=refused)
            seen, at_s = seen + len(part), now_s
        await rushing


def _see_that_it_can_be_written(path: Path) -> None:
    try:
        path.open("ab").close()
    except OSError as error:
        raise Misconfigured(f"the picture cannot be written: {error}") from None


def _paint(event: Event, crowd: Crowd, path: Path) -> str:
    """Write the picture; the name of its file."""
    line = (
        f"{crowd.users:,} users, {event.total_seats:,} seats: {len(crowd.told):,} sold, "
        f"{crowd.counts['sold_out']:,} refused in {crowd.seconds:.1f} s"
    )
    path.write_text(draw(event.name, line, crowd.answers, crowd.seconds), encoding="utf-8")
    return str(path)


def _facts(event: Event, crowd: Crowd, proof: Proof, path: str) -> dict[str, Any]:
    took_ms = sorted(each.took_ms for each in crowd.answers)
    return {
        "event_id": event.id,
        "users": crowd.users,
        "seconds": round(crowd.seconds, 3),
        "a_second": round(len(crowd.answers) / crowd.seconds, 1),
        "p50_ms": round(share(took_ms, MEDIAN_SHARE), 2),
        "p99_ms": round(share(took_ms, P99_SHARE), 2),
        "confirmed": crowd.counts["confirmed"],
        "pending": crowd.counts["pending"],
        "sold_out": crowd.counts["sold_out"],
        "unanswered": len(crowd.unanswered),
        "asked_again": crowd.again,
        **proof._asdict(),
        "oversold": proof.oversold,
        "holds": proof.holds,
        "picture": path,
    }


def _print(console: Console, crowd: Crowd, proof: Proof, path: str) -> None:
    took_ms = sorted(each.took_ms for each in crowd.answers)
    speed = (
        f"{len(crowd.answers) / crowd.seconds:,.0f} a second for {crowd.seconds:.1f} s, "
        f"p50 {share(took_ms, MEDIAN_SHARE):.1f} ms, p99 {share(took_ms, P99_SHARE):.1f} ms"
    )
    rows = [
        ("answers", len(crowd.answers), speed),
        ("told: confirmed", crowd.counts["confirmed"], "201"),
        ("told: pending", crowd.counts["pending"], "202, or found on asking again"),
        ("refused", crowd.counts["sold_out"], "409 sold_out"),
        ("without an answer", len(crowd.unanswered), f"{crowd.again:,} asked again"),
        ("", None, ""),
        ("bookings in the ledger", proof.rows, f"of {proof.total_seats:,} seats"),
        ("left, says the API", proof.left, ""),
        ("oversold", proof.oversold, ""),
        ("told, but not in the ledger", proof.missing, "looked up by user and id"),
        ("in the ledger, but refused", proof.strange, ""),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, count, note in rows:
        table.add_row(name, "" if count is None else f"{count:,}", note)
    console.print(table)
    console.print("It adds up." if proof.holds else "It does not add up.", style="bold")
    console.print(f"Picture: {path}", markup=False, soft_wrap=True)
