"""Each call of the API: its answers, its headers, and that one table holds every no."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pytest
from httpx2 import ASGITransport, AsyncClient
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from api import prefer, routes, schemas
from api.problems import FAULTS, PROBLEMS
from engine.errors import LedgerAway, Overloaded, RedisAway
from engine.model import Availability, Booking, Event, Status, Word
from tests.api.doubles import over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from httpx2 import Response

    from engine.engine import Engine

    OpenEvent = Callable[..., Awaitable[int]]

RESERVE = "/api/bookings/reserve"
NEW_EVENT = {"name": "Чайка", "total_seats": 1}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def _reserve(client: AsyncClient, event_id: int, user_id: str, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"event_id": event_id, "user_id": user_id}
    return await client.post(RESERVE, json=body, headers=named)


class TestReserve:
    """POST /api/bookings/reserve."""

    async def test_confirmed(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """By default the answer waits for the ledger: 201, confirmed, with a Location."""
        event_id = await open_event(1)
        answer = await _reserve(client, event_id, "ann")
        assert answer.status_code == 201, answer.text
        made = msgspec.json.decode(answer.content, type=schemas.Reservation)
        assert (made.event_id, made.user_id, made.status) == (event_id, "ann", "confirmed")
        assert INSTANT.fullmatch(made.created_at)
        assert answer.headers["location"] == f"/api/bookings/{made.id}"
        assert answer.headers["content-type"] == "application/json"
        assert "preference-applied" not in answer.headers

    async def test_respond_async(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """``Prefer: respond-async`` does not wait: 202, pending, and it says so."""
        answer = await _reserve(client, await open_event(1), "ann", prefer="respond-async")
        assert answer.status_code == 202
        assert answer.json()["status"] == "pending"
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.headers["location"] == f"/api/bookings/{answer.json()['id']}"

    async def test_wait(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """``Prefer: wait=60`` waits, and says that it would have waited 10 seconds at most."""
        answer = await _reserve(client, await open_event(1), "ann", prefer="wait=60")
        assert answer.status_code == 201
        assert answer.headers["preference-applied"] == "wait=10"

    async def test_malformed_preference(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """A preference that cannot be read is ignored."""
        answer = await _reserve(client, await open_event(1), "ann", prefer="wait=soon")
        assert answer.status_code == 201
        assert "preference-applied" not in answer.headers

    async def test_sold_out(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """No seat left: 409 sold_out, in the words of the first system."""
        event_id = await open_event(1)
        await _reserve(client, event_id, "ann")
        answer = await _reserve(client, event_id, "ben")
        assert answer.status_code == 409
        assert answer.json()["code"] == "sold_out"
        assert answer.json()["error"] == "Все места забронированы"  # noqa: RUF001  Russian

    async def test_already_booked(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """A second seat for the same user: 409 already_booked, which names the first."""
        event_id = await open_event(2)
        first = (await _reserve(client, event_id, "ann")).json()["id"]
        answer = await _reserve(client, event_id, "ann")
        assert answer.status_code == 409
        assert answer.json()["code"] == "already_booked"
        assert answer.json()["error"] == "Вы уже забронировали место на это событие"
        assert answer.json()["booking_id"] == first
        assert answer.headers["location"] == f"/api/bookings/{first}"

    async def test_event_not_found(self, client: AsyncClient) -> None:
        """An event that does not exist: 404."""
        answer = await _reserve(client, 2**31 - 1, "ann")
        assert answer.status_code == 404
        assert answer.json()["code"] == "event_not_found"
        assert answer.json()["error"] == "Событие не найдено"

    async def test_replay(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """The same ``Idempotency-Key`` gets the first answer again; another key a 409."""
        event_id = await open_event(2)
        key = uuid4().hex
        first = await _reserve(client, event_id, "ann", idempotency_key=key)
        again = await _reserve(client, event_id, "ann", idempotency_key=key)
        other = await _reserve(client, event_id, "ann", idempotency_key=uuid4().hex)
        assert "idempotency-replayed" not in first.headers
        assert again.status_code == 201
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        assert other.status_code == 409

    async def test_replay_of_a_body_written_otherwise(
        self, client: AsyncClient, open_event: OpenEvent
    ) -> None:
        """What counts is what a body means."""
        headers = {"content-type": "application/json", "idempotency-key": uuid4().hex}
        event_id = await open_event(2)
        bodies = [
            b'{"event_id":%d,"user_id":"ann"}' % event_id,
            b' {"user_id": "\\u0061nn",\n "event_id": %d}\n' % event_id,
        ]
        first, again = [await client.post(RESERVE, content=b, headers=headers) for b in bodies]
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == first.json()

    async def test_replay_while_pending(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """202 while nobody waited for the ledger, 201 once somebody does."""
        event_id, key = await open_event(2), uuid4().hex
        first = await _reserve(client, event_id, "ann", idempotency_key=key, prefer="respond-async")
        again = await _reserve(client, event_id, "ann", idempotency_key=key)
        assert (first.status_code, again.status_code) == (202, 201)
        assert again.json() == {**first.json(), "status": "confirmed"}

    async def test_replay_after_a_cancel(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """A late duplicate is told that the booking was cancelled, and books nothing."""
        event_id, key = await open_event(1), uuid4().hex
        first = await _reserve(client, event_id, "ann", idempotency_key=key)
        await client.delete(first.headers["location"])
        late = await _reserve(client, event_id, "ann", idempotency_key=key)
        assert late.status_code == 201
        assert late.headers["idempotency-replayed"] == "true"
        assert late.json() == {**first.json(), "status": "cancelled"}
        assert (await _reserve(client, event_id, "ben")).status_code == 201

    async def test_twenty_retries_at_once(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """One booking: one answer is the first, nineteen are the same again."""
        event_id, key = await open_event(5), uuid4().hex
        retries = (_reserve(client, event_id, "ann", idempotency_key=key) for _ in range(20))
        answers = await asyncio.gather(*retries)
        assert [answer.status_code for answer in answers] == [201] * 20
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19
        left = (await client.get(f"/api/events/{event_id}")).json()["available_seats"]
        assert left == 4

    @pytest.mark.parametrize("other", ["user", "event"])
    async def test_key_reused(self, client: AsyncClient, open_event: OpenEvent, other: str) -> None:
        """The same key with another body: 422, whatever partition its event is in."""
        events, key = [await open_event(1) for _ in range(4)], uuid4().hex
        first = await _reserve(client, events[0], "ann", idempotency_key=key)
        others = [(each, "ann") for each in events[1:]] if other == "event" else [(events[0], "b")]
        for event_id, user in others:
            answer = await _reserve(client, event_id, user, idempotency_key=key)
            assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        again = await _reserve(client, events[0], "ann", idempotency_key=key)
        assert again.json() == first.json()

    async def test_what_is_malformed_claims_no_key(
        self, client: AsyncClient, open_event: OpenEvent
    ) -> None:
        """A key stands for the first request that could be read."""
        event_id, key = await open_event(1), uuid4().hex
        assert (await _reserve(client, event_id, "", idempotency_key=key)).status_code == 400
        assert (await _reserve(client, event_id, "ann", idempotency_key=key)).status_code == 201


class TestBooking:
    """GET and DELETE /api/bookings/{id}."""

    async def test_read(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """A booking reads back as it was answered, with its event."""
        event_id = await open_event(3, name="Чайка")
        made = (await _reserve(client, event_id, "ann")).json()
        answer = await client.get(f"/api/bookings/{made['id']}")
        assert answer.status_code == 200
        event = {"id": event_id, "name": "Чайка", "total_seats": 3}
        assert answer.json() == {**made, "event": event}

    async def test_unknown(self, client: AsyncClient) -> None:
        """An id that was never given out: 404, to read and to cancel."""
        for method in ("GET", "DELETE"):
            answer = await client.request(method, "/api/bookings/255")
            assert answer.status_code == 404
            assert answer.json()["code"] == "booking_not_found"
            assert answer.json()["error"] == "Бронирование не найдено"

    async def test_cancel(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """DELETE gives the seat back, says it in Russian, and repeated says it again; GET: 410."""
        event_id = await open_event(1)
        booking_id = (await _reserve(client, event_id, "ann")).json()["id"]
        for _ in range(2):
            answer = await client.delete(f"/api/bookings/{booking_id}")
            assert answer.status_code == 200, answer.text
            assert answer.json() == {
                "message": "Бронирование успешно удалено",
                "id": booking_id,
                "status": "cancelled",
            }
        gone = await client.get(f"/api/bookings/{booking_id}")
        assert (gone.status_code, gone.json()["code"]) == (410, "booking_cancelled")
        assert (await _reserve(client, event_id, "ben")).status_code == 201

    async def test_cancel_at_once(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """``Prefer: respond-async`` does not wait for the ledger here either: 202."""
        booking_id = (await _reserve(client, await open_event(1), "ann")).json()["id"]
        path = f"/api/bookings/{booking_id}"
        answer = await client.delete(path, headers={"prefer": "respond-async"})
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.json()["status"] == "cancelled"

    @pytest.mark.parametrize("status", [Status.CANCELLED, Status.REJECTED, Status.LOST])
    async def test_gone(self, status: Status) -> None:
        """A booking that has ended is 410 with its status in the code."""
        async with over(Booking(1, 0, "", 0, status)) as client:
            answer = await client.get("/api/bookings/1")
        assert answer.status_code == 410
        assert answer.json()["code"] == f"booking_{status}"

    async def test_reason(self) -> None:
        """Why the ledger rejected a booking is in the detail."""
        async with over(Booking(1, 1, "ann", 0, Status.REJECTED, "sold_out")) as client:
            answer = await client.get("/api/bookings/1")
        assert "sold_out" in answer.json()["detail"]

    async def test_reason_of_a_dead_letter(self) -> None:
        """What Postgres said of an entry is for its operator."""
        reason = "23514: Failing row contains (17, ann)"
        async with over(Booking(1, 1, "ann", 0, Status.REJECTED, reason)) as client:
            answer = await client.get("/api/bookings/1")
        assert answer.status_code == 410
        assert "ann" not in answer.text


class TestReads:
    """The calls that only look."""

    async def test_event(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """The seats that are left are those of the last sale."""
        event_id = await open_event(3, name="Чайка")
        for user, left in (("ann", 2), ("ben", 1)):
            await _reserve(client, event_id, user, prefer="respond-async")
            answer = await client.get(f"/api/events/{event_id}")
            assert answer.status_code == 200
            assert answer.json() == {
                "event": {"id": event_id, "name": "Чайка", "total_seats": 3},
                "available_seats": left,
            }
            assert "onsale-source" not in answer.headers

    async def test_event_from_the_ledger(self) -> None:
        """Where Redis was away and the ledger was asked, a header says so."""
        async with over(Availability(Event(1, "e", 2), 2, "ledger")) as client:
            answer = await client.get("/api/events/1")
        assert answer.headers["onsale-source"] == "ledger"

    async def test_unknown_event(self, client: AsyncClient) -> None:
        """An event that does not exist: 404."""
        answer = await client.get(f"/api/events/{2**31 - 1}")
        assert (answer.status_code, answer.json()["code"]) == (404, "event_not_found")

    async def test_statistics(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """A user's bookings, of any name that may book, slashes and all."""
        user = f"ann/{await open_event(1)}?ü"
        made = (await _reserve(client, await open_event(1), user)).json()
        answer = await client.get("/metrics/" + user.replace("?", "%3F"))
        assert answer.json() == {
            "user_id": user,
            "count": 1,
            "active": 1,
            "cancelled": 0,
            "first_at": made["created_at"],
            "last_at": made["created_at"],
        }

    async def test_unknown_user(self, client: AsyncClient) -> None:
        """A user who never booked has zeros, not a 404."""
        answer = await client.get("/metrics/nobody")
        assert answer.status_code == 200
        assert (answer.json()["count"], answer.json()["first_at"]) == (0, None)

    async def test_health(self, client: AsyncClient) -> None:
        """The process answers, and says when."""
        answer = await client.get("/health")
        assert answer.json()["status"] == "ok"
        assert INSTANT.fullmatch(answer.json()["timestamp"])

    async def test_ready(self, client: AsyncClient) -> None:
        """Every part works."""
        answer = await client.get("/ready")
        assert answer.status_code == 200, answer.text
        assert set(answer.json()["parts"].values()) == {"ok"}

    async def test_not_ready(self) -> None:
        """A part that does not work is named, with what is wrong."""
        parts = {"redis": "ok", "ledger": "does not answer"}
        async with over(parts) as client:
            answer = await client.get("/ready")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert answer.json()["parts"] == parts

    async def test_metrics(self, client: AsyncClient) -> None:
        """Prometheus can read the metrics."""
        answer = await client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert "# TYPE " in answer.text


class TestFaults:
    """What is broken is a 5xx that tells the caller what to do."""

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", RESERVE),
            ("GET", "/api/bookings/1"),
            ("DELETE", "/api/bookings/1"),
            ("GET", "/api/events/1/stream"),
        ],
    )
    @pytest.mark.parametrize("kind", FAULTS)
    async def test_unavailable(self, kind: type[Exception], method: str, path: str) -> None:
        """A store that is away, or a full queue: 503, and when to come again."""
        async with over(kind("away")) as client:
            body = {"event_id": 1, "user_id": "ann"} if method == "POST" else None
            answer = await client.request(method, path, json=body)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["code"] == FAULTS[kind]

    async def test_defect(self) -> None:
        """A defect: 500 as a problem that gives nothing away, and a trace in the log."""
        with capture_logs() as logs:
            async with over(ZeroDivisionError("secret")) as client:
                answer = await client.get("/api/events/1")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "secret" not in answer.text
        (line,) = logs
        assert (line["event"], line["path"]) == ("request_failed", "/api/events/1")
        assert answer.headers["x-request-id"] == line["request_id"]


class TestRequestId:
    """X-Request-Id, in and out."""

    async def test_in_and_out(self) -> None:
        """A caller's id is in his answer, once, and in the lines that his request causes."""
        headers = {"x-request-id": "r-17"}
        with capture_logs([merge_contextvars]) as logs:
            async with over(ZeroDivisionError()) as client:
                failed = await client.get("/api/events/1", headers=headers)
                answered = await client.get("/health", headers=headers)
        for answer in (failed, answered):
            assert answer.headers.get_list("x-request-id") == ["r-17"]
        assert [line["request_id"] for line in logs] == ["r-17"]

    async def test_none(self, client: AsyncClient) -> None:
        """Who sends none is given none; one that is none of ours is not echoed."""
        assert "x-request-id" not in (await client.get("/health")).headers
        for odd in ("", "two words", "x" * 129, "tab\there"):
            answer = await client.get("/health", headers={"x-request-id": odd})
            assert (answer.status_code, "x-request-id" in answer.headers) == (200, False)

    async def test_a_line_for_each_request(self, engine: Engine, open_event: OpenEvent) -> None:
        """Who asks for them is told of each request, with event, user and booking."""
        app = routes.build(engine, wait_ms=5000, log_requests=True)
        event_id = await open_event(1)
        with capture_logs() as logs:
            async with AsyncClient(transport=ASGITransport(app=app), base_url="http://o") as client:
                made = (await _reserve(client, event_id, "ann", x_request_id="r1")).json()["id"]
                await _reserve(client, event_id, "ann")
                await _reserve(client, event_id, "ben")
                await client.get(f"/api/bookings/{made}")
                await client.post(RESERVE, content=b"nonsense")
        lines = [line for line in logs if line["event"] == "request_answered"]
        told = [
            tuple(
                line.get(k) for k in ("status", "event_id", "user_id", "booking_id", "request_id")
            )
            for line in lines
        ]
        assert told == [
            (201, event_id, "ann", made, "r1"),
            (409, event_id, "ann", made, None),
            (409, event_id, "ben", None, None),
            (200, event_id, "ann", made, None),
            (415, None, None, None, None),
        ]
        assert {line["log_level"] for line in lines} == {"debug"}


class TestEveryAnswer:
    """What holds for each path."""

    @pytest.mark.parametrize(
        ("path", "allow"),
        [
            (RESERVE, "OPTIONS, POST"),
            ("/api/bookings/1", "DELETE, GET, HEAD, OPTIONS"),
            ("/api/events", "GET, HEAD, OPTIONS, POST"),
            ("/api/events/1", "GET, HEAD, OPTIONS, PATCH"),
            ("/api/events/1/bookings", "GET, HEAD, OPTIONS"),
            ("/api/users/ann/bookings", "GET, HEAD, OPTIONS"),
            ("/api/events/1/stream", "GET, HEAD, OPTIONS"),
            ("/live", "GET, HEAD, OPTIONS"),
            ("/metrics/ann", "GET, HEAD, OPTIONS"),
        ],
    )
    async def test_allow(self, client: AsyncClient, path: str, allow: str) -> None:
        """405 and OPTIONS say what may be done."""
        refused = await client.put(path)
        asked = await client.options(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, allow)
        assert (asked.status_code, asked.headers["allow"], asked.content) == (204, allow, b"")

    async def test_head(self, client: AsyncClient) -> None:
        """HEAD is GET without the body."""
        answer = await client.head("/health")
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0

    @pytest.mark.parametrize("path", ["/health", "/api/events/0", "/nothing", "/openapi.json"])
    async def test_not_stored(self, client: AsyncClient, path: str) -> None:
        """No answer may be kept by a cache."""
        assert (await client.get(path)).headers["cache-control"] == "no-store"


class TestTable:
    """One table maps every no to HTTP."""

    def test_every_refusal_of_the_engine_is_there(self) -> None:
        """Each word that is not a grant has a row, and so has each status that is an end."""
        grants = {Word.RESERVED, Word.REPLAYED, Word.CANCELLED}
        ends = set(Status) - {Status.PENDING, Status.CONFIRMED}
        assert set(Word) - grants <= set(PROBLEMS)
        assert {f"booking_{status}" for status in ends} <= set(PROBLEMS)

    def test_every_fault_is_there(self) -> None:
        """Each fault that the engine may raise has a row of status 503."""
        assert set(FAULTS) == {RedisAway, LedgerAway, Overloaded}
        assert {PROBLEMS[code].status for code in FAULTS.values()} == {503}

    @pytest.mark.parametrize("code", PROBLEMS)
    def test_every_row_is_whole(self, code: str) -> None:
        """A row has texts for developers and for people, these in Russian; 503 says when."""
        row = PROBLEMS[code]
        assert 400 <= row.status < 600
        assert row.title
        assert all(row.detail)
        assert re.search("[а-я]", row.error)  # noqa: RUF001  Russian
        assert (row.retry_after_seconds is not None) == (row.status in (429, 503))


class TestDescription:
    """The page that shows what OpenAPI says; see ``test_openapi.py``."""

    async def test_docs(self, client: AsyncClient) -> None:
        """The page brings all its parts along, and the browser is told to fetch no others."""
        answer = await client.get("/docs")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert not re.search(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?https?:""", answer.text)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<style" not in answer.text
        assert not re.search(r"<script(?! src=)", answer.text)
        script = await client.get("/docs.js")
        assert "validatorUrl: null" in script.text
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert len((await client.get("/docs.css")).text) > 100_000


@pytest.mark.parametrize(
    ("header", "wait_ms", "applied"),
    [
        ("respond-async", 0, "respond-async"),
        ("Respond-Async", 0, "respond-async"),
        ("respond-async; lenient", 0, "respond-async"),
        ("wait=0", 0, "wait=0"),
        ("wait=5", 5000, "wait=5"),
        ("WAIT = 5", 5000, "wait=5"),
        ('wait="5"', 5000, "wait=5"),
        ("wait=10", 10_000, "wait=10"),
        ("wait=11", 10_000, "wait=10"),
        ("wait=" + "9" * 5000, 10_000, "wait=10"),
        ("respond-async, wait=5", 5000, "wait=5"),
        ("wait=5, respond-async", 5000, "wait=5"),
        ("wait=1, wait=2", 1000, "wait=1"),
        ('return=minimal, foo="a, wait=9", wait=2', 2000, "wait=2"),
        ("wait=5,", 5000, "wait=5"),
        ("", None, None),
        ("wait", None, None),
        ("wait=", None, None),
        ("wait=-1", None, None),
        ("wait=1.5", None, None),
        ("wait=soon", None, None),
        ("wait=¹", None, None),
        ("respond-async=yes", None, None),
        ('wait="5', None, None),
        ("wait=5 seconds", None, None),
        ("=5", None, None),
        ("a" * 60_000 + "(", None, None),
        ("a;" + "a;a=a;" * 10_000 + "(", None, None),
        (" \t" * 30_000 + "(", None, None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_prefer(header: str, wait_ms: int | None, applied: str | None) -> None:
    """RFC 7240: the first of two counts, ``wait`` beats ``respond-async``, nonsense is ignored."""
    expected = (wait_ms, None if applied is None else applied.encode())
    assert prefer.parse(header.encode("latin-1")) == expected
