"""Whatever is malformed is a 4xx that says what is wrong, and changes nothing in either store."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import pytest
from uvicorn import Config, Server

from api import prefer, routes
from api.problems import Refused
from api.protocol import Protocol
from api.requests import check_media

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from httpx2 import AsyncClient, Response
    from starlette.types import ASGIApp

    from engine.engine import Engine

    OpenEvent = Callable[[int], Awaitable[int]]
    Digest = Callable[[], Awaitable[object]]

RESERVE = "/api/bookings/reserve"
JSON = {"content-type": "application/json"}

# ``E`` stands for the id of an event that is open: only what is malformed is in the way of a seat.
BODIES: dict[str, bytes] = {
    # not JSON
    "empty": b"",
    "spaces": b"   ",
    "one NUL": b"\x00",
    "text": b"hello",
    "form": b"event_id=E&user_id=u",
    "xml": b"<event_id>E</event_id>",
    "byte order mark": b'\xef\xbb\xbf{"event_id":E,"user_id":"u"}',
    "utf-16": '{"event_id":1,"user_id":"u"}'.encode("utf-16"),
    "utf-32": '{"event_id":1,"user_id":"u"}'.encode("utf-32"),
    "NUL before": b'\x00{"event_id":E,"user_id":"u"}',
    "NUL after": b'{"event_id":E,"user_id":"u"}\x00',
    "open brace": b"{",
    "cut in a name": b'{"event_id":E,"user_',
    "cut after a colon": b'{"event_id":E,"user_id":',
    "cut in a string": b'{"event_id":E,"user_id":"u',
    "cut in an escape": b'{"event_id":E,"user_id":"u\\',
    "cut in a code point": b'{"event_id":E,"user_id":"\xd0',
    "cut before the end": b'{"event_id":E,"user_id":"u"',
    "trailing word": b'{"event_id":E,"user_id":"u"} x',
    "trailing brace": b'{"event_id":E,"user_id":"u"}}',
    "two objects": b'{"event_id":E,"user_id":"u"}{"event_id":E,"user_id":"v"}',
    "two lines": b'{"event_id":E,"user_id":"u"}\n{"event_id":E,"user_id":"v"}',
    "trailing comma": b'{"event_id":E,"user_id":"u",}',
    "leading comma": b'{,"event_id":E,"user_id":"u"}',
    "no comma": b'{"event_id":E "user_id":"u"}',
    "no colon": b'{"event_id" E,"user_id":"u"}',
    "semicolon": b'{"event_id":E;"user_id":"u"}',
    "line comment": b'{"event_id":E,"user_id":"u"} // please',
    "block comment": b'{"event_id":E,/* please */"user_id":"u"}',
    "hash comment": b'# please\n{"event_id":E,"user_id":"u"}',
    "single quotes": b"{'event_id':E,'user_id':'u'}",
    "bare names": b'{event_id:E,user_id:"u"}',
    "bare string": b'{"event_id":E,"user_id":u}',
    "vertical tab": b'{"event_id":E,\x0b"user_id":"u"}',
    "no-break space": '{"event_id":E,\u00a0"user_id":"u"}'.encode(),
    # JSON of another shape
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "string": b'"event"',
    "empty array": b"[]",
    "array of the object": b'[{"event_id":E,"user_id":"u"}]',
    "array of the values": b'[E,"u"]',
    "arrays nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "arrays nested 2,000 deep": b"[" * 2000 + b"]" * 2000,
    "objects nested deep": b'{"event_id":' * 300 + b"E" + b"}" * 300,
    "user nested deep": b'{"event_id":E,"user_id":' + b"[" * 1900 + b"]" * 1900 + b"}",
    "unknown field nested deep": b'{"event_id":E,"user_id":"u","x":'
    + b"[" * 1900
    + b"]" * 1900
    + b"}",
    "empty object": b"{}",
    "no event": b'{"user_id":"u"}',
    "no user": b'{"event_id":E}',
    "unknown field": b'{"event_id":E,"user_id":"u","seats":2}',
    "unknown field instead": b'{"event_id":E,"userId":"u"}',
    "upper case": b'{"EVENT_ID":E,"USER_ID":"u"}',
    "empty name": b'{"event_id":E,"user_id":"u","":1}',
    "name with a NUL": b'{"event_id":E,"user_id":"u","user_id\\u0000":"v"}',
    "wrapped": b'{"booking":{"event_id":E,"user_id":"u"}}',
    "event twice": b'{"event_id":E,"event_id":E,"user_id":"u"}',
    "user twice": b'{"event_id":E,"user_id":"u","user_id":"v"}',
    "user twice, the same": b'{"event_id":E,"user_id":"u","user_id":"u"}',
    "user twice, once escaped": b'{"event_id":E,"user_id":"u","user_\\u0069d":"v"}',
    "event twice, once escaped": b'{"event_id":E,"\\u0065vent_id":E,"user_id":"u"}',
    # event_id
    "event null": b'{"event_id":null,"user_id":"u"}',
    "event true": b'{"event_id":true,"user_id":"u"}',
    "event false": b'{"event_id":false,"user_id":"u"}',
    "event string": b'{"event_id":"E","user_id":"u"}',
    "event empty string": b'{"event_id":"","user_id":"u"}',
    "event array": b'{"event_id":[E],"user_id":"u"}',
    "event object": b'{"event_id":{"id":E},"user_id":"u"}',
    "event -1": b'{"event_id":-1,"user_id":"u"}',
    "event 0": b'{"event_id":0,"user_id":"u"}',
    "event -0": b'{"event_id":-0,"user_id":"u"}',
    "event 2**31": b'{"event_id":2147483648,"user_id":"u"}',
    "event 2**32 + E": b'{"event_id":429496729E,"user_id":"u"}',
    "event 2**53": b'{"event_id":9007199254740992,"user_id":"u"}',
    "event 2**63": b'{"event_id":9223372036854775808,"user_id":"u"}',
    "event 2**64 + 1": b'{"event_id":18446744073709551617,"user_id":"u"}',
    "event 10**3000": b'{"event_id":1' + b"0" * 3000 + b',"user_id":"u"}',
    "event 10**5000": b'{"event_id":1' + b"0" * 5000 + b',"user_id":"u"}',
    "event E.0": b'{"event_id":E.0,"user_id":"u"}',
    "event Ee0": b'{"event_id":Ee0,"user_id":"u"}',
    "event 1e3": b'{"event_id":1e3,"user_id":"u"}',
    "event 1e400": b'{"event_id":1e400,"user_id":"u"}',
    "event 1e-400": b'{"event_id":1e-400,"user_id":"u"}',
    "event 1.5": b'{"event_id":1.5,"user_id":"u"}',
    "event 0E": b'{"event_id":0E,"user_id":"u"}',
    "event +E": b'{"event_id":+E,"user_id":"u"}',
    "event 0x1": b'{"event_id":0x1,"user_id":"u"}',
    "event 1_0": b'{"event_id":1_0,"user_id":"u"}',
    "event 1,0": b'{"event_id":1,0,"user_id":"u"}',
    "event NaN": b'{"event_id":NaN,"user_id":"u"}',
    "event Infinity": b'{"event_id":Infinity,"user_id":"u"}',
    "event -Infinity": b'{"event_id":-Infinity,"user_id":"u"}',
    "event in Arabic digits": b'{"event_id":\xd9\xa1,"user_id":"u"}',
    # user_id
    "user null": b'{"event_id":E,"user_id":null}',
    "user true": b'{"event_id":E,"user_id":true}',
    "user number": b'{"event_id":E,"user_id":1}',
    "user float": b'{"event_id":E,"user_id":1.5}',
    "user array": b'{"event_id":E,"user_id":["u"]}',
    "user object": b'{"event_id":E,"user_id":{"$ne":null}}',
    "user NaN": b'{"event_id":E,"user_id":NaN}',
    "user empty": b'{"event_id":E,"user_id":""}',
    "user of 256": b'{"event_id":E,"user_id":"' + b"u" * 256 + b'"}',
    "user of 256 astral": b'{"event_id":E,"user_id":"' + "🎫".encode() * 256 + b'"}',
    "user of 4,000": b'{"event_id":E,"user_id":"' + b"u" * 4000 + b'"}',
    "user with a raw NUL": b'{"event_id":E,"user_id":"u\x00"}',
    "user with a raw line feed": b'{"event_id":E,"user_id":"u\n"}',
    "user with a raw tab": b'{"event_id":E,"user_id":"\tu"}',
    "user with a raw DEL": b'{"event_id":E,"user_id":"u\x7f"}',
    "user with a raw C1": '{"event_id":E,"user_id":"u\u0085"}'.encode(),
    "user NUL only": b'{"event_id":E,"user_id":"\\u0000"}',
    "user with a NUL": b'{"event_id":E,"user_id":"u\\u0000v"}',
    "user with U+0001": b'{"event_id":E,"user_id":"\\u0001"}',
    "user with a tab": b'{"event_id":E,"user_id":"u\\tv"}',
    "user with a line feed": b'{"event_id":E,"user_id":"u\\nv"}',
    "user with a line feed last": b'{"event_id":E,"user_id":"u\\n"}',
    "user with a carriage return last": b'{"event_id":E,"user_id":"u\\r"}',
    "user with ESC": b'{"event_id":E,"user_id":"\\u001b[31m"}',
    "user with U+001F": b'{"event_id":E,"user_id":"u\\u001f"}',
    "user with DEL": b'{"event_id":E,"user_id":"u\\u007f"}',
    "user with U+0080": b'{"event_id":E,"user_id":"\\u0080u"}',
    "user with U+009F": b'{"event_id":E,"user_id":"u\\u009f"}',
    "lone high surrogate": b'{"event_id":E,"user_id":"\\ud800"}',
    "lone high surrogate last": b'{"event_id":E,"user_id":"uuuuuuuuuu\\udbff"}',
    "lone low surrogate": b'{"event_id":E,"user_id":"\\udc00"}',
    "lone low surrogate first": b'{"event_id":E,"user_id":"\\udfffuuuuuuuuuu"}',
    "surrogates reversed": b'{"event_id":E,"user_id":"\\udc00\\ud800"}',
    "two high surrogates": b'{"event_id":E,"user_id":"\\ud83d\\ud83d"}',
    "surrogate as UTF-8": b'{"event_id":E,"user_id":"\xed\xa0\x80"}',
    "surrogate pair as UTF-8": b'{"event_id":E,"user_id":"\xed\xa0\xbd\xed\xb8\x80"}',
    "lone continuation byte": b'{"event_id":E,"user_id":"\x80"}',
    "byte 0xff": b'{"event_id":E,"user_id":"u\xff"}',
    "overlong NUL": b'{"event_id":E,"user_id":"\xc0\x80"}',
    "overlong slash": b'{"event_id":E,"user_id":"\xc0\xaf"}',
    "beyond U+10FFFF": b'{"event_id":E,"user_id":"\xf4\x90\x80\x80"}',
    "latin-1": '{"event_id":E,"user_id":"é"}'.encode("latin-1"),
    "invalid UTF-8 in a name": b'{"event_id":E,"user_id":"u","\xff":1}',
    "escape of nothing": b'{"event_id":E,"user_id":"\\x41"}',
    "short escape": b'{"event_id":E,"user_id":"\\u12"}',
    "escape not of digits": b'{"event_id":E,"user_id":"\\u00zz"}',
}

TOO_LARGE: dict[str, bytes] = {
    "4,097 bytes": b'{"event_id":E,"user_id":"u"}'.ljust(4097),
    "10 MB of spaces": b" " * 10_000_000,
    "10 MB of arrays": b"[" * 10_000_000,
}

HEADERS: dict[str, tuple[int, dict[str, str]]] = {
    "no content type": (415, {}),
    "empty content type": (415, {"content-type": ""}),
    "text": (415, {"content-type": "text/plain"}),
    "a form": (415, {"content-type": "application/x-www-form-urlencoded"}),
    "multipart": (415, {"content-type": "multipart/form-data; boundary=x"}),
    "json as text": (415, {"content-type": "text/json"}),
    "json with a suffix": (415, {"content-type": "application/json-patch+json"}),
    "json with a prefix": (415, {"content-type": "x-application/json"}),
    "json lines": (415, {"content-type": "application/jsonl"}),
    "two types": (415, {"content-type": "application/json, text/plain"}),
    "any type": (415, {"content-type": "*/*"}),
    "another charset": (415, {"content-type": "application/json; charset=utf-16"}),
    "charset of the first system": (415, {"content-type": "application/json;charset=cp1251"}),
    "gzip": (415, {**JSON, "content-encoding": "gzip"}),
    "deflate": (415, {**JSON, "content-encoding": "deflate"}),
    "brotli": (415, {**JSON, "content-encoding": "br"}),
    "zstandard": (415, {**JSON, "content-encoding": "zstd"}),
    "two encodings": (415, {**JSON, "content-encoding": "identity, gzip"}),
    "empty key": (400, {**JSON, "idempotency-key": ""}),
    "key of 256": (400, {**JSON, "idempotency-key": "k" * 256}),
    "key with a tab": (400, {**JSON, "idempotency-key": "a\tb"}),
    "key in Cyrillic": (400, {**JSON, "idempotency-key": "ключ".encode().decode("latin-1")}),
    "key with DEL": (400, {**JSON, "idempotency-key": "a\x7f"}),
}

CALLS: dict[str, tuple[int, str, str]] = {
    "booking abc": (400, "GET", "/api/bookings/abc"),
    "booking 0": (400, "GET", "/api/bookings/0"),
    "booking -1": (400, "GET", "/api/bookings/-1"),
    "booking +1": (400, "GET", "/api/bookings/+1"),
    "booking 01": (400, "GET", "/api/bookings/01"),
    "booking 1.0": (400, "GET", "/api/bookings/1.0"),
    "booking 1e3": (400, "GET", "/api/bookings/1e3"),
    "booking 2**53": (400, "GET", f"/api/bookings/{2**53}"),
    "booking 10**5000": (400, "GET", "/api/bookings/1" + "0" * 5000),
    "booking of spaces": (400, "GET", "/api/bookings/%20"),
    "booking with a space": (400, "GET", "/api/bookings/1%20"),
    "booking with a line feed": (400, "GET", "/api/bookings/1%0A"),
    "booking NUL": (400, "GET", "/api/bookings/%00"),
    "booking in Arabic digits": (400, "GET", "/api/bookings/%D9%A1"),
    "booking not UTF-8": (400, "GET", "/api/bookings/%FF"),
    "cancel abc": (400, "DELETE", "/api/bookings/abc"),
    "cancel 0": (400, "DELETE", "/api/bookings/0"),
    "cancel 2**53": (400, "DELETE", f"/api/bookings/{2**53}"),
    "cancel all": (400, "DELETE", "/api/bookings/*"),
    "event abc": (400, "GET", "/api/events/abc"),
    "event 0": (400, "GET", "/api/events/0"),
    "event 2**31": (400, "GET", f"/api/events/{2**31}"),
    "event 1;DROP": (400, "GET", "/api/events/1;DROP TABLE events"),
    "list of 0": (400, "GET", "/api/events?limit=0"),
    "list of -1": (400, "GET", "/api/events?limit=-1"),
    "list of 101": (400, "GET", "/api/events?limit=101"),
    "list of 1000": (400, "GET", "/api/events?limit=1000"),
    "list of 1.5": (400, "GET", "/api/events?limit=1.5"),
    "list of +1": (400, "GET", "/api/events?limit=%2B1"),
    "list of a space": (400, "GET", "/api/events?limit=1%20"),
    "list of ten": (400, "GET", "/api/events?limit=ten"),
    "list of Arabic digits": (400, "GET", "/api/events?limit=%D9%A1"),
    "list of nothing": (400, "GET", "/api/events?limit="),
    "list without a value": (400, "GET", "/api/events?limit"),
    "list of two limits": (400, "GET", "/api/events?limit=1&limit=1"),
    "list of two cursors": (400, "GET", "/api/events?after=1&after=2"),
    "list with an unknown parameter": (400, "GET", "/api/events?sort=name"),
    "list with a long unknown name": (400, "GET", "/api/events?" + "x" * 4000 + "=1"),
    "list with an upper-case name": (400, "GET", "/api/events?LIMIT=1"),
    "list with an empty name": (400, "GET", "/api/events?=1"),
    "list with a lone ampersand": (400, "GET", "/api/events?&"),
    "list with a name not UTF-8": (400, "GET", "/api/events?%FF=1"),
    "list with a value not UTF-8": (400, "GET", "/api/events?limit=%FF"),
    "events after nothing": (400, "GET", "/api/events?after="),
    "events after 00": (400, "GET", "/api/events?after=00"),
    "events after -1": (400, "GET", "/api/events?after=-1"),
    "events after 2**31": (400, "GET", f"/api/events?after={2**31}"),
    "events after abc": (400, "GET", "/api/events?after=abc"),
    "bookings of event 0": (400, "GET", "/api/events/0/bookings"),
    "bookings of event abc": (400, "GET", "/api/events/abc/bookings"),
    "bookings after nobody": (400, "GET", "/api/events/1/bookings?after="),
    "bookings after a NUL": (400, "GET", "/api/events/1/bookings?after=%00"),
    "bookings after 256": (400, "GET", "/api/events/1/bookings?after=" + "u" * 256),
    "bookings with a user": (400, "GET", "/api/events/1/bookings?user=ann"),
    "bookings of nobody": (400, "GET", "/api/users//bookings"),
    "bookings of a NUL": (400, "GET", "/api/users/%00/bookings"),
    "bookings of a user not UTF-8": (400, "GET", "/api/users/%FF/bookings"),
    "bookings of a user of 256": (400, "GET", f"/api/users/{'u' * 256}/bookings"),
    "user's bookings after 1": (400, "GET", "/api/users/u/bookings?after=1"),
    "user's bookings after 1-0": (400, "GET", "/api/users/u/bookings?after=1-0"),
    "user's bookings after 10**18": (400, "GET", f"/api/users/u/bookings?after={10**18}-1"),
    "user's bookings after -10**17": (400, "GET", f"/api/users/u/bookings?after=-{10**17}-1"),
    "user's bookings after -10**18 + 1": (
        400,
        "GET",
        f"/api/users/u/bookings?after=-{10**18 - 1}-1",
    ),
    "user's bookings after booking 10**16": (400, "GET", f"/api/users/u/bookings?after=1-{10**16}"),
    "change no event": (400, "PATCH", "/api/events/0"),
    "make an event of nothing": (415, "POST", "/api/events"),
    "user empty": (400, "GET", "/metrics/"),
    "user NUL": (400, "GET", "/metrics/%00"),
    "user with a line feed": (400, "GET", "/metrics/u%0A"),
    "user with DEL": (400, "GET", "/metrics/%7F"),
    "user with C1": (400, "GET", "/metrics/%C2%85"),
    "user not UTF-8": (400, "GET", "/metrics/%FF"),
    "user a surrogate": (400, "GET", "/metrics/%ED%A0%80"),
    "user of 256": (400, "GET", "/metrics/" + "u" * 256),
    "nothing": (404, "GET", "/"),
    "no such path": (404, "GET", "/api/nothing"),
    "a path too far": (404, "GET", "/api/bookings/1/seats"),
    "a slash too many": (404, "GET", "/api/events/1/"),
    "no id": (404, "GET", "/api/bookings/"),
    "up and out": (404, "GET", "/api/%2e%2e%2f%2e%2e%2fetc/passwd"),
    "read reserve": (405, "GET", RESERVE),
    "put reserve": (405, "PUT", RESERVE),
    "delete reserve": (405, "DELETE", RESERVE),
    "post a booking": (405, "POST", "/api/bookings/1"),
    "patch a booking": (405, "PATCH", "/api/bookings/1"),
    "delete an event": (405, "DELETE", "/api/events/1"),
    "delete all events": (405, "DELETE", "/api/events"),
    "post a user's booking": (405, "POST", "/api/users/u/bookings"),
    "a user": (404, "GET", "/api/users/u"),
    "trace": (405, "TRACE", "/health"),
    "post health": (405, "POST", "/health"),
}

RAW: dict[str, bytes] = {
    "not HTTP": b"hello\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "a Redis command": b"*1\r\n$8\r\nFLUSHALL\r\n",
    "no such method": b"BREW /health HTTP/1.1\r\nhost: x\r\n\r\n",
    "no such version": b"GET /health HTTP/9.9\r\nhost: x\r\n\r\n",
    "a NUL in the path": b"GET /heal\x00th HTTP/1.1\r\nhost: x\r\n\r\n",
    "a NUL in a header": b"GET /health HTTP/1.1\r\nhost: x\x00\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nhost x\r\n\r\n",
    "a space before the colon": b"GET /health HTTP/1.1\r\nhost : x\r\n\r\n",
    "length abc": b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: abc\r\n\r\n{}",
    "length -1": b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}",
    "length 1.5": b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 1.5\r\n\r\n{}",
    "length 2**64": (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551616\r\n\r\n{}"
    ),
    "length 2**63": b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 9223372036854775808\r\n\r\n{}",
    "two lengths": (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"
    ),
    "length and chunks": (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}"
    ),
    "chunk of zz": (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"
    ),
    "chunk of -1": (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n"
    ),
    "chunk longer than it says": (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n"
    ),
    "chunks over 4,096 bytes": (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n" + (b"400\r\n" + b" " * 1024 + b"\r\n") * 5
    ),
    "chunks without a type": (
        b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "an upgrade": (
        b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"content-length: 2\r\n\r\n{}"
    ),
}


def test_there_are_more_than_two_hundred_kinds() -> None:
    """The tables hold at least 200 kinds of malformed input."""
    assert len(BODIES) + len(TOO_LARGE) + len(HEADERS) + len(CALLS) + len(RAW) >= 200


@pytest.mark.parametrize("kind", BODIES)
async def test_malformed_body(
    kind: str, client: AsyncClient, open_event: OpenEvent, stores_digest: Digest
) -> None:
    """A body that is not the object this call takes: 4xx, with the reason, and nothing changes."""
    body = _with_event(BODIES[kind], await open_event(10))
    before = await stores_digest()
    answer = await client.post(RESERVE, content=body, headers=JSON)
    _assert_problem(answer, 413 if len(body) > 4096 else 400)
    assert await stores_digest() == before


EVENTS: dict[str, bytes] = {
    "empty": b"",
    "text": b"Opening night",
    "an array": b'["e",1]',
    "another's fields": b'{"event_id":1,"user_id":"u"}',
    "an unknown field": b'{"name":"e","total_seats":1,"price":1}',
    "name twice": b'{"name":"e","name":"e","total_seats":1}',
    "seats twice": b'{"name":"e","total_seats":1,"total_seats":2}',
    "name null": b'{"name":null,"total_seats":1}',
    "name a number": b'{"name":1,"total_seats":1}',
    "name empty": b'{"name":"","total_seats":1}',
    "name of 256": b'{"name":"' + b"e" * 256 + b'","total_seats":1}',
    "name with a NUL": b'{"name":"e\\u0000","total_seats":1}',
    "name with a line feed": b'{"name":"e\\n","total_seats":1}',
    "name with a lone surrogate": b'{"name":"\\ud800","total_seats":1}',
    "name not UTF-8": b'{"name":"\xff","total_seats":1}',
    "seats null": b'{"name":"e","total_seats":null}',
    "seats true": b'{"name":"e","total_seats":true}',
    "seats a string": b'{"name":"e","total_seats":"1"}',
    "seats -1": b'{"name":"e","total_seats":-1}',
    "seats 1.5": b'{"name":"e","total_seats":1.5}',
    "seats 2**31": b'{"name":"e","total_seats":2147483648}',
    "over 4,096 bytes": b'{"name":"e","total_seats":1}'.ljust(4097),
}


@pytest.mark.parametrize("call", ["make", "change"])
@pytest.mark.parametrize("kind", EVENTS)
async def test_malformed_event(
    kind: str, call: str, client: AsyncClient, open_event: OpenEvent, stores_digest: Digest
) -> None:
    """What is no event, and no change of one: 4xx, with the reason, and nothing changes."""
    event_id = await open_event(10)
    before = await stores_digest()
    method, path = ("POST", "") if call == "make" else ("PATCH", f"/{event_id}")
    body = EVENTS[kind]
    answer = await client.request(method, f"/api/events{path}", content=body, headers=JSON)
    _assert_problem(answer, 413 if len(body) > 4096 else 400)
    assert await stores_digest() == before


@pytest.mark.parametrize(
    ("method", "body", "reason"),
    [
        ("POST", b'{"name":"e"}', "`total_seats`"),
        ("POST", b'{"total_seats":1}', "`name`"),
        ("PATCH", b"{}", "something to change"),
        ("PATCH", EVENTS["name with a NUL"], "`name` must not hold control characters"),
        ("POST", EVENTS["seats -1"], "`$.total_seats`"),
        ("POST", EVENTS["name with a lone surrogate"], "lone surrogate"),
    ],
)
async def test_reason_of_an_event(
    method: str, body: bytes, reason: str, client: AsyncClient, open_event: OpenEvent
) -> None:
    """The detail names the field."""
    path = "/api/events" if method == "POST" else f"/api/events/{await open_event(1)}"
    answer = await client.request(method, path, content=body, headers=JSON)
    assert answer.json()["code"] == "invalid_body"
    assert reason in answer.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("list of 101", "`limit` must be an integer from 1 to 100"),
        ("list with an unknown parameter", "`sort` is no parameter"),
        ("list of two cursors", "`after` is there more than once"),
        ("events after abc", "`after` must be the `next`"),
        ("user's bookings after 1", "`after` must be the `next`"),
        ("list with a name not UTF-8", "UTF-8"),
    ],
)
async def test_reason_of_a_query(kind: str, reason: str, client: AsyncClient) -> None:
    """The detail names the parameter."""
    _, method, path = CALLS[kind]
    answer = await client.request(method, path)
    assert answer.json()["code"] == "invalid_query"
    assert reason in answer.json()["detail"]


REASONS: dict[str, str] = {
    "empty": "empty",
    "byte order mark": "byte 0",
    "cut in a string": "truncated",
    "unknown field": "`seats`",
    "no user": "`user_id`",
    "user twice, once escaped": "`user_id` is there more than once",
    "event E.0": "got `float` - at `$.event_id`",
    "event NaN": "byte 12",
    "user with a NUL": "control characters",
    "lone high surrogate": "lone surrogate",
    "two high surrogates": "lone surrogate",
    "byte 0xff": "not UTF-8",
}


@pytest.mark.parametrize("kind", REASONS)
async def test_reason(kind: str, client: AsyncClient) -> None:
    """The detail says what was wrong, and where."""
    answer = await client.post(RESERVE, content=_with_event(BODIES[kind], 1), headers=JSON)
    assert REASONS[kind] in answer.json()["detail"]


@pytest.mark.parametrize("kind", TOO_LARGE)
async def test_body_too_large(
    kind: str, client: AsyncClient, open_event: OpenEvent, stores_digest: Digest
) -> None:
    """A body over 4 KB: 413, also where it is valid."""
    body = _with_event(TOO_LARGE[kind], await open_event(10))
    before = await stores_digest()
    _assert_problem(await client.post(RESERVE, content=body, headers=JSON), 413)
    assert await stores_digest() == before


async def test_body_too_large_in_chunks(client: AsyncClient, open_event: OpenEvent) -> None:
    """A body that does not say its length is cut off at 4 KB all the same, though it is valid."""
    body = _with_event(b'{"event_id":E,"user_id":"u"}', await open_event(10))

    async def chunks() -> AsyncIterator[bytes]:
        yield body
        for _ in range(8):
            yield b" " * 512

    _assert_problem(await client.post(RESERVE, content=chunks(), headers=JSON), 413)


@pytest.mark.parametrize("kind", HEADERS)
async def test_malformed_headers(
    kind: str, client: AsyncClient, open_event: OpenEvent, stores_digest: Digest
) -> None:
    """A good body with headers that spoil it."""
    status, headers = HEADERS[kind]
    body = _with_event(b'{"event_id":E,"user_id":"u"}', await open_event(10))
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    before = await stores_digest()
    _assert_problem(await client.post(RESERVE, content=body, headers=raw), status)
    assert await stores_digest() == before


@pytest.mark.parametrize("kind", CALLS)
async def test_malformed_call(kind: str, client: AsyncClient, stores_digest: Digest) -> None:
    """An id, a path or a method that does not exist."""
    status, method, path = CALLS[kind]
    before = await stores_digest()
    _assert_problem(await client.request(method, path), status)
    assert await stores_digest() == before


@pytest.mark.parametrize("kind", RAW)
async def test_malformed_protocol(kind: str, live_api: str, stores_digest: Digest) -> None:
    """Bytes that are no good HTTP: 4xx, by us or by the server in front of us."""
    before = await stores_digest()
    status, head, body = await _exchange(live_api, RAW[kind].replace(b"%b", RESERVE.encode()))
    assert 400 <= status < 500
    assert body
    if b"application/problem+json" in head:
        assert json.loads(body)["detail"]
    assert await stores_digest() == before


async def test_body_that_never_comes(
    live_api: str, open_event: OpenEvent, stores_digest: Digest
) -> None:
    """A caller who goes away in the middle of a body changes nothing."""
    body = _with_event(b'{"event_id":E,"user_id":"u"}', await open_event(10))
    before = await stores_digest()
    address = urlsplit(live_api)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(_post(len(body)) + body[:-1])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await stores_digest() == before


@pytest.mark.parametrize("interval", [0.05, 60.0], ids=["a byte at a time", "not at all"])
async def test_slow_body(interval: float) -> None:
    """A body that does not arrive within the bound: 408, and the connection is closed."""
    app = routes.build(cast("Engine", None), wait_ms=0, body_seconds=0.4)
    async with _serving(app) as base_url:
        status, head, body = await _exchange(base_url, _post(4000) + b"{" * 20, interval=interval)
    assert status == 408
    assert b"\r\nconnection: close" in head
    assert json.loads(body)["code"] == "body_too_slow"


ACCEPTED: dict[str, tuple[bytes, dict[str, str]]] = {
    "plain": (b'{"event_id":E,"user_id":"u"}', JSON),
    "spaced out": (b' \r\n\t{ "user_id" : "u" , "event_id" : E } \n', JSON),
    "almost 4,096 bytes": (b'{"event_id":E,"user_id":"u"}'.ljust(4085), JSON),
    "255 astral characters": (b'{"event_id":E,"user_id":"' + "🎫".encode() * 255 + b'"}', JSON),
    "a surrogate pair": (b'{"event_id":E,"user_id":"\\ud83c\\udfab"}', JSON),
    "an escaped name": (b'{"\\u0065vent_id":E,"user_id":"u"}', JSON),
    "colons in the user": (b'{"event_id":E,"user_id":"urn:user:1"}', JSON),
    "quotes in the user": (b'{"event_id":E,"user_id":"\\"\\\\u\\""}', JSON),
    "a separator of lines": ('{"event_id":E,"user_id":"u\u2028"}'.encode(), JSON),
    "Cyrillic": ('{"event_id":E,"user_id":"Пользователь"}'.encode(), JSON),
    "a charset": (
        b'{"event_id":E,"user_id":"u"}',
        {"content-type": "application/json; charset=UTF-8"},
    ),
    "a quoted charset": (
        b'{"event_id":E,"user_id":"u"}',
        {"content-type": 'Application/JSON ;charset="utf-8" '},
    ),
    "another parameter": (
        b'{"event_id":E,"user_id":"u"}',
        {"content-type": "application/json;v=1"},
    ),
    "identity": (b'{"event_id":E,"user_id":"u"}', {**JSON, "content-encoding": "Identity"}),
    "a key": (b'{"event_id":E,"user_id":"u"}', {**JSON, "idempotency-key": "k" * 255}),
    "a bad preference": (b'{"event_id":E,"user_id":"u"}', {**JSON, "prefer": 'wait=="'}),
}


@pytest.mark.parametrize("kind", ACCEPTED)
async def test_unusual_but_good(kind: str, client: AsyncClient, open_event: OpenEvent) -> None:
    """What is well-formed is not refused for looking strange, and comes back as it went in."""
    template, headers = ACCEPTED[kind]
    body = _with_event(template, await open_event(10))
    answer = await client.post(RESERVE, content=body, headers=headers)
    assert answer.status_code in (201, 202), answer.text
    assert answer.json()["user_id"] == json.loads(body)["user_id"]


@pytest.mark.parametrize(
    "path",
    ["/%6detrics/a%2Fb", "/metrics/a/b", "/metr%69cs%2Fa%2Fb", "/%61pi/users/a%2Fb/book%69ngs"],
)
async def test_a_path_is_what_it_decodes_to(path: str, live_api: str) -> None:
    """However it is written, it is the same user's."""
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    status, _, body = await _exchange(live_api, request)
    assert status == 200
    assert json.loads(body).get("user_id", "a/b") == "a/b"


def _read_media(content_type: bytes) -> None:
    with suppress(Refused):
        check_media({b"content-type": content_type})


@pytest.mark.parametrize(
    ("read", "header"),
    [
        (_read_media, b"application/json" + b";  " * 12 + b"\x80"),
        (_read_media, b"application/json;" + b" " * 10_000 + b"x\x80"),
        (prefer.parse, b"wait=" + b" " * 10_000 + b'"'),
    ],
)
def test_nobody_chooses_how_long_his_header_is_read(
    read: Callable[[bytes], object], header: bytes
) -> None:
    """The event loop stands still meanwhile: a bad header costs about what a good one does."""
    good = b"a" * len(header)
    times_s = []
    for each in (good, header):
        begun_s = time.process_time()
        for _ in range(20):
            read(each)
        times_s.append(time.process_time() - begun_s)
    assert times_s[1] < 100 * times_s[0] + 0.01


def _with_event(template: bytes, event_id: int) -> bytes:
    return re.sub(rb"(?<![A-Za-z_])E(?![A-Z_])", b"%d" % event_id, template)


def _post(length: int) -> bytes:
    return (
        f"POST {RESERVE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


def _assert_problem(answer: Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["error"]


async def _exchange(
    base_url: str, request: bytes, *, interval: float = 0
) -> tuple[int, bytes, bytes]:
    """Send bytes as they are, the head at once and the rest slowly; return what came back."""
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    at_once = request.index(b"\r\n\r\n") + 4 if interval else len(request)
    writer.write(request[:at_once])
    dripping = asyncio.create_task(_drip(writer, request[at_once:], interval))
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            return int(head.split()[1]), head, await reader.readexactly(length)
    finally:
        dripping.cancel()
        writer.close()


async def _drip(writer: asyncio.StreamWriter, rest: bytes, interval: float) -> None:
    for byte in rest:
        writer.write(bytes([byte]))
        await asyncio.sleep(interval)


@asynccontextmanager
async def _serving(app: ASGIApp) -> AsyncIterator[str]:
    """A real server for an app that needs no engine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(Config(app, http=Protocol, ws="none", lifespan="off", log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
