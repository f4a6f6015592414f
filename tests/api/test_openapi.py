"""The description is valid, whole, and says neither more nor less than what is answered."""

from __future__ import annotations

import asyncio
import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api import openapi, routes
from api.auth import Caller
from api.problems import PROBLEMS, Refused
from engine.errors import LedgerAway, Overloaded, RedisAway
from engine.limiter import Allowance
from engine.model import Booking, EventChange, Reservation, Status, Word
from tests.api.conformance import codes, document, followed, validator
from tests.api.doubles import Double, over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from httpx2 import Response

    from engine.engine import Engine

    Json = dict[str, Any]

RESERVE = "/api/bookings/reserve"
BOOKING = "/api/bookings/{id}"
EVENTS = "/api/events"
EVENT = "/api/events/{id}"
STREAM = "/api/events/{id}/stream"
EVENT_BOOKINGS = "/api/events/{id}/bookings"
USER_BOOKINGS = "/api/users/{user_id}/bookings"
JSON = {"content-type": "application/json"}


def test_it_is_valid() -> None:
    """By the schema of OpenAPI 3.1 itself, examples and defaults included."""
    assert list(OpenAPIV31SpecValidator(document()).iter_errors()) == []


def test_no_component_is_there_for_nothing() -> None:
    """Each is referred to, and each reference leads somewhere."""
    text = openapi.document().decode()
    sections = document()["components"]
    made = {f"#/components/{section}/{name}" for section in sections for name in sections[section]}
    used = set(re.findall(r'"\$ref":"([^"]+)"', text))
    needs = [need for _, _, call in _calls() for need in call.get("security", [])]
    used |= {f"#/components/securitySchemes/{name}" for need in needs for name in need}
    assert made == used


def _calls() -> Iterator[tuple[str, str, Json]]:
    for path, calls in document()["paths"].items():
        for method, call in calls.items():
            yield method.upper(), path, call


def _contents() -> Iterator[tuple[str, Json]]:
    """Every body that is described."""
    for method, path, call in _calls():
        taken = [call["requestBody"]] if "requestBody" in call else []
        for body in (*taken, *call["responses"].values()):
            for content in body["content"].values():
                yield f"{method} {path}", content


def test_every_body_has_an_example_that_fits() -> None:
    """Of each request and each answer; a problem has one for each of its codes."""
    seen = 0
    for name, content in _contents():
        examples = [each["value"] for each in content.get("examples", {}).values()]
        examples += [content["example"]] if "example" in content else []
        assert examples, name
        for example in examples:
            validator(content["schema"]).validate(example)
            seen += 1
    assert seen > 50


def test_every_parameter_has_an_example_that_fits() -> None:
    """Headers and paths."""
    for _, _, call in _calls():
        for parameter in map(followed, call["parameters"]):
            examples = [each["value"] for each in parameter.get("examples", {}).values()]
            examples += [parameter["example"]] if "example" in parameter else []
            assert examples, parameter["name"]
            for example in examples:
                validator(parameter["schema"]).validate(example)


def test_every_route_is_described_with_what_it_needs() -> None:
    """Path by path, method by method: what a caller must be allowed is said."""
    table = routes.table(cast("Engine", None), wait_ms=0, body_seconds=1.0)
    served = {
        (method, re.sub(r":\w+", "", path)): permission
        for path, resource in table.items()
        for method, permission in resource.permissions.items()
        if method != "HEAD"
    }
    described = {
        (method, path): call["security"][0]["bearer"][0] if "security" in call else routes.OPEN
        for method, path, call in _calls()
    }
    assert described == served


class Known:
    """A verifier that knows everybody alike."""

    def __init__(self, outcome: Caller | Exception) -> None:
        self._outcome = outcome

    def caller(self, _token: bytes) -> Caller:
        """See ``Verifier``."""
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class Way(NamedTuple):
    """How a call comes to answer a code: what is sent, over which engine."""

    method: str
    path: str
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    outcome: object = None
    options: Mapping[str, Any] = MappingProxyType({})

    async def go(self) -> Response:
        """Make the call."""
        async with over(self.outcome, **self.options) as client:
            return await client.request(
                self.method, self.path, headers=self.headers, content=self.body or None
            )


TAKING = [(method, path) for method, path, call in _calls() if "requestBody" in call]


def _ok(method: str, path: str, **more: Any) -> Way:
    """A call that has nothing wrong with it."""
    real = path.replace("{id}", "1").replace("{user_id}", "ann")
    if (method, path) in TAKING:
        return Way(method, real, **{"headers": JSON, "body": _good(method, path), **more})
    return Way(method, real, **more)


def _good(method: str, path: str) -> bytes:
    """The body that a call says it takes."""
    body = document()["paths"][path][method.lower()]["requestBody"]
    return json.dumps(body["content"]["application/json"]["example"]).encode()


def _ways() -> Iterator[tuple[str, str, str, Way]]:
    """Method, path as described, code, and how to come to it."""
    yield from _ways_of_each_call()
    yield from _ways_of_bodies()
    yield from _ways_of_lists()
    faults = {
        "redis_unavailable": RedisAway("away"),
        "ledger_unavailable": LedgerAway("away"),
        "overloaded": Overloaded("full"),
    }
    able = {
        ("POST", RESERVE): faults,
        ("GET", BOOKING): faults,
        ("DELETE", BOOKING): faults,
        ("GET", EVENT): ("ledger_unavailable", "overloaded"),
        ("GET", STREAM): faults,
        ("GET", EVENTS): ("ledger_unavailable",),
        ("POST", EVENTS): ("ledger_unavailable",),
        ("PATCH", EVENT): ("ledger_unavailable",),
        ("GET", EVENT_BOOKINGS): ("ledger_unavailable",),
        ("GET", USER_BOOKINGS): ("ledger_unavailable",),
        ("GET", "/metrics/{user_id}"): ("ledger_unavailable",),
    }
    for (method, path), found in able.items():
        for code in found:
            yield method, path, code, _ok(method, path, outcome=faults[code])
    for method in ("GET", "DELETE"):
        none = None if method == "GET" else _Word(Word.BOOKING_NOT_FOUND)
        yield method, BOOKING, "booking_not_found", _ok(method, BOOKING, outcome=none)
        yield method, BOOKING, "invalid_id", Way(method, "/api/bookings/x")
    for status in (Status.CANCELLED, Status.REJECTED, Status.LOST):
        outcome = Booking(1, 0, "", 0, status)
        yield "GET", BOOKING, f"booking_{status}", _ok("GET", BOOKING, outcome=outcome)
    for path in (EVENT, STREAM, EVENT_BOOKINGS):
        yield "GET", path, "event_not_found", _ok("GET", path)
        yield "GET", path, "invalid_id", Way("GET", path.replace("{id}", "x"))
    for word in (Word.EVENT_NOT_FOUND, Word.BELOW_BOOKED, Word.INVALID_WINDOW):
        yield "PATCH", EVENT, word, _ok("PATCH", EVENT, outcome=EventChange(None, refusal=word))
    yield "PATCH", EVENT, "invalid_id", Way("PATCH", "/api/events/x", JSON, b"{}")
    yield "GET", "/metrics/{user_id}", "invalid_user_id", Way("GET", "/metrics/%00")
    yield "GET", "/ready", "not_ready", Way("GET", "/ready", outcome={"redis": "away"})


class _Word(NamedTuple):
    word: Word


def _ways_of_each_call() -> Iterator[tuple[str, str, str, Way]]:
    token = {"authorization": "Bearer x"}
    for method, path, call in _calls():
        if "security" in call:
            stranger = {"verifier": Known(Refused("unauthorized"))}
            yield method, path, "unauthorized", _ok(method, path, options=stranger)
            nobody = {"verifier": Known(Caller("key x", frozenset()))}
            headers = {**JSON, **token}
            yield method, path, "forbidden", _ok(method, path, headers=headers, options=nobody)
            away = {"verifier": Known(LedgerAway("away"))}
            way = _ok(method, path, headers=headers, options=away)
            yield method, path, "ledger_unavailable", way
        if path.startswith("/api/"):
            spent = _ok(method, path, outcome=Allowance(1, 0, 1), options={"rate_limit": 1})
            yield method, path, "rate_limited", spent


_NO_SEAT = (Word.SOLD_OUT, Word.NOT_OPEN, Word.CLOSED)


def _ways_of_bodies() -> Iterator[tuple[str, str, str, Way]]:
    for method, path in TAKING:
        good = _good(method, path)
        sent: dict[str, tuple[dict[str, str], bytes]] = {
            "invalid_body": (JSON, b"{}"),
            "invalid_content_length": ({**JSON, "content-length": "x"}, good),
            "body_too_large": (JSON, good.ljust(5000)),
            "unsupported_media_type": ({"content-type": "text/plain"}, good),
            "unsupported_content_encoding": ({**JSON, "content-encoding": "gzip"}, good),
        }
        for code, (headers, body) in sent.items():
            yield method, path, code, _ok(method, path, headers=headers, body=body)
    window = b'{"name":"x","total_seats":1,"opens_at":"2030-01-02T00:00:00Z",'
    window += b'"closes_at":"2030-01-01T00:00:00Z"}'
    yield "POST", EVENTS, "invalid_window", _ok("POST", EVENTS, body=window)
    headers = {**JSON, "idempotency-key": "k" * 256}
    yield "POST", RESERVE, "invalid_idempotency_key", _ok("POST", RESERVE, headers=headers)
    for word in (*_NO_SEAT, Word.ALREADY_BOOKED, Word.KEY_REUSED, Word.EVENT_NOT_FOUND):
        yield "POST", RESERVE, word, _ok("POST", RESERVE, outcome=Reservation(word, 1))


def _ways_of_lists() -> Iterator[tuple[str, str, str, Way]]:
    for path in (EVENTS, EVENT_BOOKINGS, USER_BOOKINGS):
        way = _ok("GET", path)
        yield "GET", path, "invalid_query", way._replace(path=f"{way.path}?limit=0")
    yield "GET", USER_BOOKINGS, "invalid_user_id", Way("GET", "/api/users/%00/bookings")


WAYS = list(_ways())


@pytest.mark.parametrize(
    ("method", "path", "code", "way"), WAYS, ids=[f"{m} {p} {code}" for m, p, code, _ in WAYS]
)
async def test_what_is_described_is_answered(method: str, path: str, code: str, way: Way) -> None:
    """There is a way to each code of each call; the answer is checked by ``Described``."""
    answer = await way.go()
    assert answer.json()["code"] == code
    assert answer.status_code == PROBLEMS[code].status


@pytest.mark.parametrize(("method", "path"), TAKING)
async def test_body_too_slow(method: str, path: str) -> None:
    """The one code that takes a body in parts."""

    async def forever() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with over(None, body_seconds=0.01) as client:
        real = path.replace("{id}", "1")
        answer = await client.request(method, real, content=forever(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (408, "body_too_slow")
    assert answer.headers["connection"] == "close"


ENDINGS = ("", ".css", ".js")
DEFECTS = {
    "/health": "api.routes.rfc3339",
    "/metrics": "api.routes.exposition",
    "/openapi.json": "api.routes.openapi.document",
    **{f"/{name}{end}": "api.pages._answer" for name in ("docs", "live") for end in ENDINGS},
}


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in _calls()])
async def test_defect(method: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a call is, a defect in it is answered as one."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    if path in DEFECTS:
        monkeypatch.setattr(DEFECTS[path], fail)
    answer = await _ok(method, path, outcome=ZeroDivisionError()).go()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")


def test_nothing_else_is_described() -> None:
    """The codes of each call are those to which a way was gone above."""
    gone: dict[tuple[str, str], set[str]] = {}
    for method, path, code, _ in WAYS:
        gone.setdefault((method, path), set()).add(code)
    for method, path in TAKING:
        gone[method, path].add("body_too_slow")
    for method, path, call in _calls():
        assert codes(call) - {"internal_error"} == gone.get((method, path), set())
    known = {code for _, _, call in _calls() for code in codes(call)}
    assert set(PROBLEMS) - known == {"not_found", "method_not_allowed"}, "these are no call's own"


async def test_openapi_is_served_as_it_is() -> None:
    """What is at ``/openapi.json`` is the description."""
    async with over(Double(None)) as client:
        answer = await client.get("/openapi.json")
    assert answer.json() == json.loads(openapi.document())
