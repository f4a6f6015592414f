"""This API in OpenAPI 3.1, written from the types that the code itself reads and writes with."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from api import schemas
from api.answers import encode
from api.prefer import MAX_WAIT_SECONDS
from api.problems import PROBLEMS
from api.requests import DEFAULT_LIMIT, MAX_LIMIT

Json = dict[str, Any]

_TYPES = (
    schemas.ReserveRequest,
    schemas.Reservation,
    schemas.Booking,
    schemas.Cancellation,
    schemas.Availability,
    schemas.ListedEvent,
    schemas.EventPage,
    schemas.NewEvent,
    schemas.EventChange,
    schemas.ListedBooking,
    schemas.BookingPage,
    schemas.Watched,
    schemas.Unwatched,
    schemas.UserStatistics,
    schemas.Health,
    schemas.Readiness,
    schemas.Problem,
)
_INSIDE = {
    # An element begins its line, which what looks like one within a script does not.
    tag: re.compile(rf"^ *<{tag}>(.*?)</{tag}>$", re.DOTALL | re.MULTILINE)
    for tag in ("script", "style")
}
_ALWAYS = ("internal_error",)
_BAD_BODY = (
    "invalid_body",
    "invalid_content_length",
    "body_too_slow",
    "body_too_large",
    "unsupported_media_type",
    "unsupported_content_encoding",
)
_AWAY = ("redis_unavailable", "ledger_unavailable", "overloaded")


def _ref(kind: type) -> Json:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _given(description: str, kind: type, *headers: str, example: object = None) -> Json:
    """An answer that gives what was asked for."""
    given: Json = {
        "description": description,
        "content": {"application/json": {"schema": _ref(kind)}},
    }
    if example is not None:
        given["content"]["application/json"]["example"] = example
    if headers:
        given["headers"] = {name: _HEADERS[name] for name in headers}
    return given


def _problems(*codes: str) -> Json:
    """The refusals and faults of a call, by status."""
    by_status: dict[int, list[str]] = {}
    for code in (*codes, *_ALWAYS):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {str(status): _problem(by_status[status]) for status in sorted(by_status)}


def _problem(codes: list[str]) -> Json:
    rows = [PROBLEMS[code] for code in codes]
    answer: Json = {
        "description": " ".join(
            f"`{code}`: {row.detail}" for code, row in zip(codes, rows, strict=True)
        ),
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [
                        _ref(schemas.Problem),
                        {"properties": {"code": {"enum": codes}}},
                    ]
                }
            }
        },
    }
    if any(row.retry_after_seconds for row in rows):
        answer["headers"] = {"Retry-After": _HEADERS["Retry-After"]}
    return answer


def _header(description: str, **schema: object) -> Json:
    return {"description": description, "schema": {"type": "string", **schema}}


_HEADERS: Json = {
    "Location": _header("Where it is to be read."),
    "Preference-Applied": _header("What was honoured of `Prefer`."),
    "Idempotency-Replayed": _header("The first answer, given again.", const="true"),
    "Onsale-Source": _header("Redis was away: the ledger was asked.", const="ledger"),
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
}
_PREFER: Json = {
    "name": "Prefer",
    "in": "header",
    "description": (
        "`respond-async`: do not wait for the ledger. `wait=N`: wait for it at most N seconds, "
        f"up to {MAX_WAIT_SECONDS} (RFC 7240)."
    ),
    "schema": {"type": "string"},
    "examples": {"patient": {"value": "wait=5"}, "now": {"value": "respond-async"}},
}
_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key again gets the first answer again instead of `already_booked`.",
    "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
}


_EVENT: Json = {"id": 1, "name": "Opening night", "total_seats": 100}
_BOOKING: Json = {
    "id": 549755814017,
    "event_id": 1,
    "user_id": "ann",
    "created_at": "2026-11-22T13:00:00.123Z",
    "status": "confirmed",
}
_EVENT_PAGE: Json = {
    "events": [{**_EVENT, "available_seats": 99, "source": "redis"}],
    "next": "1",
}
_ENDED: Json = {"status": "cancelled", "ended_at": "2026-11-22T13:05:00.456Z", "event": _EVENT}
_USER_PAGE: Json = {"bookings": [{**_BOOKING, **_ENDED}], "next": "1795352400123000-549755814017"}
_BOOKING_PAGE: Json = {"bookings": [_BOOKING], "next": None}


def _paging(cursor: object) -> tuple[Json, Json]:
    """The query of a list."""
    return (
        {
            "name": "limit",
            "in": "query",
            "description": "How many at most.",
            "schema": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_LIMIT,
                "default": DEFAULT_LIMIT,
            },
        },
        {
            "name": "after",
            "in": "query",
            "description": "The `next` of an earlier answer: what follows it.",
            "schema": {"type": "string"},
            "example": cursor,
        },
    )


def _body(kind: type, example: Json) -> Json:
    return {
        "required": True,
        "content": {"application/json": {"schema": _ref(kind), "example": example}},
    }


def _in_path(name: str, kind: object) -> Json:
    schema = msgspec.json.schema(kind)
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _call(name: str, summary: str, answers: Json, *parameters: Json, **more: object) -> Json:
    call: Json = {"operationId": name, "summary": summary, "responses": answers, **more}
    if parameters:
        call["parameters"] = list(parameters)
    return call


def _text(description: str, media_type: str) -> Json:
    return {
        "description": description,
        "content": {media_type: {"schema": {"type": "string"}}},
    }


def _booking_paths() -> Json:
    reserved = ("Location", "Preference-Applied", "Idempotency-Replayed")
    the_booking = _in_path("id", schemas.BookingId)
    body = _body(schemas.ReserveRequest, {"event_id": 1, "user_id": "ann"})
    reserve = _call(
        "reserve",
        "Take a seat",
        {
            "201": _given("Confirmed: the ledger has it.", schemas.Reservation, *reserved),
            "202": _given("Pending: the seat is taken.", schemas.Reservation, *reserved),
            **_problems(
                *_BAD_BODY,
                "invalid_idempotency_key",
                "event_not_found",
                "sold_out",
                "already_booked",
                "rate_limited",
                *_AWAY,
            ),
        },
        _PREFER,
        _IDEMPOTENCY_KEY,
        requestBody=body,
    )
    gone = ("booking_cancelled", "booking_rejected", "booking_lost")
    read = _call(
        "booking",
        "Read a booking back",
        {
            "200": _given("Pending or confirmed.", schemas.Booking),
            **_problems("invalid_id", "booking_not_found", *gone, *_AWAY),
        },
        the_booking,
    )
    applied = "Preference-Applied"
    cancel = _call(
        "cancel",
        "Give the seat back",
        {
            "200": _given("The ledger knows.", schemas.Cancellation, applied),
            "202": _given("The seat is free; the ledger will know.", schemas.Cancellation, applied),
            **_problems("invalid_id", "booking_not_found", *_AWAY),
        },
        the_booking,
        _PREFER,
    )
    return {
        "/api/bookings/reserve": {"post": reserve},
        "/api/bookings/{id}": {"get": read, "delete": cancel},
    }


def _read_paths() -> Json:
    event = _call(
        "event",
        "How many seats are left",
        {
            "200": _given("As of the last sale.", schemas.Availability, "Onsale-Source"),
            **_problems("invalid_id", "event_not_found", *_AWAY),
        },
        _in_path("id", schemas.EventId),
    )
    last_id = {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The `id` of the last message that was read: what came since is sent again.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
    }
    stream = _call(
        "watch",
        "Watch an event while it sells",
        {
            "200": {
                "description": (
                    "Server-sent events, at most ten a second, each only when something has "
                    "changed. `availability`, or `sold_out` while no seat is left, with `Watched` "
                    "as its data; `unavailable`, with `Unwatched`. A comment is a sign of life."
                ),
                "content": {
                    "text/event-stream": {
                        "schema": {"type": "string"},
                        "x-data": {"oneOf": [_ref(schemas.Watched), _ref(schemas.Unwatched)]},
                    }
                },
            },
            **_problems("invalid_id", "event_not_found", "rate_limited", *_AWAY),
        },
        _in_path("id", schemas.EventId),
        last_id,
    )
    statistics = _call(
        "statistics",
        "What a user has booked",
        {
            "200": _given("Zeros for a user who is unknown.", schemas.UserStatistics),
            **_problems("invalid_user_id", *_AWAY),
        },
        _in_path("user_id", schemas.UserId),
    )
    return {
        "/api/events/{id}": {"get": event},
        "/api/events/{id}/stream": {"get": stream},
        "/metrics/{user_id}": {"get": statistics},
    }


def _event_paths() -> Json:
    the_event = _in_path("id", schemas.EventId)
    page = _call(
        "events",
        "The events, each with the seats that are left",
        {
            "200": _given("In the order of their ids.", schemas.EventPage, example=_EVENT_PAGE),
            **_problems("invalid_query", "rate_limited", "ledger_unavailable"),
        },
        *_paging("1"),
    )
    create = _call(
        "create_event",
        "Make an event (admin)",
        {
            "201": _given("It can be booked.", schemas.Event, "Location", example=_EVENT),
            **_problems(*_BAD_BODY, "rate_limited", "ledger_unavailable"),
        },
        requestBody=_body(schemas.NewEvent, {"name": "Opening night", "total_seats": 100}),
    )
    change = _call(
        "change_event",
        "Change an event's name or seats (admin)",
        {
            "200": _given("As it is now.", schemas.Event, example={**_EVENT, "total_seats": 120}),
            **_problems(
                *_BAD_BODY,
                "invalid_id",
                "event_not_found",
                "below_booked",
                "rate_limited",
                "ledger_unavailable",
            ),
        },
        the_event,
        requestBody=_body(schemas.EventChange, {"total_seats": 120}),
    )
    bookings = _call(
        "event_bookings",
        "Who has a seat of an event (admin)",
        {
            "200": _given("As the ledger has them.", schemas.BookingPage, example=_BOOKING_PAGE),
            **_problems(
                "invalid_id",
                "invalid_query",
                "event_not_found",
                "rate_limited",
                "ledger_unavailable",
            ),
        },
        the_event,
        *_paging("ann"),
    )
    of_user = _call(
        "user_bookings",
        "What a user has and had, the newest first",
        {
            "200": _given("As the ledger has them.", schemas.BookingPage, example=_USER_PAGE),
            **_problems("invalid_user_id", "invalid_query", "rate_limited", "ledger_unavailable"),
        },
        _in_path("user_id", schemas.UserId),
        *_paging("1795352400123000-549755814017"),
    )
    return {
        "/api/events": {"get": page, "post": create},
        "/api/events/{id}": {"patch": change},
        "/api/events/{id}/bookings": {"get": bookings},
        "/api/users/{user_id}/bookings": {"get": of_user},
    }


def _operating_paths() -> Json:
    health = {"200": _given("The process answers.", schemas.Health)}
    ready = {"200": _given("Every part works.", schemas.Readiness), **_problems("not_ready")}
    metrics = {"200": _text("Metrics in the Prometheus text format.", "text/plain")}
    description = {"200": _text("This description.", "application/json")}
    docs = {"200": _text("This description, to read and to try.", "text/html")}
    live = {"200": _text("A page that shows an event while it sells.", "text/html")}
    return {
        "/health": {"get": _call("health", "Whether the process answers", health)},
        "/ready": {"get": _call("ready", "Whether every part works", ready)},
        "/metrics": {"get": _call("metrics", "Metrics for Prometheus", metrics)},
        "/openapi.json": {"get": _call("openapi", "This API in OpenAPI 3.1", description)},
        "/docs": {"get": _call("docs", "This API to read and to try", docs)},
        "/live": {"get": _call("live", "An event while it sells, in a browser", live)},
    }


def _paths() -> Json:
    """Every path; calls of one path may come from several groups."""
    paths: Json = {}
    for group in (_booking_paths(), _read_paths(), _event_paths(), _operating_paths()):
        for path, calls in group.items():
            paths.setdefault(path, {}).update(calls)
    return paths


@lru_cache(maxsize=1)
def document() -> bytes:
    """The whole description as JSON."""
    _, components = msgspec.json.schema_components(
        _TYPES, ref_template="#/components/schemas/{name}"
    )
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "onsale",
                "summary": "Seat reservations for the minute in which tickets go on sale",
                "version": "1.0",
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            "paths": _paths(),
            "components": {"schemas": components},
        }
    )


class Page(NamedTuple):
    """A page, with its script and its style in files of their own."""

    html: bytes
    script: bytes
    style: bytes


@lru_cache(maxsize=1)
def page() -> Page:
    """Swagger UI with all its parts, on ``/openapi.json``.

    The package has one page with everything inside; a browser that is told to run no such script
    must get the parts one by one.
    """
    from offapi import OpenAPITemplate  # noqa: PLC0415  nine megabytes that only this page needs

    html: str = OpenAPITemplate.SWAGGER.value.format(spec_url="/openapi.json")
    # The bar at the top has a style inside. And Swagger UI shows the description to a validator of
    # its own, on an outside host, unless there is none.
    layout = 'layout: "StandaloneLayout",'
    html = html.replace(layout, 'layout: "BaseLayout", validatorUrl: null,')
    scripts, styles = _INSIDE["script"].findall(html), _INSIDE["style"].findall(html)
    html = _INSIDE["script"].sub("", html)
    html = _INSIDE["style"].sub('<link rel="stylesheet" href="/docs.css" />', html, count=1)
    html = html.replace("</body>", '<script src="/docs.js"></script>\n  </body>')
    return Page(html.encode(), ";\n".join(scripts).encode(), "\n".join(styles).encode())
