"""Traces of bookings, from the API across the outbox into the ledger (OpenTelemetry; an extra).

Nothing of a trace goes through Redis: the trace of a booking is computed from its id, by the API
when it answers and by the worker when it drains. Both put their spans into it, and link them to the
request's span and to the batch's. Why: docs/adr/0001-traces.md.

Off unless ``start`` was called: then ``tracer`` is None, and a drain looks at that once a batch.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from threading import Thread
from typing import TYPE_CHECKING, Final

from engine.errors import Misconfigured
from engine.model import Number, booking_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import SpanContext, Tracer

    from engine.model import Item

FLUSH_S: Final = 2.0

tracer: Tracer | None = None
"""What makes spans; None while nothing is traced."""


def start(service: str, processor: SpanProcessor | None = None) -> Callable[[], None]:
    """Begin to trace; answers what sends the rest at the end, and gives up after a moment.

    Where spans go, how many, and under which name: the environment of OpenTelemetry's SDK says it
    (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME`` and kin).

    Raises:
        Misconfigured: the extra is not installed.
    """
    global tracer  # noqa: PLW0603  one per process, as its metrics are
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  extra
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import (  # noqa: PLC0415  an extra
            OTELResourceDetector,
            Resource,
        )
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  an extra
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  an extra
    except ImportError as error:
        raise Misconfigured(f"OTEL is on, but onsale[otel] is not installed: {error}") from None
    named = Resource({"service.name": service})
    resource = Resource.create().merge(named).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("onsale")

    def flush() -> None:
        # The SDK's own bound does not hold: an exporter tries again for longer.
        sending = Thread(target=provider.force_flush, daemon=True)
        sending.start()
        sending.join(FLUSH_S)

    return flush


def of_booking(booking: int) -> SpanContext:
    """The trace of a booking, and the span in it under which all others are."""
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415  an extra

    made = blake2b(b"onsale booking %d" % booking, digest_size=24).digest()
    return SpanContext(
        trace_id=int.from_bytes(made[:16]),
        span_id=int.from_bytes(made[16:]),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def under(parent: SpanContext) -> Context:
    """Where a span is begun that belongs under another one."""
    from opentelemetry.trace import (  # noqa: PLC0415  an extra
        NonRecordingSpan,
        set_span_in_context,
    )

    return set_span_in_context(NonRecordingSpan(parent))


def drained(tracer: Tracer, partition: int, items: Sequence[Item], *, to: Number) -> None:
    """Note that the ledger has taken a batch: one span for it, and one for each booking in it.

    A booking's span is as long as the ledger did not know of it.
    """
    from opentelemetry.context import Context  # noqa: PLC0415  an extra
    from opentelemetry.trace import Link  # noqa: PLC0415  an extra

    batch = tracer.start_span("drain", context=Context())
    batch.set_attribute("onsale.partition", partition)
    batch.set_attributes({"onsale.from": str(items[0].number), "onsale.to": str(to)})
    links, now_ns = [Link(batch.get_span_context())], time.time_ns()
    for item in items:
        number = item.booking if item.kind == "cancel" else item.number
        if item.kind == "poison" or number is None:
            continue
        booking = booking_id(number, partition)
        tracer.start_span(
            f"{item.kind} taken",
            context=under(of_booking(booking)),
            start_time=min(item.at_ms * 1_000_000, now_ns),
            attributes={"onsale.booking_id": booking, "onsale.number": str(item.number)},
            links=links,
        ).end(now_ns)
    batch.end(now_ns)
