"""The load: wrk and the client that stands in for it ask, and tell, the same."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from bench.speed import load
from bench.speed.load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = ["asyncio", *(["wrk"] if shutil.which("wrk") else [])]


class Asked(NamedTuple):
    """A request as it came."""

    line: str
    prefer: str | None
    body: dict[str, Any]


class Desk(ThreadingHTTPServer):
    """Books for everybody once, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Clerk)
        self.asked: list[Asked] = []
        self.lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Who leaves while he is answered, at the end of his load, is no error."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answers(self) -> Counter[int]:
        """How often it gave each status."""
        return Counter(status_of(asked.line) for asked in self.asked)


def status_of(line: str) -> int:
    """What the clerk answers to a request."""
    return {"POST": 201, "DELETE": 200, "GET": 204}[line.partition(" ")[0]]


class Clerk(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Desk

    def answer(self) -> None:
        """Note a request and answer it, with the headers and the body in one write."""
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        asked = Asked(self.requestline, self.headers["prefer"], json.loads(content or "{}"))
        with self.server.lock:
            self.server.asked.append(asked)
            number = len(self.server.asked)
        body = b'{"id":%d,"event_id":1}' % number if asked.body else b""
        head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status_of(asked.line), len(body))
        self.wfile.write(head + body)

    do_POST = do_DELETE = do_GET = answer  # noqa: N815 - names that http.server calls

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A desk that is open."""
    with Desk() as open_desk:
        threading.Thread(target=open_desk.serve_forever, daemon=True).start()
        yield open_desk
        open_desk.shutdown()


@pytest.fixture(params=CLIENTS, autouse=True)
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both clients, where there are both."""
    name: str = request.param
    monkeypatch.setattr(load, "client", lambda: name)
    return name


def test_every_request_is_of_somebody_else(desk: Desk) -> None:
    """And all events of the range are asked for."""
    load.drive(desk.url, Load("reserve", 7, 9, "tag-"), connections=4, seconds=1)
    users = [asked.body["user_id"] for asked in desk.asked]
    assert len(set(users)) == len(users) > 50
    assert all(user.startswith("tag-") for user in users)
    assert {asked.body["event_id"] for asked in desk.asked} == {7, 8, 9}
    assert {asked.prefer for asked in desk.asked} == {None}


def test_a_few_users_ask_again_and_again(desk: Desk) -> None:
    """In turn, with the preference that they have."""
    asked_for = Load("reserve", 7, 7, "u", users=5, prefer="respond-async")
    load.drive(desk.url, asked_for, connections=2, seconds=1)
    times = Counter(asked.body["user_id"] for asked in desk.asked)
    assert set(times) == {f"u{n}" for n in range(5)}
    assert max(times.values()) - min(times.values()) <= 1
    assert {asked.prefer for asked in desk.asked} == {"respond-async"}


def test_each_booking_is_given_back_once_at_most(desk: Desk) -> None:
    """A third of a mixed load gives back, under the id that the booking was answered with."""
    load.drive(desk.url, Load("mixed", 7, 7, "u"), connections=2, seconds=1)
    gone = [
        found[1] for asked in desk.asked if (found := re.match(r"DELETE .*/(\d+) ", asked.line))
    ]
    assert len(set(gone)) == len(gone) > 10
    booked = {str(n) for n, asked in enumerate(desk.asked, 1) if asked.line.startswith("POST")}
    assert set(gone) <= booked
    assert 0.2 < len(gone) / len(desk.asked) < 0.4


def test_what_is_told_is_what_was_answered(desk: Desk) -> None:
    """Each answer is in one bucket, under its status; what was under way at the end may not be."""
    connections = 3
    outcome = load.drive(desk.url, Load("mixed", 7, 7, "u"), connections=connections, seconds=1)
    given = desk.answers()
    for status, told in outcome.answers.items():
        assert given[status] - connections <= told <= given[status]
    assert set(outcome.answers) == set(given) == {200, 201}
    assert outcome.count(200, 201) == outcome.count() == sum(outcome.answers.values())
    assert len({len(counts) for counts in outcome.series.values()}) == 1
    assert 0.9 < outcome.seconds < 2
    assert outcome.client_cpu_s > 0


def test_latencies_grow_with_the_share(desk: Desk) -> None:
    """From the first hundredth to the slowest of all."""
    outcome = load.drive(desk.url, Load("look", 7, 7, "u"), connections=2, seconds=1)
    shares, waits = zip(*outcome.latency_ms, strict=True)
    assert shares[:3] == (1, 2, 3)
    assert shares[-1] == 100
    assert list(waits) == sorted(waits)
    assert 0 < outcome.percentile_ms(50) <= outcome.percentile_ms(99.9) <= 1000


def test_a_server_that_is_not_there_is_an_error() -> None:
    """With what the client said."""
    with pytest.raises(RuntimeError, match="failed"):
        load.drive("http://127.0.0.1:1", Load("look", 1, 1, "u"), connections=1, seconds=1)
