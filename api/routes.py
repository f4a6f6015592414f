"""The calls of this API: a table of paths, and for each call an endpoint and who may make it.

An endpoint takes the ASGI scope and ``receive`` and gives back an answer, or None where the caller
went away. No request and no response object is made: they cost more than the endpoints do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import UNSET
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from api import openapi, prefer, schemas
from api.answers import Answer, Header, answer, encode, event_of, location, rfc3339
from api.auth import Identify, caller_of, check_user, may_see, name_of, permit, user_of
from api.languages import Language, chosen, language_of
from api.middleware import Problems, RateLimit, RequestIds, RequestLog
from api.pages import page
from api.problems import BARE, PROBLEMS, Texts, already_booked, not_open, problem
from api.requests import (
    check_media,
    fingerprint_of,
    headers_of,
    id_of,
    paging_of,
    parse_event_change,
    parse_new_event,
    parse_reserve,
    read_body,
    user_id_of,
)
from api.stream import Stream, Streams
from engine.deadline import Deadline
from engine.metrics import exposition
from engine.model import (
    MAX_BOOKING_ID,
    MAX_EVENT_ID,
    MAX_MS,
    Booking,
    NewEvent,
    Page,
    Reservation,
    Status,
    Window,
    Word,
)
from engine.permissions import Permission

if TYPE_CHECKING:
    from datetime import datetime

    from api.auth import Verifier
    from engine.engine import Engine

Endpoint = Callable[[Scope, Receive], Awaitable[Answer | Stream | None]]
Call = tuple[Permission | None, Endpoint]
"""What a caller must be allowed (``OPEN``: nothing), and what answers him."""

OPEN: Final = None

RESERVE: Final = "/api/bookings/reserve"
_RESERVATION = b'{"id":%d,"event_id":%d,"user_id":%b,"created_at":"%b","status":"%b"}'
_REPLAYED: Header = (b"idempotency-replayed", b"true")
_REASONS = frozenset(Word)
_LEDGER_STATUS: dict[Status, Literal["confirmed", "cancelled", "rejected"]] = {
    Status.CONFIRMED: "confirmed",
    Status.CANCELLED: "cancelled",
    Status.REJECTED: "rejected",
}
_GIVEN_BACK = "Бронирование успешно удалено"


class Resource:
    """What is at one path: a call a method. HEAD is GET; OPTIONS and 405 say ``Allow``."""

    def __init__(self, **calls: Call) -> None:
        if "GET" in calls:
            calls["HEAD"] = calls["GET"]
        self.permissions = {method: permission for method, (permission, _) in calls.items()}
        self._endpoints = {method: endpoint for method, (_, endpoint) in calls.items()}
        allow: Header = (b"allow", ", ".join(sorted([*calls, "OPTIONS"])).encode())
        self._options = Answer(204, b"", (allow,))
        self._not_allowed = {
            language: problem("method_not_allowed", language, allow) for language in Language
        }

    def check_callers(self) -> None:
        """From now on answer those only who may make the call."""
        for method, permission in self.permissions.items():
            if permission is not OPEN:
                self._endpoints[method] = _permitted(permission, self._endpoints[method])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is not None:
            made = await endpoint(scope, receive)
        elif scope["method"] == "OPTIONS":
            made = self._options
        else:
            made = self._not_allowed[language_of(scope)]
        if made is not None:
            await made.send(send)


class Bookings:
    """The calls that make, read and give back bookings."""

    def __init__(
        self, engine: Engine, *, wait_ms: int, body_deadline: Deadline[asyncio.Task[Any]]
    ) -> None:
        self._engine = engine
        self._wait_ms = wait_ms
        self._body_deadline = body_deadline

    async def reserve(self, scope: Scope, receive: Receive) -> Answer | None:
        """Take a seat: 201 confirmed, 202 pending."""
        headers = headers_of(scope["headers"])
        check_media(headers)
        wait_ms, applied = wait_of(headers, self._wait_ms)
        fingerprint = fingerprint_of(headers, name_of(caller_of(scope)))
        body = await read_body(receive, self._body_deadline)
        if body is None:
            return None
        request = parse_reserve(body)
        check_user(caller_of(scope), request.user_id)
        made = _outcome_of(scope)
        if made is None:
            made = await self._engine.reserve(
                request.event_id, request.user_id, fingerprint=fingerprint, wait_ms=wait_ms
            )
        elif made.status is Status.REJECTED:
            made = await self._engine.refused(made, request.event_id, request.user_id)
        return answer_of(made, request, headers, applied)

    async def read(self, scope: Scope, _receive: Receive) -> Answer:
        """Read a booking back: 200, or what has become of it."""
        booking = await self._engine.booking(id_of(scope, largest=MAX_BOOKING_ID))
        if booking is None or not may_see(caller_of(scope), booking.user_id):
            return BARE[language_of(scope)]["booking_not_found"]
        status = booking.status
        if status not in (Status.PENDING, Status.CONFIRMED):
            named = booking.reason in _REASONS  # a dead letter's reason is for its operator
            return _gone(status, booking.reason if named else None, language_of(scope))
        return _ok(
            schemas.Booking(
                id=booking.id,
                event_id=booking.event_id,
                user_id=booking.user_id,
                created_at=rfc3339(booking.created_at_ms),
                status="confirmed" if status is Status.CONFIRMED else "pending",
                event=booking.event and event_of(booking.event),
            )
        )

    async def cancel(self, scope: Scope, _receive: Receive) -> Answer:
        """Give the seat back: 200 when the ledger knows, 202 when not yet."""
        booking_id = id_of(scope, largest=MAX_BOOKING_ID)
        wait_ms, applied = wait_of(headers_of(scope["headers"]), self._wait_ms)
        made = await self._engine.cancel(
            booking_id, wait_ms=wait_ms, user_id=user_of(caller_of(scope))
        )
        if made.word is not Word.CANCELLED:
            return BARE[language_of(scope)][made.word]
        body = encode(schemas.Cancellation(message=_GIVEN_BACK, id=booking_id))
        return answer(200 if made.in_ledger else 202, body, *applied)


class Reads:
    """The calls that only look."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def event(self, scope: Scope, _receive: Receive) -> Answer:
        """How many seats of an event are left."""
        found = await self._engine.event(id_of(scope, largest=MAX_EVENT_ID))
        if found is None:
            return BARE[language_of(scope)]["event_not_found"]
        source = ((b"onsale-source", b"ledger"),) if found.source == "ledger" else ()
        return _ok(schemas.Availability(event_of(found.event), found.available_seats), *source)

    async def statistics(self, scope: Scope, _receive: Receive) -> Answer:
        """What a user has booked; zeros for one who is unknown."""
        user_id = user_id_of(scope, "/metrics/")
        check_user(caller_of(scope), user_id)
        found = await self._engine.statistics(user_id)
        return _ok(
            schemas.UserStatistics(
                user_id=found.user_id,
                count=found.active,
                active=found.active,
                cancelled=found.cancelled,
                first_at=None if found.first_at_ms is None else rfc3339(found.first_at_ms),
                last_at=None if found.last_at_ms is None else rfc3339(found.last_at_ms),
            )
        )

    async def ready(self, scope: Scope, _receive: Receive) -> Answer:
        """Whether every part works, and which does not."""
        parts = await self._engine.readiness()
        if all(state == "ok" for state in parts.values()):
            return _ok(schemas.Readiness(parts))
        return problem("not_ready", language_of(scope), parts=parts)


class Events:
    """The calls that list events and bookings, and those that make and change events."""

    def __init__(self, engine: Engine, *, body_deadline: Deadline[asyncio.Task[Any]]) -> None:
        self._engine = engine
        self._body_deadline = body_deadline

    async def page(self, scope: Scope, _receive: Receive) -> Answer:
        """A page of the events, each with the seats that are left."""
        paging = paging_of(scope)
        page = await self._engine.events.page(after=paging.after_event, limit=paging.limit)
        events = [
            schemas.ListedEvent(
                **msgspec.structs.asdict(event_of(event)), available_seats=available, source=source
            )
            for event, available, source in page.rows
        ]
        return _ok(schemas.EventPage(events, page.next))

    async def create(self, scope: Scope, receive: Receive) -> Answer | None:
        """Make an event: 201."""
        check_media(headers_of(scope["headers"]))
        body = await read_body(receive, self._body_deadline)
        if body is None:
            return None
        wanted = parse_new_event(body)
        window = Window(_bound(wanted.opens_at), _bound(wanted.closes_at))
        if not window.is_valid:
            return BARE[language_of(scope)]["invalid_window"]
        (made,) = await self._engine.events.create(
            NewEvent(wanted.name, wanted.total_seats, window)
        )
        return answer(201, encode(event_of(made)), (b"location", b"/api/events/%d" % made.id))

    async def change(self, scope: Scope, receive: Receive) -> Answer | None:
        """Give an event another name, other seats, another window."""
        event_id = id_of(scope, largest=MAX_EVENT_ID)
        check_media(headers_of(scope["headers"]))
        body = await read_body(receive, self._body_deadline)
        if body is None:
            return None
        wanted = parse_event_change(body)
        made = await self._engine.events.change(
            event_id,
            name=None if wanted.name is UNSET else wanted.name,
            total_seats=None if wanted.total_seats is UNSET else wanted.total_seats,
            opens_ms="keep" if wanted.opens_at is UNSET else _bound(wanted.opens_at),
            closes_ms="keep" if wanted.closes_at is UNSET else _bound(wanted.closes_at),
        )
        if made.refusal is Word.BELOW_BOOKED:
            return _below_booked(made.booked, language_of(scope))
        if made.event is None or made.refusal:
            return BARE[language_of(scope)][made.refusal or Word.EVENT_NOT_FOUND]
        return _ok(event_of(made.event))

    async def bookings(self, scope: Scope, _receive: Receive) -> Answer:
        """A page of an event's bookings, in the order of users."""
        event_id, paging = id_of(scope, largest=MAX_EVENT_ID), paging_of(scope)
        page = await self._engine.events.bookings_of(
            event_id, after=paging.after_user, limit=paging.limit
        )
        if page is None:
            return BARE[language_of(scope)][Word.EVENT_NOT_FOUND]
        return _bookings(page)

    async def bookings_of_user(self, scope: Scope, _receive: Receive) -> Answer:
        """A page of a user's bookings, the newest first."""
        user_id = user_id_of(scope, "/api/users/", "/bookings")
        check_user(caller_of(scope), user_id)
        paging = paging_of(scope)
        page = await self._engine.events.bookings_of_user(
            user_id, after=paging.after_place, limit=paging.limit
        )
        return _bookings(page)


async def health(_scope: Scope, _receive: Receive) -> Answer:
    """The process answers."""
    return _ok(schemas.Health(timestamp=rfc3339(time.time_ns() // 1_000_000)))


async def metrics(_scope: Scope, _receive: Receive) -> Answer:
    """The metrics of this process; of all of them where prometheus_client was told to share."""
    return answer(200, exposition(), media_type=CONTENT_TYPE_LATEST.encode())


async def description(_scope: Scope, _receive: Receive) -> Answer:
    """This API in OpenAPI 3.1."""
    return answer(200, openapi.document())


async def nothing(scope: Scope, _receive: Receive, send: Send) -> None:
    """What is at every other path."""
    await BARE[language_of(scope)]["not_found"].send(send)


def build(
    engine: Engine,
    *,
    wait_ms: int,
    rate_limit: int = 0,
    log_requests: bool = False,
    verifier: Verifier | None = None,
    body_seconds: float = 5.0,
) -> ASGIApp:
    """Build the HTTP side of an engine.

    Args:
        engine: What is asked.
        wait_ms: How long a booking waits for the ledger if the caller says nothing.
        rate_limit: How many calls a caller has in a window; 0 not to count them.
        log_requests: Whether each request is a line of the log.
        verifier: Who knows the callers; None to let everybody do everything.
        body_seconds: How long a body may take to arrive.
    """
    resources = table(engine, wait_ms=wait_ms, body_seconds=body_seconds)
    routes = [Route(path, resource) for path, resource in resources.items()]
    router = Router(routes, redirect_slashes=False, default=nothing)
    reserve = resources[RESERVE]

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        # The one hot path is spared the router.
        await (reserve if scope["path"] == RESERVE else router)(scope, receive, send)

    app: ASGIApp = dispatch
    if rate_limit:  # what is refused within says what is left, too
        app = RateLimit(Problems(app), engine, max_calls=rate_limit)
    if verifier:
        app = Identify(app, verifier)
        for resource in resources.values():
            resource.check_callers()
    app = RequestIds(Problems(app))
    return RequestLog(app) if log_requests else app


def table(engine: Engine, *, wait_ms: int, body_seconds: float) -> dict[str, Resource]:
    """What is at which path. No call can be left without a word on who may make it."""
    body_deadline: Deadline[asyncio.Task[Any]] = Deadline(body_seconds, asyncio.Task.cancel)
    bookings = Bookings(engine, wait_ms=wait_ms, body_deadline=body_deadline)
    events = Events(engine, body_deadline=body_deadline)
    reads = Reads(engine)
    return {
        RESERVE: Resource(POST=(Permission.RESERVE, bookings.reserve)),
        "/api/bookings/{id}": Resource(
            GET=(Permission.READ, bookings.read), DELETE=(Permission.RESERVE, bookings.cancel)
        ),
        "/api/events": Resource(
            GET=(Permission.READ, events.page), POST=(Permission.ADMIN, events.create)
        ),
        "/api/events/{id}": Resource(
            GET=(Permission.READ, reads.event), PATCH=(Permission.ADMIN, events.change)
        ),
        "/api/events/{id}/stream": Resource(GET=(Permission.READ, Streams(engine).event)),
        "/api/events/{id}/bookings": Resource(GET=(Permission.ADMIN, events.bookings)),
        "/api/users/{user_id:path}/bookings": Resource(
            GET=(Permission.READ, events.bookings_of_user)
        ),
        "/health": Resource(GET=(OPEN, health)),
        "/ready": Resource(GET=(OPEN, reads.ready)),
        "/metrics": Resource(GET=(Permission.METRICS, metrics)),
        "/metrics/{user_id:path}": Resource(GET=(Permission.READ, reads.statistics)),
        "/openapi.json": Resource(GET=(OPEN, description)),
        "/docs": Resource(GET=(OPEN, page("docs.html"))),
        "/docs.css": Resource(GET=(OPEN, page("docs.css"))),
        "/docs.js": Resource(GET=(OPEN, page("docs.js"))),
        "/live": Resource(GET=(OPEN, page("live.html"))),
        "/live.css": Resource(GET=(OPEN, page("live.css"))),
        "/live.js": Resource(GET=(OPEN, page("live.js"))),
    }


def _permitted(permission: Permission, endpoint: Endpoint) -> Endpoint:
    """An endpoint that answers those only who are allowed this."""

    async def permitted(scope: Scope, receive: Receive) -> Answer | Stream | None:
        permit(scope["caller"], permission)
        return await endpoint(scope, receive)

    return permitted


def _ok(body: object, *headers: Header) -> Answer:
    return answer(200, encode(body), *headers)


def _bound(moment: datetime | None) -> int | None:
    """A bound of a window in Unix milliseconds, within what the ledger can hold."""
    if moment is None:
        return None
    return min(max(round(moment.timestamp() * 1000), 0), MAX_MS)


def _bookings(page: Page[Booking]) -> Answer:
    rows = [
        schemas.ListedBooking(
            id=each.id,
            event_id=each.event_id,
            user_id=each.user_id,
            created_at=rfc3339(each.created_at_ms),
            status=_LEDGER_STATUS[each.status],
            ended_at=None if each.ended_at_ms is None else rfc3339(each.ended_at_ms),
            reason=each.reason if each.reason in _REASONS else None,
            event=each.event and event_of(each.event),
        )
        for each in page.rows
    ]
    return _ok(schemas.BookingPage(rows, page.next))


def _below_booked(booked: int, language: Language) -> Answer:
    """The answer to who would cut seats below what the ledger has."""
    detail = Texts(
        f"The ledger has {booked} bookings of this event.",
        f"Бронирований этого события в реестре: {booked}.",
    )
    return problem("below_booked", language, detail=detail)


def _gone(status: Status, reason: str | None, language: Language) -> Answer:
    """The answer to who reads a booking that has ended."""
    code = f"booking_{status}"
    if reason is None:
        return BARE[language][code]
    error = PROBLEMS[code].error
    detail = Texts(f"The booking is {status}: {reason}.", f"{error}: {reason}.")
    return problem(code, language, detail=detail)


def _outcome_of(scope: Scope) -> Reservation | None:
    """What has come of a booking before it came here: see ``api/express.py``; raises a failure."""
    outcome: Reservation | Exception | None = scope.pop("outcome", None)
    if not isinstance(outcome, Exception):
        return outcome
    try:
        raise outcome
    finally:
        del outcome  # with its traceback it would hold itself


def wait_of(headers: dict[bytes, bytes], wait_ms: int) -> tuple[int, tuple[Header, ...]]:
    """How long to wait for the ledger, and the header that says so if the caller asked."""
    asked = headers.get(b"prefer")
    if asked is not None:
        asked_ms, applied = prefer.parse(asked)
        if asked_ms is not None and applied is not None:
            return asked_ms, ((b"preference-applied", applied),)
    return wait_ms, ()


def answer_of(
    made: Reservation,
    request: schemas.ReserveRequest,
    headers: dict[bytes, bytes],
    applied: tuple[Header, ...],
) -> Answer:
    """The answer to who would book."""
    match made.word:
        case Word.RESERVED:
            return _reserved(request, made, *applied)
        case Word.REPLAYED:
            return _reserved(request, made, _REPLAYED, *applied)
        case Word.ALREADY_BOOKED:
            return already_booked(made.booking_id, chosen(headers.get(b"accept-language")))
        case Word.NOT_OPEN:
            return not_open(made.opens_ms, chosen(headers.get(b"accept-language")))
        case refused:
            return BARE[chosen(headers.get(b"accept-language"))][refused]


def _reserved(request: schemas.ReserveRequest, made: Reservation, *headers: Header) -> Answer:
    """The answer to a grant. Laid out by hand: it is the answer that everybody is waiting for."""
    body = _RESERVATION % (
        made.booking_id,
        request.event_id,
        encode(request.user_id),
        rfc3339(made.created_at_ms).encode(),
        made.status.encode(),
    )
    status = 202 if made.status is Status.PENDING else 201
    return answer(status, body, location(made.booking_id), *headers)
