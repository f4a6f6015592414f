"""A booking's trace goes from the API across the outbox into the ledger; Redis knows nothing."""

from __future__ import annotations

import subprocess
import sys
from threading import Event
from typing import TYPE_CHECKING, Any, cast

import pytest
from httpx2 import ASGITransport, AsyncClient
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from api import routes
from api.tracing import Trace
from engine import tracing
from engine.model import MAX_BOOKING_ID, Cancellation, Number, Reservation, Status, Word, booking_id
from tests.api.conformance import Described
from tests.api.doubles import Double

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from engine.engine import Engine
    from tests.engine.house import Shop

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
RESERVE = "/api/bookings/reserve"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What was sent while a test traces."""
    monkeypatch.setattr(tracing, "tracer", None)
    exporter = InMemorySpanExporter()
    tracing.start("test", SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


def _named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def _trace_of(span: ReadableSpan) -> int:
    return cast("Any", span.context).trace_id


def _linked(span: ReadableSpan) -> set[int]:
    return {link.context.trace_id for link in span.links}


async def _ask(outcome: object, method: str, path: str, **more: Any) -> int:
    assert tracing.tracer
    app = routes.build(cast("Engine", Double(outcome)), wait_ms=0)
    transport = ASGITransport(app=Trace(Described(app), tracing.tracer))
    async with AsyncClient(transport=transport, base_url="http://onsale") as client:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        return (await client.request(method, path, headers=headers, **more)).status_code


async def test_request(spans: InMemorySpanExporter) -> None:
    """A request is a span in its caller's trace; what broke is an error there."""
    assert await _ask(ZeroDivisionError(), "GET", "/api/events/1") == 500
    (span,) = _named(spans, "GET")
    assert f"{_trace_of(span):032x}" == TRACE
    assert span.parent
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.attributes
    assert span.attributes["http.response.status_code"] == 500
    assert not span.status.is_ok
    assert len(spans.get_finished_spans()) == 1


async def test_without_a_caller_who_traces(spans: InMemorySpanExporter) -> None:
    """A header that cannot be read begins a trace of our own."""
    assert tracing.tracer
    app = Trace(routes.build(cast("Engine", Double(None)), wait_ms=0), tracing.tracer)
    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://onsale") as client:
        await client.get("/api/events/1", headers={"traceparent": "rubbish"})
    (span,) = _named(spans, "GET")
    assert span.parent is None


async def test_booking(spans: InMemorySpanExporter) -> None:
    """Who makes, finds or gives back a booking is linked to its trace, and it to him."""
    made = Reservation(Word.RESERVED, 7, 1, Status.CONFIRMED)
    found = Reservation(Word.ALREADY_BOOKED, 7)
    body = {"event_id": 1, "user_id": "ann"}
    assert await _ask(made, "POST", RESERVE, json=body) == 201
    assert await _ask(found, "POST", RESERVE, json=body) == 409
    assert await _ask(Cancellation(Word.CANCELLED), "DELETE", "/api/bookings/7") == 202
    of_booking = tracing.of_booking(7).trace_id
    for span in (*_named(spans, "POST"), *_named(spans, "DELETE")):
        assert _linked(span) == {of_booking}
    answered = _named(spans, "answered")
    assert len(answered) == 3
    for span in answered:
        assert _trace_of(span) == of_booking
        assert {f"{trace:032x}" for trace in _linked(span)} == {TRACE}


async def test_drain(spans: InMemorySpanExporter, shop: Shop) -> None:
    """The worker finds the same traces: what was taken, a cancel too, linked to its batch."""
    event_id = await shop.open_event(2)
    ann, ben = await shop.reserve(event_id, "ann", "ben")
    assert isinstance(ann, Number)
    assert isinstance(ben, Number)
    await shop.cancel(event_id, "ann", ann)
    to = await shop.drain()
    taken, cancelled = _named(spans, "reserve taken"), _named(spans, "cancel taken")
    bookings = {booking_id(number, shop.partition) for number in (ann, ben)}
    assert {_trace_of(s) for s in taken} == {tracing.of_booking(b).trace_id for b in bookings}
    first = tracing.of_booking(booking_id(ann, shop.partition))
    assert [_trace_of(span) for span in cancelled] == [first.trace_id]
    batches = _named(spans, "drain")
    assert [batch.parent for batch in batches] == [None] * len(batches)
    assert batches[0].attributes
    assert batches[0].attributes["onsale.from"] == str(ann)
    assert batches[-1].attributes
    assert batches[-1].attributes["onsale.to"] == str(to)
    for span in (*taken, *cancelled):
        assert _linked(span) <= {_trace_of(batch) for batch in batches}
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time


async def test_what_was_taken_before_is_not_noted_again(
    spans: InMemorySpanExporter, shop: Shop
) -> None:
    """An idle drain makes no spans."""
    await shop.open_event(1, "ann")
    before = len(spans.get_finished_spans())
    await shop.drain()
    assert len(spans.get_finished_spans()) == before


async def test_a_batch_in_parts(spans: InMemorySpanExporter, shop: Shop) -> None:
    """Where the ledger refuses one of a batch, each booking in it is noted once all the same."""
    event_id = await shop.open_event(5)
    ann, ben = await shop.reserve(event_id, "ann", "ben")
    await shop.write_by_hand(by="hand")
    (cem,) = await shop.reserve(event_id, "cem")
    await shop.drain()
    made = [number for number in (ann, ben, cem) if isinstance(number, Number)]
    bookings = [tracing.of_booking(booking_id(n, shop.partition)).trace_id for n in made]
    assert [_trace_of(span) for span in _named(spans, "reserve taken")] == bookings


@pytest.mark.parametrize("booking", [1, 128, 549755814017, MAX_BOOKING_ID])
def test_a_trace_from_an_id(booking: int) -> None:
    """The same in every process, another for every booking, and one that may be."""
    one, again = tracing.of_booking(booking), tracing.of_booking(booking)
    assert one == again
    assert one.is_valid
    assert one.trace_id != tracing.of_booking(booking - 1).trace_id


def test_a_collector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds nobody up at the end."""
    monkeypatch.setattr(tracing, "tracer", None)
    monkeypatch.setattr(tracing, "FLUSH_S", 0.1)
    answers = Event()

    class Hanging(SpanProcessor):
        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return answers.wait(timeout_millis)

    flush = tracing.start("test", Hanging())
    flush()
    assert not answers.is_set()
    answers.set()


def test_it_is_off() -> None:
    """Unless somebody asked for it, nothing of it is even loaded."""
    program = (
        "import sys, api.app, worker.main; from engine import tracing; "
        "assert tracing.tracer is None; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
