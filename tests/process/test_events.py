"""``onsale events`` and ``onsale bookings``: what is typed, what it prints, what callers see."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from engine.cli.events import read
from tests import world

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.world import Sale


async def onsale(sale: Sale, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a command, not on a terminal."""
    done = await asyncio.to_thread(sale.onsale, *map(str, args))
    assert "Traceback" not in done.stderr, done.stderr
    return done


async def told(sale: Sale, *args: object) -> Any:
    """What a command prints for programs."""
    done = await onsale(sale, *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def confirmed(sale: Sale, event_id: int, user: str) -> Any:
    """A booking that is in the ledger."""
    async with sale.caller() as caller:
        made = await caller.reserve(event_id, user)
    assert made.status == 201, made.body
    return made.body


async def test_an_event_from_its_making_to_its_list(sale: Sale) -> None:
    """Made, shown, booked, listed, changed: callers and commands see the same."""
    made = await told(sale, "events", "create", "Премьера", 3)
    event_id = made["id"]
    always = {"opens_at": None, "closes_at": None}
    assert made == {"id": event_id, "name": "Премьера", "total_seats": 3, **always}
    cold = {**made, "available_seats": 3, "source": "ledger"}
    assert await told(sale, "events", "show", event_id) == cold
    await confirmed(sale, event_id, "ann")
    warm = {**made, "available_seats": 2, "source": "redis"}
    assert await told(sale, "events", "show", event_id) == warm
    listed = await told(sale, "events", "list", "--after", event_id - 1)
    assert listed == {"events": [warm], "next": None}

    changed = await told(sale, "events", "set-seats", event_id, 1)
    assert changed == {**made, "total_seats": 1}

    async def is_sold_out() -> bool:
        async with sale.caller() as caller:
            return await caller.available(event_id) == 0

    await world.until(is_sold_out)


async def test_pages_of_events(sale: Sale) -> None:
    """``--after`` takes the ``next`` of an earlier answer."""
    ids = [await sale.open_event(1) for _ in range(3)]
    first = await told(sale, "events", "list", "--limit", 2, "--after", ids[0] - 1)
    assert [event["id"] for event in first["events"]] == ids[:2]
    rest = await told(sale, "events", "list", "--after", first["next"])
    assert ([event["id"] for event in rest["events"]], rest["next"]) == (ids[2:], None)
    plain = await onsale(sale, "events", "list", "--limit", 1, "--after", ids[0] - 1)
    header, row = plain.stdout.splitlines()
    assert header.split("\t") == ["id", "name", "seats", "opens at", "closes at", "left", "source"]
    assert row.split("\t") == [str(ids[0]), "Чайка", "1", "", "", "1", "ledger"]
    assert plain.stderr == f"there is more: --after '{ids[0]}'\n"


async def test_seats_below_what_is_booked(sale: Sale) -> None:
    """Refused, and the event stays as it was: exit code 1."""
    event_id = await sale.open_event(3)
    for user in ("ann", "bob"):
        await confirmed(sale, event_id, user)
    done = await onsale(sale, "events", "set-seats", event_id, 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "onsale: the ledger has 2 bookings of it\n"
    assert (await told(sale, "events", "show", event_id))["total_seats"] == 3


@pytest.mark.parametrize(
    "args",
    [
        ("events", "show", 2**31 - 1),
        ("events", "set-seats", 2**31 - 1, 1),
        ("events", "create", "two\nlines", 1),
        ("events", "list", "--after", "x"),
        ("events", "list", "--after", 2**31),
        ("reconcile", 2**31),
        ("bookings", "find", "--user", "not UTF-8: \udcff"),
        ("bookings", "find"),
        ("bookings", "find", "--user", "ann", "--event", 1),
        ("bookings", "find", "--event", 2**31 - 1),
        ("bookings", "find", "--id", 2**40),
    ],
    ids=lambda args: " ".join(map(str, args)),
)  # fmt: skip
async def test_what_cannot_be_done(sale: Sale, args: tuple[object, ...]) -> None:
    """Exit code 2, a reason on standard error, and nothing on standard output."""
    done = await onsale(sale, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


async def test_import(sale: Sale, tmp_path: Path) -> None:
    """The events of a file, in its order; what a spreadsheet writes is read."""
    file = tmp_path / "season.csv"
    text = '\ufeffname,total_seats\r\n"Чайка, act one",100\r\n\r\nThe ""little"" hall,2\r\n'
    file.write_text(text, encoding="utf-8", newline="")
    made = (await told(sale, "events", "import", file))["events"]
    assert [(each["name"], each["total_seats"]) for each in made] == [
        ("Чайка, act one", 100),
        ('The ""little"" hall', 2),
    ]
    assert made[1]["id"] == made[0]["id"] + 1
    rows = await sale.sql("SELECT name FROM events WHERE id = $1", made[0]["id"])
    assert rows[0]["name"] == "Чайка, act one"


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (b"", ["1: the header must be"]),
        (b"title,seats\nx,1\n", ["1: the header must be"]),
        (b"name,total_seats\nx\n", ["2: 1 fields, not 2"]),
        (b"name,total_seats\nx,1,\n", ["2: 3 fields, not 2"]),
        (b"name,total_seats\nx,many\ny,1\nz,-1\n", ["2: total_seats", "4: total_seats"]),
        (b"name,total_seats\n,1\n", ["2: a name is"]),
        (b"name,total_seats\nx,2147483648\n", ["2: total_seats"]),
        (b"name,total_seats\nx,1\n\xff,1\n", ["3: not UTF-8"]),
        (b'name,total_seats\nx,1\n"y"z,1\n', ["3: "]),
        (b'name,total_seats\n"x\ny",1\n', ["3: a name is"]),
        (b"name,total_seats\n" + b"x,1\n" * 10_001, ["10002: more than 10000"]),
    ],
)
def test_lines_that_cannot_be_read(tmp_path: Path, content: bytes, faults: list[str]) -> None:
    """Each is named, with what is wrong with it."""
    file = tmp_path / "season.csv"
    file.write_bytes(content)
    _, found = read(file)
    assert len(found) == len(faults)
    assert all(map(str.startswith, found, faults))


async def test_import_is_whole_or_not_at_all(sale: Sale, tmp_path: Path) -> None:
    """With one bad line in the file, no event is made."""
    before = await sale.sql("SELECT count(*) FROM events")
    file = tmp_path / "season.csv"
    file.write_text("name,total_seats\nx,1\ny,many\n")
    done = await onsale(sale, "events", "import", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"onsale: {file}:3: total_seats must be")
    assert await sale.sql("SELECT count(*) FROM events") == before


async def test_bookings(sale: Sale) -> None:
    """Of a user, of an event, by id: the same rows, which are those that callers read."""
    event_id = await sale.open_event(3)
    user = f"finder {event_id}"
    made = await confirmed(sale, event_id, user)
    row = {**made, "ended_at": None, "reason": None}
    for by in (("--user", user), ("--event", event_id), ("--id", made["id"])):
        assert await told(sale, "bookings", "find", *by) == {"bookings": [row], "next": None}
    plain = await onsale(sale, "bookings", "find", "--id", made["id"])
    assert plain.stdout.splitlines()[1].split("\t")[:3] == [str(made["id"]), str(event_id), user]

    async with sale.caller() as caller:
        assert (await caller.cancel(made["id"])).status == 200
    (ended,) = (await told(sale, "bookings", "find", "--user", user))["bookings"]
    assert ended["status"] == "cancelled"
    assert ended["ended_at"] >= made["created_at"]
    assert (await told(sale, "bookings", "find", "--event", event_id))["bookings"] == []


async def test_an_event_is_opened_and_closed(sale: Sale) -> None:
    """From an instant on, or from now; who comes at another time is told so."""
    event_id = (await told(sale, "events", "create", "Премьера", 9999))["id"]
    others = count()

    async def answers(code: str) -> bool:
        async with sale.caller() as caller:
            body = (await caller.reserve(event_id, "ann")).body
        return bool(body.get("code", body["status"]) == code)

    opened = await told(sale, "events", "open", event_id, "--at", "2999-01-01T03:00+03:00")
    assert (opened["opens_at"], opened["closes_at"]) == ("2999-01-01T00:00:00.000Z", None)
    await world.until(lambda: answers("not_open"))
    too_soon = await onsale(sale, "events", "close", event_id)
    assert (too_soon.returncode, too_soon.stdout) == (1, "")
    assert (await told(sale, "events", "open", event_id))["opens_at"] is None
    await world.until(lambda: answers("confirmed"))
    assert (await told(sale, "events", "close", event_id))["closes_at"] is not None

    async def is_closed() -> bool:
        async with sale.caller() as caller:
            answer = await caller.reserve(event_id, f"user {next(others)}")
        return bool(answer.body.get("code") == "closed")

    await world.until(is_closed)
    for at, kept in (
        ("1960-01-01T00:00Z", "1970-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59-1400", "9999-12-31T23:59:59.999Z"),
    ):
        assert (await told(sale, "events", "close", event_id, "--at", at))["closes_at"] == kept
