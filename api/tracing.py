"""A span for each request, in the caller's trace, and one in the trace of the booking it made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engine import tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PROPAGATOR = TraceContextTextMapPropagator()
_BOOKING = re.compile(r"/api/bookings/([1-9][0-9]*)")
_FIRST_REFUSAL = 400
_FIRST_FAULT = 500


class Trace:
    """Stands around everything else, where ``OTEL`` is on."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note what became of it."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        span = self._tracer.start_span(
            scope["method"],
            context=_PROPAGATOR.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
        )

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(span, message["status"], _booking(scope, message))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            span.end()

    def _note(self, span: Span, status: int, booking: int | None) -> None:
        """The status; and where a booking was made, found or given back, the way to its trace."""
        span.set_attribute("http.response.status_code", status)
        if status >= _FIRST_FAULT:
            span.set_status(Status(StatusCode.ERROR))
        if booking is None:
            return
        of_booking = tracing.of_booking(booking)
        span.set_attribute("onsale.booking_id", booking)
        span.add_link(of_booking)
        self._tracer.start_span(
            "answered",
            context=tracing.under(of_booking),
            attributes={"onsale.booking_id": booking, "http.response.status_code": status},
            links=[Link(span.get_span_context())],
        ).end()


def _booking(scope: Scope, start: Message) -> int | None:
    """The booking that an answer names, or that it says was given back."""
    location = dict(start["headers"]).get(b"location", b"").decode()
    given_back = scope["method"] == "DELETE" and start["status"] < _FIRST_REFUSAL
    match = _BOOKING.fullmatch(scope["path"] if given_back else location)
    return int(match[1]) if match else None
