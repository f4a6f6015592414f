"""HTTP/1.1 as uvicorn speaks it, with a short way for requests that are here whole.

uvicorn begins to serve a request when it has read its head, since a body may be long and late, and
sends an answer piece by piece. That is half of what a small request costs. Nearly all of ours
arrive in one read and are answered at once: such a request is given to the application with its
body, and its answer is sent in one write.

Whatever is not so goes uvicorn's way, which this one can be left for at any point: a body that
is late, a request before the last one is answered, ``Expect``, ``HEAD``, another version of HTTP, a
stream.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from api.answers import lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uvicorn._types import ASGIReceiveEvent, HTTPScope

    from api.answers import Answer, Header

MAX_HEAD_BYTES: Final = 65_536
"""The parser keeps what has no end, and copies it with each read: it would stop for everybody."""
EXPRESS: Final = "express"
"""Where an application leaves, in the state of its lifespan, what takes requests over."""
_SHORT: Final = frozenset((b"GET", b"POST", b"DELETE", b"PATCH"))
_CLOSE: Final = (b"connection", b"close")


_lines_of_server = lru_cache(maxsize=4)(lines)
"""Of the headers that a server puts on every answer; they are others once a second."""


class Cycle(RequestResponseCycle):
    """One request that is here whole, and its answer.

    An answer in parts, and a caller who goes away, are left to the base. What that sets on each of
    its cycles is set here on the class, as far as it is the same for all.
    """

    access_log = False
    disconnected = False
    waiting_for_100_continue = False
    more_body = False
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    _taken = False
    _start: Any = None

    def __init__(
        self, protocol: Protocol, url: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        # The base's own would cost as much as all the rest.
        self.protocol = protocol
        self.url = url
        self.headers = headers
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.default_headers = protocol.server_state.default_headers
        self.on_response = protocol.on_response_complete
        self.keep_alive = protocol.parser.should_keep_alive()
        self.method = protocol.parser.get_method()
        self.whole_body = body

    @cached_property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]  # seldom needed
        """What wakes a ``receive`` that waits for the caller to go away."""
        return asyncio.Event()

    async def receive(self) -> ASGIReceiveEvent:
        """The whole body; after that, that the caller has gone."""
        if self._taken or self.disconnected:
            return await super().receive()
        self._taken = True
        return {"type": "http.request", "body": self.whole_body, "more_body": False}

    def run(self, app: Any, **more: Any) -> None:
        """Have an application serve the request, with more in its scope."""
        self.scope = self.protocol.scope_of(self)
        self.scope.update(more)  # type: ignore[typeddict-item]  # an application may have its own
        self.protocol.start(self, app)

    def answer(self, answer: Answer, more: tuple[Header, ...] = ()) -> bool:
        """Send a whole answer, with more headers; False if an application must do it."""
        if self._is_plain:
            self._write(answer.status, lines(more), answer.rest)
        return self.response_complete or self.disconnected

    async def send(self, message: Any) -> None:
        """Keep the head of an answer until its body is there, and send both in one write."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._start = message
        elif self._start is None or self.response_started:
            await super().send(message)
        elif not self._sent_whole(self._start, message):
            await super().send(self._start)
            await super().send(message)

    def _sent_whole(self, start: Any, message: Any) -> bool:
        """Send an answer in one write, if it is whole and has nothing unusual."""
        body, headers = message.get("body", b""), start.get("headers", ())
        if (
            message.get("more_body")
            or (b"content-length", b"%d" % len(body)) not in headers
            or _CLOSE in headers
            or not self._is_plain
        ):
            return False
        head = lines(headers)
        if head.count(b"\n") != len(headers):  # a value would become a header: uvicorn says so
            return False
        self._write(start["status"], head, b"\r\n%b" % body)
        return True

    @property
    def _is_plain(self) -> bool:
        """Whether nothing must be said or waited for beside the answer."""
        return self.keep_alive and not self.disconnected and not self.flow.write_paused

    def _write(self, status: int, head: bytes, rest: bytes) -> None:
        """Send all of an answer at once; what the server says of itself comes first."""
        self.response_started = self.response_complete = True
        common = _lines_of_server(tuple(self.default_headers))
        self.transport.write(b"%b%b%b%b" % (STATUS_LINE[status], common, head, rest))
        if "message_event" in self.__dict__:
            self.message_event.set()
        self.on_response()


class Protocol(HttpToolsProtocol):
    """A connection."""

    _head: list[tuple[bytes, bytes]]
    _body: list[bytes] | None = None
    """What is here of a request that may go the short way, between its head and its end."""
    _running: RequestResponseCycle | None = None
    """The request that is served now; ``cycle`` is the last one that came."""
    _used_at_s = 0.0
    _unread = 0
    """Bytes of which the parser has made nothing yet."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, with the time that any request may take to begin."""
        super().connection_made(transport)
        self._used_at_s = self.loop.time()
        self._look_in(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Serve what has come; a request that is not whole by now goes the long way."""
        self._used_at_s = self.loop.time()
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")
        if self._body is not None:
            parts, self._body = self._body, None
            if not self.transport.is_closing():
                self._begin_the_long_way()
                for part in parts:
                    super().on_body(part)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; who serves a request of it hears that, also if others follow."""
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self.cycle = self._running = None  # type: ignore[assignment]  # it knows us: a cycle

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """The head of a request is here."""
        self._unread = 0
        # What comes as a header from here on is a trailer, and no proxy has looked at it.
        self._head, self.headers = self.headers, []
        if (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() in _SHORT
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
        ):
            self._body = []
        else:
            self._begin_the_long_way()

    def on_body(self, body: bytes) -> None:
        """A part of a body is here."""
        self._unread = 0
        if self._body is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """The end of a request is here."""
        if self._body is None:
            super().on_message_complete()
            return
        body, self._body = b"".join(self._body), None
        self.cycle = self._running = cycle = Cycle(self, self.url, self._head, body)
        take = self._express.get((cycle.method, cycle.url))
        if take is None or not take(cycle):
            cycle.run(self.app)

    def on_response_complete(self) -> None:
        """An answer was sent; a timer that runs is left alone, and looks when it ends."""
        self._used_at_s = self.loop.time()
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._look_in(self.timeout_keep_alive)

    def _close_if_idle(self) -> None:
        """Close the connection if it was not used for so long."""
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # the end of its answer begins anew
        idle_s = self.loop.time() - self._used_at_s
        if idle_s < self.timeout_keep_alive:
            self._look_in(self.timeout_keep_alive - idle_s)
        else:
            self.timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        """To set and unset a timer for each request costs more than to look at its end."""

    def _look_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._close_if_idle)

    def start(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Have an application serve a request that this has as the running one already.

        Who calls may be at work for others: what is bound in his context is not this request's.
        """
        Context().run(super()._start_asgi_task, cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self.start(cycle, app)

    @cached_property
    def _express(self) -> Mapping[tuple[bytes, bytes], Callable[[Cycle], bool]]:
        """What takes a request over without a task, by method and path."""
        takers: Mapping[tuple[bytes, bytes], Callable[[Cycle], bool]] = self.app_state.get(
            EXPRESS, {}
        )
        return takers

    def scope_of(self, cycle: Cycle) -> HTTPScope:
        """What the base says of a request by the end of its head."""
        url = httptools.parse_url(cycle.url)
        path = url.path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]  # set with the connection
            "root_path": self.root_path,
            "headers": cycle.headers,
            "state": self.app_state.copy(),
            "method": cycle.method.decode("ascii"),
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + url.path,
            "query_string": url.query or b"",
        }

    def _begin_the_long_way(self) -> None:
        """Have the base do what it does by the end of a request's head."""
        url, trailers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += self._head  # in place: the scope has this list
        super().on_headers_complete()
        self.headers = trailers
