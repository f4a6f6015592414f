"""Events and bookings in lists, and events made and changed over HTTP."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pytest
from httpx2 import AsyncClient

from api import schemas
from api.openapi import document
from engine.wire import Wire
from tests import world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.world import Stores

    OpenEvent = Callable[..., Awaitable[int]]

RESERVE = "/api/bookings/reserve"
INSERT_MANY = (
    "INSERT INTO events (name, total_seats) "
    "SELECT 'Чайка', 1 FROM generate_series(1, $1::int) RETURNING id"
)


async def _reserve(client: AsyncClient, event_id: int, user_id: str) -> Any:
    answer = await client.post(RESERVE, json={"event_id": event_id, "user_id": user_id})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def _pages(client: AsyncClient, path: str, name: str, **query: object) -> list[Any]:
    """Every row of a list, from its pages."""
    rows: list[Any] = []
    while True:
        answer = await client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        rows += answer.json()[name]
        query["after"] = answer.json()["next"]
        if query["after"] is None:
            return rows


class TestEvents:
    """GET /api/events."""

    async def test_seats(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """A warm event's seats are those of the last sale, a cold one's the ledger's."""
        warm, cold = await open_event(3, name="Чайка"), await open_event(5, name="Иванов")
        await _reserve(client, warm, "ann")
        for _ in range(2):  # to list a cold event does not load it
            answer = await client.get("/api/events", params={"after": warm - 1})
            assert answer.json() == {
                "events": [
                    {
                        "id": warm,
                        "name": "Чайка",
                        "total_seats": 3,
                        "available_seats": 2,
                        "source": "redis",
                    },
                    {
                        "id": cold,
                        "name": "Иванов",
                        "total_seats": 5,
                        "available_seats": 5,
                        "source": "ledger",
                    },
                ],
                "next": None,
            }

    async def test_pages(self, client: AsyncClient, open_event: OpenEvent, stores: Stores) -> None:
        """Each event is on one page, in the order of ids, whatever the size of the pages."""
        for _ in range(3):
            await open_event(1)
        ids = [row["id"] for row in await stores.sql("SELECT id FROM events ORDER BY id")]
        for limit in (1, 2, 100):
            listed = await _pages(client, "/api/events", "events", limit=limit)
            assert [event["id"] for event in listed] == ids

    async def test_default_limit(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """Twenty, unless asked for more or less."""
        first = await open_event(1)
        for _ in range(20):
            last = await open_event(1)
        answer = await client.get("/api/events", params={"after": first - 1})
        assert [event["id"] for event in answer.json()["events"]] == list(range(first, last))
        assert answer.json()["next"] == str(last - 1)

    async def test_one_write(
        self, client: AsyncClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Redis is asked for all of a page at once, however many events are on it."""
        made = await stores.sql(INSERT_MANY, 40)
        writes = []
        send = Wire.send

        async def counted(self: Wire, commands: Any) -> None:
            writes.append(len(commands))
            await send(self, commands)

        monkeypatch.setattr(Wire, "send", counted)
        query = {"after": made[0]["id"] - 1, "limit": 40}
        assert len((await client.get("/api/events", params=query)).json()["events"]) == 40
        assert writes == [40]

    async def test_seats_that_do_not_add_up(
        self, client: AsyncClient, open_event: OpenEvent, stores: Stores
    ) -> None:
        """What Redis says of them is not believed: the ledger is."""
        event_id = await open_event(3)
        await _reserve(client, event_id, "ann")
        async with stores.redis() as redis:
            key = f"onsale:{{{event_id % stores.partitions}}}:event:{event_id}"
            await redis.hset(key, "left", 3)
        answer = await client.get("/api/events", params={"after": event_id - 1})
        (event,) = answer.json()["events"]
        assert (event["available_seats"], event["source"]) == (2, "ledger")
        assert (await client.get(f"/api/events/{event_id}")).json()["available_seats"] == 2


class TestBookings:
    """GET /api/users/{user_id}/bookings and /api/events/{id}/bookings."""

    async def test_of_a_user(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """What he has and had, the newest first, each with its event."""
        first, second = await open_event(3, name="Чайка"), await open_event(3, name="Иванов")
        user = f"ann/{first}?ü bookings"
        gone = await _reserve(client, first, user)
        assert (await client.delete(f"/api/bookings/{gone['id']}")).status_code == 200
        held = await _reserve(client, second, user)
        answer = await client.get(f"/api/users/{quote(user)}/bookings")
        assert answer.status_code == 200, answer.text
        newest, oldest = answer.json()["bookings"]
        assert answer.json()["next"] is None
        event = {"id": second, "name": "Иванов", "total_seats": 3}
        assert newest == {**held, "event": event}
        assert oldest.pop("ended_at") >= oldest["created_at"]
        event = {"id": first, "name": "Чайка", "total_seats": 3}
        assert oldest == {**gone, "status": "cancelled", "event": event}

    async def test_rejected(
        self, client: AsyncClient, open_event: OpenEvent, stores: Stores
    ) -> None:
        """What the ledger refused is listed with the reason; what Postgres said is not."""
        event_id = await open_event(1)
        insert = (
            "INSERT INTO ended_bookings (id, event_id, user_id, created_at, outcome, reason) "
            "VALUES ((1::bigint << 52) + $1::bigint * 2, $1, $2, now(), 'rejected', $3)"
        )
        user = f"rejected {event_id}"
        await stores.sql(insert, event_id, user, "sold_out")
        path = f"/api/users/{quote(user)}/bookings"
        (booking,) = (await client.get(path)).json()["bookings"]
        assert (booking["status"], booking["reason"]) == ("rejected", "sold_out")
        await stores.sql("UPDATE ended_bookings SET reason = '23514: no' WHERE user_id = $1", user)
        (booking,) = (await client.get(path)).json()["bookings"]
        assert "reason" not in booking

    async def test_pages_of_a_user(self, client: AsyncClient, stores: Stores) -> None:
        """Bookings of one instant are told apart by their ids: none is missed, none comes twice."""
        made = await stores.sql(INSERT_MANY, 12)
        user = f"often {made[0]['id']}"
        for place, row in enumerate(made):
            await stores.sql(
                "INSERT INTO bookings (id, event_id, user_id, created_at) VALUES "
                "((1::bigint << 52) + $1::bigint * 2, $1, $2, "
                "'2026-11-22 13:00:00.1234Z'::timestamptz + $3 * interval '1 us')",
                *(row["id"], user, place // 4),
            )
        path = f"/api/users/{quote(user)}/bookings"
        whole = (await client.get(path)).json()["bookings"]
        assert [booking["event_id"] for booking in whole] == [row["id"] for row in made][::-1]
        for limit in (1, 3, 4, 12):
            assert await _pages(client, path, "bookings", limit=limit) == whole

    async def test_unknown_user(self, client: AsyncClient) -> None:
        """A user who never booked has no bookings; that is no fault."""
        answer = await client.get("/api/users/nobody/bookings")
        assert answer.json() == {"bookings": [], "next": None}

    async def test_of_an_event(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """Who has a seat, in the order of users, on pages of any size."""
        event_id = await open_event(9)
        users = ["ann", "bob", "b/o", "яна", "z"]
        made = await asyncio.gather(*(_reserve(client, event_id, user) for user in users))
        path = f"/api/events/{event_id}/bookings"
        whole = (await client.get(path)).json()
        assert whole == {"bookings": sorted(made, key=lambda each: each["user_id"]), "next": None}
        for limit in (1, 2, 5):
            assert await _pages(client, path, "bookings", limit=limit) == whole["bookings"]

    async def test_of_users_by_hand(
        self, live_api: str, open_event: OpenEvent, stores: Stores
    ) -> None:
        """A hand may have made users whom this API would not: a list goes on after them too."""
        event_id = await open_event(9)
        users = ["ann", "b\tb", "c\nc\n", "d\x7f", "z" * 255]
        insert = (
            "INSERT INTO bookings (id, event_id, user_id) "
            "SELECT (1::bigint << 51) + $1::bigint * 8 + n, $1, user_id "
            "FROM unnest($2::text[]) WITH ORDINALITY AS by_hand (user_id, n)"
        )
        await stores.sql(insert, event_id, users)
        path = f"/api/events/{event_id}/bookings"
        async with AsyncClient(base_url=live_api) as client:
            found = await _pages(client, path, "bookings", limit=1)
        assert [each["user_id"] for each in found] == users

    async def test_of_no_event(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """An event that is not there is 404; one without bookings has none."""
        empty = await client.get(f"/api/events/{await open_event(1)}/bookings")
        assert empty.json() == {"bookings": [], "next": None}
        answer = await client.get(f"/api/events/{2**31 - 1}/bookings")
        assert (answer.status_code, answer.json()["code"]) == (404, "event_not_found")


class TestChanges:
    """POST /api/events and PATCH /api/events/{id}."""

    async def test_create(self, client: AsyncClient) -> None:
        """An event that was made can be booked at once, also where it was asked for before."""
        answer = await client.post("/api/events", json={"name": "Чайка", "total_seats": 1})
        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert made == {"id": made["id"], "name": "Чайка", "total_seats": 1}
        assert answer.headers["location"] == f"/api/events/{made['id']}"
        unknown = made["id"] + 1
        assert (await client.get(f"/api/events/{unknown}")).status_code == 404
        again = await client.post("/api/events", json={"name": "Иванов", "total_seats": 1})
        assert again.json()["id"] == unknown
        assert (await _reserve(client, unknown, "ann"))["event_id"] == unknown

    async def test_change(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """Redis follows a change of name and seats while the event is warm."""
        event_id = await open_event(1, name="Чайка")
        path = f"/api/events/{event_id}"
        await _reserve(client, event_id, "ann")
        answer = await client.patch(path, json={"total_seats": 2})
        assert (answer.status_code, answer.json()) == (
            *(200, {"id": event_id, "name": "Чайка", "total_seats": 2}),
        )

        async def has_followed() -> bool:
            return bool((await client.get(path)).json()["available_seats"] == 1)

        await world.until(has_followed)
        renamed = await client.patch(path, json={"name": "Иванов", "total_seats": 1})
        assert renamed.json() == {"id": event_id, "name": "Иванов", "total_seats": 1}

        async def is_full() -> bool:
            found = (await client.get(path)).json()
            return bool(found["available_seats"] == 0 and found["event"]["name"] == "Иванов")

        await world.until(is_full)

    async def test_below_booked(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """Seats are not cut below what is booked: 409, which says how many that is."""
        event_id = await open_event(3, name="Чайка")
        for user in ("ann", "bob"):
            await _reserve(client, event_id, user)
        path = f"/api/events/{event_id}"
        answer = await client.patch(path, json={"total_seats": 1, "name": "Иванов"})
        assert (answer.status_code, answer.json()["code"]) == (409, "below_booked")
        assert "has 2 bookings" in answer.json()["detail"]
        event = {"id": event_id, "name": "Чайка", "total_seats": 3}
        assert (await client.get(path)).json()["event"] == event
        assert (await client.patch(path, json={"total_seats": 2})).status_code == 200

    async def test_window(self, client: AsyncClient) -> None:
        """An event that opens later sells nothing until it is opened, and nothing once closed."""
        far = {"name": "Чайка", "total_seats": 9999, "opens_at": "2999-01-01T03:00:00+03:00"}
        made = await client.post("/api/events", json=far)
        event_id, path = made.json()["id"], made.headers["location"]
        assert made.json() == {**far, "id": event_id, "opens_at": "2999-01-01T00:00:00.000Z"}

        async def ask(user: str) -> Any:
            return await client.post(RESERVE, json={"event_id": event_id, "user_id": user})

        early = await ask("ann")
        assert (early.status_code, early.json()["code"]) == (409, "not_open")
        assert early.json()["opens_at"] == "2999-01-01T00:00:00.000Z"
        assert int(early.headers["retry-after"]) > 900 * 365 * 86_400
        assert (await client.get(path)).json()["event"] == made.json()

        async def answers(code: str) -> bool:
            answer = await ask("ann")
            return bool(answer.json().get("code", answer.json().get("status")) == code)

        await client.patch(path, json={"opens_at": None})
        await world.until(lambda: answers("confirmed"))
        closed = await client.patch(path, json={"closes_at": "1969-01-01T00:00:00Z"})
        assert closed.json()["closes_at"] == "1970-01-01T00:00:00.000Z"
        await world.until(lambda: answers("already_booked"))

        others = count()

        async def is_closed() -> bool:
            answer = await ask(f"user {next(others)}")
            return bool(answer.json().get("code") == "closed")

        await world.until(is_closed)

    async def test_closes_before_it_opens(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """Neither at once, nor by one bound after the other: 409, and nothing changes."""
        first, last = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"
        bad = {"name": "Чайка", "total_seats": 1, "opens_at": last, "closes_at": first}
        answer = await client.post("/api/events", json=bad)
        assert (answer.status_code, answer.json()["code"]) == (409, "invalid_window")
        path = f"/api/events/{await open_event(1)}"
        await client.patch(path, json={"opens_at": last})
        answer = await client.patch(path, json={"closes_at": first, "name": "Иванов"})
        assert (answer.status_code, answer.json()["code"]) == (409, "invalid_window")
        event = (await client.get(path)).json()["event"]
        assert (event["name"], event.get("closes_at")) != ("Иванов", first)

    @pytest.mark.parametrize(
        "moment", ["2030-01-01T00:00:00", "tomorrow", 5, "2030-02-30T00:00:00Z"]
    )
    async def test_no_instant(self, client: AsyncClient, moment: object) -> None:
        """An instant has a zone, and a day that exists: 400."""
        event = {"name": "Чайка", "total_seats": 1, "opens_at": moment}
        answer = await client.post("/api/events", json=event)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_body")

    async def test_unknown(self, client: AsyncClient) -> None:
        """An event that is not there cannot be changed: 404."""
        answer = await client.patch(f"/api/events/{2**31 - 1}", json={"total_seats": 1})
        assert (answer.status_code, answer.json()["code"]) == (404, "event_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("get", "/api/events", "200", schemas.EventPage),
        ("post", "/api/events", "201", schemas.Event),
        ("patch", "/api/events/{id}", "200", schemas.Event),
        ("get", "/api/events/{id}/bookings", "200", schemas.BookingPage),
        ("get", "/api/users/{user_id}/bookings", "200", schemas.BookingPage),
    ],
)
def test_examples(method: str, path: str, status: str, kind: type) -> None:
    """What the description shows as an answer is one, and needs no more than is shown."""
    call = msgspec.json.decode(document())["paths"][path][method]
    example = call["responses"][status]["content"]["application/json"]["example"]
    assert msgspec.to_builtins(msgspec.convert(example, kind)) == example
