"""A request gets the same answer whichever way it is served, byte by byte on a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.protocol import MAX_HEAD_BYTES, Cycle, Protocol
from tests.api.line import Line, served

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PROTOCOLS = (Protocol, HttpToolsProtocol)
POST = b"POST /a/%C3%A9?b=c HTTP/1.1\r\nHost: here\r\nX-Name: Value\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what was understood of a request."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            break
    told = {name: repr(scope[name]) for name in sorted(scope) if name not in ("client", "server")}
    content = json.dumps(told | {"read": repr(body)}).encode()
    headers = [(b"content-length", b"%d" % len(content)), (b"x-told", b"yes")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": content})


REQUESTS: dict[str, list[bytes]] = {
    "whole": [POST + b"Content-Length: 5\r\n\r\nhello"],
    "without a body": [POST + b"\r\n"],
    "a get": [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"],
    "a head": [b"HEAD / HTTP/1.1\r\nHost: here\r\n\r\n"],
    "a put": [b"PUT /p HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\nab"],
    "absolute": [b"GET http://here/x%20y HTTP/1.1\r\nHost: here\r\n\r\n"],
    "the body late": [POST + b"Content-Length: 5\r\n\r\n", b"hel", b"lo"],
    "the head late": [POST[:20], POST[20:] + b"Content-Length: 5\r\n\r\nhello"],
    "in chunks": [POST + CHUNKED + b"3\r\nhel\r\n", b"2\r\nlo\r\n0\r\n\r\n"],
    "chunks at once": [POST + CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"],
    "to be closed": [POST + b"Connection: close\r\n\r\n"],
    "of 1.0": [b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nab"],
    "an upgrade": [b"GET / HTTP/1.1\r\nHost: here\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"],
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_is_understood_and_answered_as_by_uvicorn(name: str) -> None:
    """Status, headers, body, scope, and whether the connection stays, are the same."""
    got = []
    for protocol in PROTOCOLS:
        async with served(tell, protocol) as port, Line.to(port) as line:
            for part in REQUESTS[name]:
                line.say(part)
                await asyncio.sleep(0)
            if name == "a head":
                got.append((await line.head(), b""))
            else:
                *head, body = await line.answer()
                got.append((head, body))
            if name in ("to be closed", "of 1.0"):
                assert await line.ended()
            else:
                line.say(REQUESTS["whole"][0])
                assert (await line.answer())[0] == b"HTTP/1.1 201 Created"
    assert got[0] == got[1]


async def test_a_whole_request_goes_the_short_way_and_a_late_body_does_not() -> None:
    """Or the test above would prove nothing."""
    ways = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        ways.append(type(receive.__self__) is Cycle)  # type: ignore[attr-defined]
        await tell(scope, receive, send)

    async with served(look, Protocol) as port, Line.to(port) as line:
        line.say(REQUESTS["whole"][0])
        await line.answer()
        line.say(REQUESTS["the body late"][0])
        while len(ways) < 2:  # noqa: ASYNC110 - until the server has seen the head
            await asyncio.sleep(0)
        line.say(b"hello")
        assert b"hello" in (await line.answer())[2]
    assert ways == [True, False]


async def test_requests_in_one_read_are_answered_in_their_order() -> None:
    """Pipelined ones wait for those before them."""
    release = asyncio.Event()

    async def slow_first(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/0":
            await release.wait()
        await receive()
        body = scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async with served(slow_first, Protocol) as port, Line.to(port) as line:
        line.say(b"".join(b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % n for n in range(9)))
        line.say(b"POST /9 HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\nx")
        release.set()
        assert [(await line.answer())[2] for _ in range(10)] == [b"/%d" % n for n in range(10)]


async def test_a_request_that_waits_for_another_has_nothing_of_it() -> None:
    """What is bound while one is served, as its id is, is not there when the next is."""
    bound: ContextVar[str] = ContextVar("bound", default="nothing")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        body = bound.get().encode()
        bound.set(scope["path"])
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async with served(app, Protocol) as port, Line.to(port) as line:
        line.say(b"".join(b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % n for n in range(3)))
        assert [(await line.answer())[2] for _ in range(3)] == [b"nothing"] * 3


async def test_a_stream_is_sent_part_by_part_and_hears_that_its_reader_has_gone() -> None:
    """As server-sent events need it."""
    gone = asyncio.Event()

    async def stream(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        gone.set()

    async with served(stream, Protocol) as port:
        async with Line.to(port) as line:
            line.say(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert (await line.head())[1][b"transfer-encoding"] == b"chunked"
            assert await line.exactly(8) == b"3\r\none\r\n"
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_stream_hears_that_its_reader_has_gone_who_asked_for_more() -> None:
    """A request that waits for the end of a stream does not hide from it that its reader went."""
    gone = asyncio.Event()

    async def stream(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"x", "more_body": True}
        hanging_up = asyncio.create_task(receive())
        while not hanging_up.done():
            await send(part)
            await asyncio.sleep(0)
        gone.set()

    async with served(stream, Protocol) as port:
        async with Line.to(port) as line:
            line.say(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            await line.head()
            line.say(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await asyncio.wait_for(gone.wait(), 5)


@pytest.mark.parametrize("late", [b"", b"0\r\nX-Name: Other\r\nAuthorization: x\r\n\r\n"])
async def test_a_trailer_is_no_header(late: bytes) -> None:
    """Whatever stands in front of us has looked at the headers alone."""
    end = b"0\r\nX-Name: Other\r\nAuthorization: x\r\n\r\n"
    chunks = POST + CHUNKED + b"3\r\nhel\r\n"
    async with served(tell, Protocol) as port, Line.to(port) as line:
        line.say(chunks + end.removesuffix(late) if late else chunks + end)
        if late:
            await asyncio.sleep(0)
            line.say(late)
        told = json.loads((await line.answer())[2])
        assert "Value" in told["headers"]
        assert "Other" not in told["headers"]
        assert "authorization" not in told["headers"]
        assert told["read"] == repr(b"hel")


ENDLESS: dict[str, bytes] = {
    "a path": b"GET /" + b"a" * 1024,
    "a name": b"GET / HTTP/1.1\r\n" + b"a" * 1024,
    "a value": b"GET / HTTP/1.1\r\na: " + b"a" * 1024,
    "headers": b"GET / HTTP/1.1\r\n" + b"a: a\r\n" * 170,
    "an extension of a chunk": POST + CHUNKED + b"1;" + b"a" * 1024,
    "trailers": POST + CHUNKED + b"0\r\n" + b"a: a\r\n" * 170,
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_has_no_end_is_refused(name: str) -> None:
    """Long before it is a burden: a head, and whatever else is not a body."""

    async def patient(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    more = ENDLESS[name][-1020:] * (10 * MAX_HEAD_BYTES // 1020)  # several reads
    async with served(patient, Protocol) as port, Line.to(port) as line:
        line.say(ENDLESS[name] + more)
        await line.closed()


async def test_who_says_nothing_is_not_waited_for() -> None:
    """Nor is one who does not come to the end of his first request."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError

    async with served(app, Protocol, timeout_keep_alive=1) as port:
        for said in (b"", b"GET / HT"):
            async with Line.to(port) as line:
                line.say(said)
                assert await line.ended()


async def test_who_hangs_up_before_his_answer_harms_nobody() -> None:
    """The application is not told, as it asks nothing; what it sends goes nowhere."""
    asked, answered = asyncio.Event(), asyncio.Event()
    release = asyncio.Event()

    async def late(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        asked.set()
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        answered.set()

    async with served(late, Protocol) as port:
        async with Line.to(port) as line:
            line.say(REQUESTS["whole"][0])
            await asked.wait()
        async with Line.to(port) as other:  # served after the hang-up was
            release.set()
            await asyncio.wait_for(answered.wait(), 5)
            other.say(REQUESTS["whole"][0])
            assert (await other.answer())[0] == b"HTTP/1.1 200 OK"


UNUSUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "closing": (
        {"status": 400, "headers": [(b"content-length", b"2"), (b"connection", b"close")]},
        {},
    ),
    "of no length": ({"status": 200, "headers": []}, {}),
    "of another length": ({"status": 200, "headers": [(b"content-length", b"3")]}, {}),
    "empty": ({"status": 204, "headers": []}, {"body": b""}),
    "with a line feed": (
        {"status": 200, "headers": [(b"content-length", b"2"), (b"x", b"a\r\nb: c")]},
        {},
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.filterwarnings("ignore")
async def test_an_unusual_answer_is_sent_as_uvicorn_sends_it(name: str) -> None:
    """What it would refuse is refused."""
    start, body = UNUSUAL[name]

    async def unusual(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": b"ab", **body})

    got = []
    for protocol in PROTOCOLS:
        async with served(unusual, protocol) as port, Line.to(port) as line:
            line.say(REQUESTS["to be closed"][0])
            reader = line._reader  # noqa: SLF001 - all there is, to the end
            got.append([row for row in (await reader.read()).split(b"\r\n") if b"date" not in row])
    assert got[0] == got[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_application_that_fails_or_says_nothing_is_a_500(
    protocol: type[HttpToolsProtocol],
) -> None:
    """And the connection is closed."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        elif scope["path"] == "/raise":
            raise RuntimeError

    for path in (b"/nothing", b"/half", b"/raise"):
        async with served(failing, protocol) as port, Line.to(port) as line:
            line.say(b"GET %b HTTP/1.1\r\nHost: here\r\n\r\n" % path)
            if path == b"/half" and protocol is HttpToolsProtocol:
                await line.head()  # it had sent that
            else:
                assert (await line.answer())[0] == b"HTTP/1.1 500 Internal Server Error"
            assert await line.ended()


async def test_bad_http_is_refused_and_closed() -> None:
    """In the head, or in the middle of a body."""
    bad = (b"GARBAGE\r\n\r\n", POST + CHUNKED + b"zz\r\n")
    for request in bad:
        async with served(tell, Protocol) as port, Line.to(port) as line:
            line.say(request)
            assert (await line.answer())[0] == b"HTTP/1.1 400 Bad Request"
            assert await line.ended()


async def test_an_idle_connection_is_closed_and_a_used_one_is_not() -> None:
    """By the time since it was last used, though no timer is set for each request."""
    async with served(tell, Protocol, timeout_keep_alive=0.3) as port:
        loop = asyncio.get_running_loop()
        async with Line.to(port) as line:
            begun_s = loop.time()
            while loop.time() - begun_s < 0.7:
                line.say(REQUESTS["whole"][0])
                await line.answer()
            used_at_s = loop.time()
            assert await asyncio.wait_for(line.ended(), 5)
            assert loop.time() - used_at_s > 0.25


async def test_at_the_end_an_answer_under_way_is_sent_and_closes() -> None:
    """A server that shuts down cuts nobody off."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def slow(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        asked.set()
        await release.wait()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(Config(slow, http=Protocol, ws="none", lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    async with Line.to(listening.getsockname()[1]) as line:
        line.say(REQUESTS["whole"][0])
        await asked.wait()
        server.should_exit = True
        while server.servers and server.servers[0].is_serving():  # noqa: ASYNC110 - of uvicorn
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # the connections are told right after
        release.set()
        head, headers, body = await line.answer()
        assert (head, body) == (b"HTTP/1.1 200 OK", b"ok")
        assert headers[b"connection"] == b"close"
        assert await line.ended()
    await serving
