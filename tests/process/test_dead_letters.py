"""``onsale dead-letters``: what an operator types, what it prints, and what callers read then."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pty
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.world import Sale

NONE = "no dead letters\n"


async def dead_letters(sale: Sale, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a sub-command, not on a terminal."""
    done = await asyncio.to_thread(sale.onsale, "dead-letters", *args)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def named(sale: Sale, **more: str) -> dict[str, str]:
    """The environment of a command against this sale."""
    return world.environment(
        DATABASE_URL=sale.database_url,
        REDIS_URL=sale.redis_url,
        PARTITIONS=str(sale.partitions),
        **more,
    )


def on_a_terminal(sale: Sale, *args: str, typed: str = "") -> tuple[int, str]:
    """Run a sub-command on a terminal, and type; its exit code and what the terminal shows."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "engine.cli", "dead-letters", *args]
    env = named(sale, TERM="dumb")
    with subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        with suppress(OSError):  # how a terminal says that nobody is left
            while read := os.read(ours, 4096):
                shown += read
    os.close(ours)
    return process.returncode, shown.decode().replace("\r\n", "\n")


@asynccontextmanager
async def refusing(sale: Sale, user: str) -> AsyncIterator[None]:
    """Within, the ledger refuses a user; a person's mistake, that a person removes."""
    check = f"CHECK (user_id <> '{user}') NOT VALID"
    await sale.sql(f"ALTER TABLE bookings ADD CONSTRAINT no_{user} {check}")
    try:
        yield
    finally:
        await sale.sql(f"ALTER TABLE bookings DROP CONSTRAINT no_{user}")


async def set_aside(sale: Sale, event_id: int, user: str) -> int:
    """The id of a booking that became a dead letter."""
    async with refusing(sale, user), sale.caller() as caller:
        before = await caller.available(event_id)
        made = await caller.reserve(event_id, user, prefer="respond-async")
        assert made.status == 202
        booking: int = made.body["id"]

        async def is_dead() -> bool:
            statement = "SELECT 1 FROM ended_bookings WHERE id = $1 AND outcome = 'dead'"
            return bool(await sale.sql(statement, booking))

        async def is_given_back() -> bool:
            return await caller.available(event_id) == before

        await world.until(is_dead)
        await world.until(is_given_back)
    return booking


async def poison(sale: Sale) -> int:
    """The id of a letter that no script wrote."""
    async with sale.redis() as redis:
        epoch = await redis.hget("onsale:{1}:log", "epoch")
        seq = await redis.hincrby("onsale:{1}:log", "seq", 1)
        await redis.xadd("onsale:{1}:outbox", {"by": "hand"}, f"{epoch}-{seq}")
    await world.until(sale.is_drained)
    statement = "SELECT id FROM ended_bookings WHERE outcome = 'dead' AND id & 127 = 127"
    booking: int = (await sale.sql(statement))[0]["id"]
    return booking


async def reads(sale: Sale, booking: int) -> tuple[int, str]:
    """What a caller is told of a booking: the HTTP status, and its status or code."""
    async with sale.caller() as caller:
        answer = await caller.read(booking)
    return answer.status, answer.body.get("code") or answer.body["status"]


async def listed(sale: Sale, *options: str) -> Any:
    """The list, as programs get it."""
    return json.loads((await dead_letters(sale, "list", "--json", *options)).stdout)


async def test_from_a_mistake_to_a_booking(sale: Sale) -> None:
    """A letter is listed, shown and replayed; its caller reads the booking he was promised."""
    assert (await dead_letters(sale, "list")).stdout == NONE
    event_id = await sale.open_event(5)
    booking = await set_aside(sale, event_id, "ann")
    assert await reads(sale, booking) == (410, "booking_rejected")

    listing = await dead_letters(sale, "list")
    assert listing.returncode == 0
    header, line = listing.stdout.splitlines()
    assert header.split("\t") == ["id", "set aside", "event", "user", "kind", "reason"]
    cells = line.split("\t")
    assert [cells[0], *cells[2:5]] == [str(booking), str(event_id), "ann", "reserve"]
    assert cells[5].endswith('violates check constraint "no_ann"')

    shown = await dead_letters(sale, "show", str(booking))
    assert shown.returncode == 0
    facts = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert '"no_ann" DETAIL:' in facts["reason"]
    assert json.loads(facts["entry"])["user_id"] == "ann"
    assert facts["replay"] == "would be confirmed, unless Postgres refuses it again"

    done = await dead_letters(sale, "replay", str(booking))
    assert (done.returncode, done.stdout) == (0, f"{booking}: confirmed\n")
    assert "dead_letter_replayed" in done.stderr
    assert await reads(sale, booking) == (200, "confirmed")
    assert (await dead_letters(sale, "list")).stdout == NONE
    await sale.count_seats()

    again = await dead_letters(sale, "replay", str(booking))
    said = f"onsale: {booking} is no dead letter: that booking is confirmed\n"
    assert (again.returncode, again.stdout, again.stderr) == (2, "", said)


async def test_programs_get_json(sale: Sale) -> None:
    """The newest first, the entry as what it is, and never more than are asked for."""
    event_id = await sale.open_event(5)
    ann, bob = [await set_aside(sale, event_id, user) for user in ("ann", "bob")]
    both = await listed(sale)
    assert (both["total"], [each["id"] for each in both["letters"]]) == (2, [bob, ann])
    newest = both["letters"][0]
    assert (newest["event_id"], newest["user_id"], newest["kind"]) == (event_id, "bob", "reserve")
    assert await listed(sale, "--limit", "1") == {"total": 2, "letters": [newest]}
    assert "the newest 1 of 2" in (await dead_letters(sale, "list", "--limit", "1")).stderr
    shown = json.loads((await dead_letters(sale, "show", "--json", str(bob))).stdout)
    assert {name: shown[name] for name in newest} == newest
    assert (shown["entry"]["event_id"], shown["entry"]["user_id"]) == (event_id, "bob")
    assert shown["replay"].startswith("would be confirmed")
    assert (await dead_letters(sale, "replay", "--all")).returncode == 0
    await sale.count_seats()


async def test_all_of_them_and_one_stays(sale: Sale) -> None:
    """The oldest first, each on its own; what cannot be replayed is said, with exit code 1."""
    event_id = await sale.open_event(1)
    ann, bob = [await set_aside(sale, event_id, user) for user in ("ann", "bob")]
    odd = await poison(sale)
    done = await dead_letters(sale, "replay", "--all")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{ann}: confirmed",
        f"{bob}: refused: sold_out",
        f"{odd}: stays a dead letter: no script wrote it",
    ]
    assert await reads(sale, ann) == (200, "confirmed")
    assert await reads(sale, bob) == (410, "booking_rejected")
    assert [each["id"] for each in (await listed(sale))["letters"]] == [odd]
    shown = await dead_letters(sale, "show", str(odd))
    assert shown.stdout.endswith("cannot be replayed: no script wrote it\n")
    done = await dead_letters(sale, "discard", "--yes", str(odd))
    assert (done.returncode, done.stdout) == (0, f"{odd}: discarded\n")
    assert "by" in done.stderr
    done = await dead_letters(sale, "replay", "--all")
    assert (done.returncode, done.stdout) == (0, NONE)
    await sale.count_seats()


async def test_what_the_ledger_still_refuses(sale: Sale) -> None:
    """The reason is printed, and everything stays as it was."""
    event_id = await sale.open_event(5)
    booking = await set_aside(sale, event_id, "ann")
    before = await listed(sale)
    async with refusing(sale, "ann"):
        done = await dead_letters(sale, "replay", str(booking))
    assert done.returncode == 1
    assert done.stdout.startswith(f"{booking}: stays a dead letter: the ledger still refuses it")
    assert '"no_ann"' in done.stdout
    assert await listed(sale) == before
    assert (await dead_letters(sale, "discard", str(booking))).returncode == 0
    assert await reads(sale, booking) == (410, "booking_rejected")
    await sale.count_seats()


async def test_an_id_that_is_no_letter(sale: Sale) -> None:
    """It is named, and nothing is done, neither to it nor to the others."""
    event_id = await sale.open_event(5)
    booking = await set_aside(sale, event_id, "ann")
    before = await sale.digest()
    for command in ("replay", "discard"):
        done = await dead_letters(sale, command, str(booking), "77")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "onsale: there is no dead letter 77\n"
    done = await dead_letters(sale, "show", "77")
    assert (done.returncode, done.stderr) == (2, "onsale: there is no dead letter 77\n")
    assert (await dead_letters(sale, "replay")).returncode == 2
    assert (await dead_letters(sale, "replay", "--all", str(booking))).returncode == 2
    assert await sale.digest() == before
    assert (await dead_letters(sale, "discard", str(booking))).returncode == 0


async def test_on_a_terminal(sale: Sale) -> None:
    """A table; and nothing is discarded without a yes."""
    assert on_a_terminal(sale, "list") == (0, NONE)
    event_id = await sale.open_event(5)
    booking = await set_aside(sale, event_id, "ann")
    code, shown = on_a_terminal(sale, "list")
    title, row, *_ = shown.splitlines()
    assert code == 0
    assert title.split() == ["id", "set", "aside", "event", "user", "kind", "reason"]
    assert row.startswith(f"{booking} ")
    assert row[title.index("event") :].startswith(f"{event_id} ")
    assert row[title.index("kind") :].startswith("reserve ")

    code, shown = on_a_terminal(sale, "discard", str(booking), typed="n\n")
    assert f"Discard {booking} for good?" in shown
    assert code == 1
    assert (await listed(sale))["total"] == 1
    code, shown = on_a_terminal(sale, "discard", str(booking), typed="y\n")
    assert f"{booking}: discarded" in shown
    assert code == 0
    booking = await set_aside(sale, event_id, "ann")
    code, shown = on_a_terminal(sale, "discard", "--yes", str(booking))
    assert "for good?" not in shown
    assert code == 0


async def test_a_user_cannot_write_on_the_terminal(sale: Sale) -> None:
    """What he calls himself is escaped."""
    event_id = await sale.open_event(5)
    async with sale.redis() as redis:
        p = event_id % sale.partitions
        log = f"onsale:{{{p}}}:log"
        number = f"{await redis.hget(log, 'epoch')}-{await redis.hincrby(log, 'seq', 1)}"
        users = json.dumps(["\x1b[2J\n" + "x" * 255])
        entry = {"kind": "reserve", "event": event_id, "at": 1, "users": users}
        await redis.xadd(f"onsale:{{{p}}}:outbox", entry, number)
    await world.until(sale.is_drained)
    ((booking,),) = await sale.sql("SELECT id FROM ended_bookings WHERE outcome = 'dead'")
    for command in (["list"], ["show", str(booking)], ["replay", str(booking)]):
        done = await dead_letters(sale, *command)
        assert "\x1b" not in done.stdout
    assert done.returncode == 1
    assert (await dead_letters(sale, "discard", str(booking))).returncode == 0


async def test_is_counted_where_the_others_count(sale: Sale) -> None:
    """With the folder that the API reads, its metrics have it."""
    folder = os.path.join(sale._data, "metrics")  # noqa: SLF001, PTH118 - where onsale up counts
    booking = await set_aside(sale, await sale.open_event(5), "ann")
    env = named(sale, PROMETHEUS_MULTIPROC_DIR=folder)
    argv = [sys.executable, "-m", "engine.cli", "dead-letters", "replay", str(booking)]
    await asyncio.to_thread(subprocess.run, argv, env=env, check=True, capture_output=True)
    reader, writer = await asyncio.open_connection(*sale.api.removeprefix("http://").split(":"))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: onsale\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    assert 'onsale_dead_letters_settled_total{outcome="confirmed"} 1.0\n' in text


async def test_without_a_server(sale: Sale) -> None:
    """It says so in one line and exits with 2; the list needs no Redis."""
    booking = await set_aside(sale, await sale.open_event(5), "ann")
    elsewhere = copy.copy(sale)
    elsewhere.redis_url = "redis://127.0.0.1:1/0"
    assert (await dead_letters(elsewhere, "list")).returncode == 0
    assert "Redis does not answer" in (await dead_letters(elsewhere, "show", str(booking))).stdout
    done = await dead_letters(elsewhere, "replay", str(booking))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    elsewhere.database_url = "postgresql://onsale@127.0.0.1:1/onsale"
    for command in (["list"], ["show", "1"], ["replay", "--all"], ["discard", "1"]):
        done = await dead_letters(elsewhere, *command)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
    assert (await dead_letters(sale, "replay", str(booking))).returncode == 0
    await sale.count_seats()
