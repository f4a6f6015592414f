"""``onsale rush``: what it prints of a real sale, and that it tells a sale that does not add up."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import Misconfigured
from engine.rush.crowd import Answered
from engine.rush.picture import columns, draw
from engine.rush.proof import Proof
from engine.rush.tokens import tokens
from engine.settings import Settings
from tests import world

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.world import Sale


async def rush(sale: Sale, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run it against this sale."""
    picture = str(folder / "rush.svg")
    fixed = ("--url", sale.api, "--picture", picture)
    done = await asyncio.to_thread(sale.onsale, "rush", *fixed, *args)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What it says as JSON."""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_sells_out(sale: Sale, tmp_path: Path) -> None:
    """More users than seats: every seat is sold once, the rest is refused, and a picture drawn."""
    done = await rush(sale, tmp_path, "--users", "3000", "--seats", "500", "--json")
    assert done.returncode == 0, done
    said = facts(done)
    assert (said["confirmed"] + said["pending"], said["sold_out"]) == (500, 2500)
    assert (said["rows"], said["left"], said["oversold"]) == (500, 0, 0)
    assert (said["missing"], said["strange"], said["unanswered"]) == (0, 0, 0)
    assert said["holds"]
    rows = await sale.sql("SELECT id FROM bookings WHERE event_id = $1", said["event_id"])
    assert len(rows) == 500
    assert ET.parse(said["picture"]).getroot().tag.endswith("svg")  # noqa: S314 - it is ours
    await sale.count_seats()


async def test_event_that_is_there(sale: Sale, tmp_path: Path) -> None:
    """An event that exists is sold as it is, also what others have left of it; in words."""
    event_id = await sale.open_event(30, name="Чайка")
    async with sale.caller() as caller:
        await caller.reserve(event_id, "ann")
    done = await rush(sale, tmp_path, str(event_id), "--users", "20", "--connections", "4")
    assert done.returncode == 0, done
    assert f"Чайка (event {event_id}): 29 of 30 seats left" in done.stdout
    assert "It adds up." in done.stdout
    assert str(tmp_path / "rush.svg") in done.stdout.replace("\n", "")
    await sale.count_seats()


async def test_event_that_is_not_there(sale: Sale, tmp_path: Path) -> None:
    """For an event that does not exist, one is made."""
    args = (str(2**31 - 1), "--users", "5", "--seats", "7", "--json")
    said = facts(await rush(sale, tmp_path, *args))
    assert said["total_seats"] == 7
    assert said["event_id"] < 2**31 - 1
    await sale.count_seats()


async def test_redis_is_away_for_a_moment(sale: Sale, tmp_path: Path) -> None:
    """Who is told 503 asks again, and it adds up all the same."""
    event_id = await sale.open_event(15_000)
    args = (str(event_id), "--users", "20000", "--connections", "16", "--json")
    with sale.stopped("worker"):
        rushing = asyncio.create_task(rush(sale, tmp_path, *args))

        async def nobody_waits_for_the_ledger() -> bool:
            async with sale.caller() as caller:
                return await caller.available(event_id) < 15_000 - 4 * 16

        await world.until(nobody_waits_for_the_ledger)
        sale.kill("redis")
    done = await rushing
    said = facts(done)
    assert done.returncode == 0, said
    assert said["asked_again"] > 0
    await sale.count_seats()


async def test_does_not_add_up(sale: Sale, tmp_path: Path) -> None:
    """A booking that was told and is not in the ledger is found: exit code 1."""
    event_id = await sale.open_event(100)
    await sale.sql(
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN DELETE FROM bookings WHERE event_id = (SELECT max(id) FROM events) "
        "AND user_id LIKE 'rush-%-7'; RETURN NULL; END $$"
    )
    await sale.sql(
        "CREATE TRIGGER lose AFTER INSERT ON bookings FOR EACH STATEMENT EXECUTE FUNCTION lose()"
    )
    try:
        done = await rush(sale, tmp_path, str(event_id), "--users", "50", "--json")
    finally:
        await sale.sql("DROP FUNCTION lose CASCADE")
    assert done.returncode == 1, done
    said = facts(done)
    assert (said["missing"], said["holds"]) == (1, False)
    await sale.count_seats()


async def test_no_api(sale: Sale, tmp_path: Path) -> None:
    """An API that is not there, or is none: one line, and exit code 2."""
    hello = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(hello)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1") as server:
        other = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for url in (
            *("http://127.0.0.1:1", "https://127.0.0.1", "nowhere", "http://127.0.0.1:x"),
            *("http://127.0.0.1:65536", "http://[::1", other),
        ):
            done = await asyncio.to_thread(
                sale.onsale, "rush", "--url", url, "--picture", str(tmp_path / "rush.svg")
            )
            assert done.returncode == 2, done
            assert done.stderr.startswith("onsale: ")


async def test_picture_that_cannot_be_written(sale: Sale, tmp_path: Path) -> None:
    """It is said before anybody books."""
    events = await sale.sql("SELECT count(*) FROM events")
    nowhere = str(tmp_path / "nowhere" / "rush.svg")
    done = await asyncio.to_thread(sale.onsale, "rush", "--url", sale.api, "--picture", nowhere)
    assert done.returncode == 2
    assert "picture" in done.stderr
    assert await sale.sql("SELECT count(*) FROM events") == events


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sale]:
    """A sale with the rate limit that is on by default."""
    with world.sale(tmp_path_factory.mktemp("limited"), rate_limit_max=100) as running:
        yield running


async def test_rate_limit(limited: Sale, tmp_path: Path) -> None:
    """An API that lets an address make few calls: it is said how that is changed."""
    done = await rush(limited, tmp_path, "--users", "1000")
    assert done.returncode == 2
    assert "RATE_LIMIT_MAX=0" in done.stderr
    await limited.count_seats()


@pytest.mark.parametrize(
    "auth", [{"AUTH": "token"}, {"AUTH": "jwt", "JWT_SECRET": "s" * 32, "JWT_AUDIENCE": "sale"}]
)
async def test_where_callers_are_known(auth: dict[str, str], tmp_path: Path) -> None:
    """It shows a key, or signs a token for each user; without, it says what it needs."""
    fixed = ("rush", "--users", "20", "--seats", "7", "--picture", str(tmp_path / "rush.svg"))
    with world.sale(tmp_path, api_workers=1, **auth) as sale:
        fixed = (*fixed, "--url", sale.api)
        stranger = sale.onsale(*fixed)
        assert stranger.returncode == 2
        assert "ONSALE_TOKEN" in stranger.stderr
        scopes = ("--scope", "reserve", "--scope", "read")
        key = sale.onsale("keys", "create", "crowd", *scopes).stdout.strip()
        if auth["AUTH"] == "token":
            await world.until(lambda: _is_known(sale, key))
        done = sale.onsale(*fixed, "--json", **auth, ONSALE_TOKEN=key)
        assert done.returncode == 0, done
        assert (facts(done)["rows"], facts(done)["sold_out"]) == (7, 13)
        await sale.count_seats()


async def _is_known(sale: Sale, key: str) -> bool:
    async with sale.caller() as caller:
        answer = await caller.call("GET", "/api/events", authorization=f"Bearer {key}")
    return answer.status == 200


def test_nobody_can_sign_with_a_public_key() -> None:
    """Then it is said at once."""
    with pytest.raises(Misconfigured, match="JWT_SECRET"):
        tokens(Settings(_env_file=None, auth="jwt", jwt_public_key_file="key.pem"), "")


def _proof(**other: int) -> Proof:
    whole = {"total_seats": 10, "left": 2, "booked": 8, "rows": 8, "missing": 0, "strange": 0}
    return Proof(**{**whole, **other})


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 11, "booked": 11, "left": -1},
        {"rows": 7},
        {"booked": 7},
        {"left": 3},
        {"missing": 1},
        {"strange": 1},
    ],
    ids=str,
)
def test_proof(wrong: dict[str, int]) -> None:
    """Whatever does not add up is seen."""
    assert _proof().holds
    assert not _proof(**wrong).holds
    assert _proof(rows=11).oversold == 1


def test_picture_counts_every_answer() -> None:
    """Each answer is in one column, and a title that is no XML does no harm."""
    answers = [Answered(place / 100, 1 + place, "sold_out") for place in range(100)]
    found = columns(answers, 1.0)
    assert sum(sum(each.rates.values()) for each in found) / len(found) == pytest.approx(100)
    ET.fromstring(draw("<&>", "line", answers, 1.0))  # noqa: S314 - it is ours
    ET.fromstring(draw("one", "line", answers[:1], 0.001))  # noqa: S314 - it is ours
