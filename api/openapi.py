"""This API in OpenAPI 3.1, written from the types that the code itself reads and writes with.

Each call is a few lines at the end of this page: what it takes, what it gives, and every code that
it may refuse with. What holds for each call (its caller, the rate limit, a defect) is added here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from api import schemas
from api.answers import encode
from api.languages import Language
from api.prefer import MAX_WAIT_SECONDS
from api.problems import BARE, PROBLEM_JSON, PROBLEMS, already_booked, not_open, problem
from api.requests import DEFAULT_LIMIT, MAX_LIMIT
from engine.model import MAX_EVENT_ID, MAX_USER_ID_LENGTH
from engine.permissions import Permission

if TYPE_CHECKING:
    from api.answers import Answer

Json = dict[str, Any]

_ID = 549755814017
_NOW = "2026-11-22T13:00:00.123Z"
_EVENT = schemas.Event(1, "Opening night", 100)
_OPENS_AT = datetime(2026, 12, 1, 10, tzinfo=UTC)
_OPENS_MS = int(_OPENS_AT.timestamp() * 1000)
_PARTS = {"engine": "ok", "redis": "ok", "ledger": "ok"}
_ENDED = schemas.ListedBooking(
    id=_ID,
    event_id=1,
    user_id="ann",
    created_at=_NOW,
    status="cancelled",
    ended_at="2026-11-22T13:05:00.456Z",
    event=_EVENT,
)
_PLACE = f"1795352400123000-{_ID}"
_GONE = ("booking_cancelled", "booking_rejected", "booking_lost")
_BAD_BODY = (
    "invalid_body",
    "invalid_content_length",
    "body_too_slow",
    "body_too_large",
    "unsupported_media_type",
    "unsupported_content_encoding",
)
_AWAY = ("redis_unavailable", "ledger_unavailable", "overloaded")
_UNKNOWN_CALLER = ("unauthorized", "forbidden", "ledger_unavailable")
_COMMON = ("Cache-Control", "X-Request-Id")
_COUNTED = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_INFO: Json = {
    "title": "onsale",
    "summary": "Seat reservations for the minute in which tickets go on sale",
    "description": (
        "Every refusal and every fault is a problem (RFC 9457) with a `code` that is never "
        "renamed. Where there is GET there is HEAD; OPTIONS is 204 with `Allow`; another method is "
        "405 `method_not_allowed`, another path 404 `not_found`.\n\n"
        "A token is needed if the server runs with `AUTH=token` or `AUTH=jwt`."
    ),
    "version": version("onsale"),
    "license": {"name": "MIT", "identifier": "MIT"},
}


def _header(description: str, *, required: bool = False, **schema: object) -> Json:
    header = {"description": description, "schema": {"type": "string", **schema}}
    return {**header, "required": True} if required else header


_HEADERS: Json = {
    "Cache-Control": _header("No answer may be kept.", required=True, const="no-store"),
    "Connection": _header("The connection is closed.", const="close"),
    "Content-Language": _header("Of `detail`.", required=True, enum=list(Language)),
    "Content-Security-Policy": _header("Nothing is fetched from another host.", required=True),
    "Idempotency-Replayed": _header(
        "The first answer, given again: `status` is as it is now.", const="true"
    ),
    "Location": _header("Where it is to be read.", pattern="^/api/(bookings|events)/[0-9]+$"),
    "Onsale-Source": _header("Redis was away: the ledger was asked.", const="ledger"),
    "Preference-Applied": _header(
        "What was honoured of `Prefer`.", pattern="^(respond-async|wait=[0-9]+)$"
    ),
    "Retry-After": _header("Seconds.", type="integer", minimum=1),
    "Vary": _header("What else the answer depends on.", required=True, const="accept-language"),
    "WWW-Authenticate": _header("How to say who calls.", required=True, const="Bearer"),
    "X-Accel-Buffering": _header("Nginx is to pass on what comes at once.", const="no"),
    "X-Content-Type-Options": _header("It is what it says.", required=True, const="nosniff"),
    "X-RateLimit-Limit": _header(
        "Calls that a caller has in a window, where they are counted.", type="integer", minimum=1
    ),
    "X-RateLimit-Remaining": _header("How many are left.", type="integer", minimum=0),
    "X-RateLimit-Reset": _header("Seconds until all of them are back.", type="integer", minimum=0),
    "X-Request-Id": _header(
        "The caller's, or one for a call that failed.", pattern="^[!-~]{1,128}$"
    ),
}
_PARAMETERS: Json = {
    "Accept-Language": {
        "name": "Accept-Language",
        "in": "header",
        "description": "The language of a problem's `detail`: English or Russian (RFC 9110).",
        "schema": {"type": "string"},
        "example": "ru, en;q=0.5",
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key and the same booking again get the first answer again, for a "
        "day, also after a cancel; with another booking it is `idempotency_key_reused`. Each "
        "caller has keys of his own. What was refused is judged anew.",
        # Blanks at the ends are not part of a header's value.
        "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
        "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The `id` of the last message that was read: what came since is sent again. "
        "At most 15 digits; anything else is as if it were not there.",
        "schema": {"type": "string"},
        "example": "1795352400123",
    },
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "How many at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        "example": DEFAULT_LIMIT,
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": (
            "`respond-async`: do not wait for the ledger. `wait=N`: wait for it at most N seconds, "
            f"up to {MAX_WAIT_SECONDS} (RFC 7240)."
        ),
        "schema": {"type": "string"},
        "examples": {"patient": {"value": "wait=5"}, "now": {"value": "respond-async"}},
    },
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Comes back in the answer and is in the log. "
        "1 to 128 visible characters; anything else is as if it were not there.",
        "schema": {"type": "string"},
        "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
    },
}
_SECURITY: Json = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A service key (`AUTH=token`), or a JWT whose `sub` is the user "
        "(`AUTH=jwt`). The scopes are those of the key, or of the JWT's `scope`.",
    }
}


def _ref(section: str, name: str) -> Json:
    return {"$ref": f"#/components/{section}/{name}"}


def _headers(*names: str) -> Json:
    return {name: _ref("headers", name) for name in sorted(names)}


def _given(
    description: str,
    example: msgspec.Struct,
    *headers: str,
    others: dict[str, msgspec.Struct] | None = None,
) -> Json:
    """An answer that gives what was asked for, in the shape of the example; others have names."""
    shown = msgspec.to_builtins(example)
    content = {"schema": _ref("schemas", type(example).__name__), "example": shown}
    if others:
        del content["example"]
        named = {name: {"value": msgspec.to_builtins(other)} for name, other in others.items()}
        content["examples"] = {"usual": {"value": shown}, **named}
    return {
        "description": description,
        "headers": _headers(*headers),
        "content": {"application/json": content},
    }


def _page(description: str, media_type: str, example: object, *headers: str) -> Json:
    """An answer that is described elsewhere."""
    kind = "string" if isinstance(example, str) else "object"
    return {
        "description": description,
        "headers": _headers(*headers),
        "content": {media_type: {"schema": {"type": kind}, "example": example}},
    }


def _problem(codes: list[str]) -> Json:
    """The refusals and faults of one status."""
    rows = [PROBLEMS[code] for code in codes]
    answers = {code: _bare(code) for code in codes}
    names = {name.decode() for bare in answers.values() for name, _ in bare.headers}
    if "body_too_slow" in codes:
        names.add("connection")
    content = {
        "schema": {
            "allOf": [_ref("schemas", "Problem"), {"properties": {"code": {"enum": codes}}}]
        },
        "examples": {
            code: {"value": msgspec.json.decode(bare.body)} for code, bare in answers.items()
        },
    }
    return {
        "description": " ".join(
            f"`{code}`: {row.detail.en}" for code, row in zip(codes, rows, strict=True)
        ),
        "headers": _headers(*(name for name in _HEADERS if name.lower() in names)),
        "content": {PROBLEM_JSON.decode(): content},
    }


def _bare(code: str) -> Answer:
    """A problem as it is answered."""
    if code == "already_booked":
        return already_booked(_ID, Language.EN)
    if code == "not_open":
        return not_open(_OPENS_MS, Language.EN)
    if code == "not_ready":
        return problem(code, Language.EN, parts={**_PARTS, "redis": "does not answer"})
    return BARE[Language.EN][code]


def _in_path(name: str, kind: object, example: object) -> Json:
    schema = msgspec.json.schema(kind)
    description = schema.pop("description")
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        "example": example,
    }


def _paging(schema: Json, example: object) -> tuple[Json, Json]:
    """The query of a list, whose cursors are such."""
    after = {
        "name": "after",
        "in": "query",
        "description": "The `next` of an earlier answer: what follows it.",
        "schema": schema,
        "example": example,
    }
    return _ref("parameters", "limit"), after


def _call(  # noqa: PLR0913  what there is to say of a call
    path: str,
    name: str,
    summary: str,
    *,
    needs: Permission | None,
    gives: dict[str, Json],
    refuses: tuple[str, ...] = (),
    takes: tuple[Json, ...] = (),
    body: msgspec.Struct | None = None,
) -> Json:
    """One call, with what holds for each."""
    codes = {*refuses, "internal_error", *(_UNKNOWN_CALLER if needs else ())}
    counted = path.startswith("/api/")
    if counted:
        codes.add("rate_limited")
    by_status: dict[str, list[str]] = {}
    for code, row in PROBLEMS.items():
        if code in codes:
            by_status.setdefault(str(row.status), []).append(code)
    answers = {**gives, **{status: _problem(by_status[status]) for status in sorted(by_status)}}
    for answer in answers.values():
        answer["headers"] |= _headers(*_COMMON, *(_COUNTED if counted else ()))
    call: Json = {
        "operationId": name,
        "summary": summary,
        "tags": [path.split("/")[2] if counted else "operating"],
        "parameters": [
            *takes,
            _ref("parameters", "Accept-Language"),
            _ref("parameters", "X-Request-Id"),
        ],
        "responses": answers,
    }
    if needs:
        call["security"] = [{"bearer": [needs]}, {}]
    if body is not None:
        content = {
            "schema": _ref("schemas", type(body).__name__),
            "example": msgspec.to_builtins(body),
        }
        call["requestBody"] = {"required": True, "content": {"application/json": content}}
    return call


def _reserve() -> Json:
    made = schemas.Reservation(_ID, 1, "ann", _NOW, "confirmed")
    cancelled = msgspec.structs.replace(made, status="cancelled")
    headers = ("Location", "Preference-Applied", "Idempotency-Replayed")
    return _call(
        "/api/bookings/reserve",
        "reserve",
        "Take a seat",
        needs=Permission.RESERVE,
        gives={
            "201": _given(
                "Confirmed: the ledger has it. Or cancelled since, where an Idempotency-Key has it "
                "answered again: nothing was booked anew.",
                made,
                *headers,
                others={"replayed after a cancel": cancelled},
            ),
            "202": _given(
                "Pending: the seat is taken.",
                msgspec.structs.replace(made, status="pending"),
                *headers,
            ),
        },
        refuses=(
            *_BAD_BODY,
            "invalid_idempotency_key",
            "event_not_found",
            "not_open",
            "closed",
            "sold_out",
            "already_booked",
            "idempotency_key_reused",
            *_AWAY,
        ),
        takes=(_ref("parameters", "Prefer"), _ref("parameters", "Idempotency-Key")),
        body=schemas.ReserveRequest(1, "ann"),
    )


def _booking(path: str) -> Json:
    booking = schemas.Booking(_ID, 1, "ann", _NOW, "confirmed", _EVENT)
    given_back = schemas.Cancellation("Бронирование успешно удалено", _ID)
    the_id = _in_path("id", schemas.BookingId, _ID)
    read = _call(
        path,
        "booking",
        "Read a booking back",
        needs=Permission.READ,
        gives={"200": _given("Pending or confirmed.", booking)},
        refuses=("invalid_id", "booking_not_found", *_GONE, *_AWAY),
        takes=(the_id,),
    )
    applied = "Preference-Applied"
    cancel = _call(
        path,
        "cancel",
        "Give the seat back",
        needs=Permission.RESERVE,
        gives={
            "200": _given("The ledger knows.", given_back, applied),
            "202": _given("The seat is free; the ledger will know.", given_back, applied),
        },
        refuses=("invalid_id", "booking_not_found", *_AWAY),
        takes=(the_id, _ref("parameters", "Prefer")),
    )
    return {"get": read, "delete": cancel}


def _events(path: str) -> Json:
    listed = schemas.ListedEvent(
        *(_EVENT.id, _EVENT.name, _EVENT.total_seats), available_seats=99, source="redis"
    )
    page = _call(
        path,
        "events",
        "The events, each with the seats that are left",
        needs=Permission.READ,
        gives={"200": _given("In the order of their ids.", schemas.EventPage([listed], "1"))},
        refuses=("invalid_query", "ledger_unavailable"),
        takes=_paging({"type": "integer", "minimum": 0, "maximum": MAX_EVENT_ID}, 1),
    )
    create = _call(
        path,
        "create_event",
        "Make an event",
        needs=Permission.ADMIN,
        gives={"201": _given("It can be booked.", _EVENT, "Location")},
        refuses=(*_BAD_BODY, "invalid_window", "ledger_unavailable"),
        body=schemas.NewEvent(_EVENT.name, _EVENT.total_seats, opens_at=_OPENS_AT),
    )
    return {"get": page, "post": create}


def _event(path: str) -> Json:
    the_id = _in_path("id", schemas.EventId, 1)
    read = _call(
        path,
        "event",
        "How many seats are left",
        needs=Permission.READ,
        gives={
            "200": _given("As of the last sale.", schemas.Availability(_EVENT, 58), "Onsale-Source")
        },
        # Redis may be away: the ledger is asked then.
        refuses=("invalid_id", "event_not_found", "ledger_unavailable", "overloaded"),
        takes=(the_id,),
    )
    change = _call(
        path,
        "change_event",
        "Change an event's name, seats or window",
        needs=Permission.ADMIN,
        gives={"200": _given("As it is now.", msgspec.structs.replace(_EVENT, total_seats=120))},
        refuses=(
            *_BAD_BODY,
            "invalid_id",
            "event_not_found",
            "below_booked",
            "invalid_window",
            "ledger_unavailable",
        ),
        takes=(the_id,),
        body=schemas.EventChange(total_seats=120),
    )
    return {"get": read, "patch": change}


def _stream(path: str) -> Json:
    message = 'id: 1795352400123\nevent: sold_out\ndata: {"at":"2026-11-22T13:00:00.123Z"}\n\n'
    told = _page(
        "Server-sent events, at most ten a second, each only when something has changed. "
        "`availability`, or `sold_out` while no seat is left, with `Watched` as its data; "
        "`unavailable`, with `Unwatched`. A comment is a sign of life.",
        "text/event-stream",
        message,
        "X-Accel-Buffering",
    )
    told["content"]["text/event-stream"]["x-data"] = {
        "oneOf": [_ref("schemas", "Watched"), _ref("schemas", "Unwatched")]
    }
    return _call(
        path,
        "watch",
        "Watch an event while it sells",
        needs=Permission.READ,
        gives={"200": told},
        refuses=("invalid_id", "event_not_found", *_AWAY),
        takes=(_in_path("id", schemas.EventId, 1), _ref("parameters", "Last-Event-ID")),
    )


def _event_bookings(path: str) -> Json:
    # Not as narrow as a user id of this API: a hand may have made others.
    cursor = {"type": "string", "maxLength": MAX_USER_ID_LENGTH, "pattern": "^[^\\u0000]+$"}
    booking = schemas.ListedBooking(
        id=_ID, event_id=1, user_id="ann", created_at=_NOW, status="confirmed"
    )
    return _call(
        path,
        "event_bookings",
        "Who has a seat of an event",
        needs=Permission.ADMIN,
        gives={
            "200": _given("As the ledger has them.", schemas.BookingPage([booking], None)),
        },
        refuses=("invalid_id", "invalid_query", "event_not_found", "ledger_unavailable"),
        takes=(_in_path("id", schemas.EventId, 1), *_paging(cursor, "ann")),
    )


def _user_bookings(path: str) -> Json:
    cursor = {"type": "string", "pattern": "^-?[0-9]{1,18}-[1-9][0-9]{0,15}$"}
    return _call(
        path,
        "user_bookings",
        "What a user has and had, the newest first",
        needs=Permission.READ,
        gives={"200": _given("As the ledger has them.", schemas.BookingPage([_ENDED], _PLACE))},
        refuses=("invalid_user_id", "invalid_query", "ledger_unavailable"),
        takes=(_in_path("user_id", schemas.UserId, "ann"), *_paging(cursor, _PLACE)),
    )


def _statistics(path: str) -> Json:
    return _call(
        path,
        "statistics",
        "What a user has booked",
        needs=Permission.READ,
        gives={
            "200": _given(
                "Zeros for a user who is unknown.",
                schemas.UserStatistics("ann", 1, 1, 0, _NOW, _NOW),
            )
        },
        refuses=("invalid_user_id", "ledger_unavailable"),
        takes=(_in_path("user_id", schemas.UserId, "ann"),),
    )


def _operating() -> Json:
    sample = 'onsale_reservations_total{outcome="sold_out"} 17.0\n'
    return {
        "/health": {
            "get": _call(
                "/health",
                "health",
                "Whether the process answers",
                needs=None,
                gives={"200": _given("The process answers.", schemas.Health(_NOW))},
            )
        },
        "/ready": {
            "get": _call(
                "/ready",
                "ready",
                "Whether every part works",
                needs=None,
                gives={"200": _given("Every part works.", schemas.Readiness(_PARTS))},
                refuses=("not_ready",),
            )
        },
        "/metrics": {
            "get": _call(
                "/metrics",
                "metrics",
                "Metrics for Prometheus",
                needs=Permission.METRICS,
                gives={"200": _page("In the Prometheus text format.", "text/plain", sample)},
            )
        },
        "/openapi.json": {
            "get": _call(
                "/openapi.json",
                "openapi",
                "This API in OpenAPI 3.1",
                needs=None,
                gives={"200": _page("This.", "application/json", {"openapi": "3.1.0"})},
            )
        },
        **_pages(),
    }


def _pages() -> Json:
    """The pages, and the files that they load."""
    pages = {"docs": "This API to read and to try", "live": "An event while it sells"}
    of_a_page = (
        ("", "text/html", "<!DOCTYPE html>", ("Content-Security-Policy",)),
        (".css", "text/css", "body {}", ()),
        (".js", "text/javascript", "'use strict';", ()),
    )
    calls: Json = {}
    for name, summary in pages.items():
        for ending, media_type, example, headers in of_a_page:
            path = f"/{name}{ending}"
            given = _page("For a browser.", media_type, example, "X-Content-Type-Options", *headers)
            called = f"{name}_{ending[1:]}" if ending else name
            calls[path] = {"get": _call(path, called, summary, needs=None, gives={"200": given})}
    return calls


def paths() -> Json:
    """Every call, by path and method."""
    return {
        "/api/bookings/reserve": {"post": _reserve()},
        "/api/bookings/{id}": _booking("/api/bookings/{id}"),
        "/api/events": _events("/api/events"),
        "/api/events/{id}": _event("/api/events/{id}"),
        "/api/events/{id}/stream": {"get": _stream("/api/events/{id}/stream")},
        "/api/events/{id}/bookings": {"get": _event_bookings("/api/events/{id}/bookings")},
        "/api/users/{user_id}/bookings": {"get": _user_bookings("/api/users/{user_id}/bookings")},
        "/metrics/{user_id}": {"get": _statistics("/metrics/{user_id}")},
        **_operating(),
    }


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


@lru_cache(maxsize=1)
def document() -> bytes:
    """The whole description as JSON."""
    _, components = msgspec.json.schema_components(
        _TYPES, ref_template="#/components/schemas/{name}"
    )
    components["EventChange"]["minProperties"] = 1  # which a type cannot say
    return encode(
        {
            "openapi": "3.1.0",
            "info": _INFO,
            "servers": [{"url": "/"}],
            "tags": [
                {"name": "bookings", "description": "Take seats, and give them back."},
                {"name": "events", "description": "See what is left; make and change events."},
                {"name": "users", "description": "See what a user has."},
                {"name": "operating", "description": "See how it goes."},
            ],
            "paths": paths(),
            "components": {
                "schemas": components,
                "headers": _HEADERS,
                "parameters": _PARAMETERS,
                "securitySchemes": _SECURITY,
            },
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
