"""A client of the API with one connection that it keeps: HTTP/1.1, as little of it as is needed."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """An answer of the API."""

    status: int
    headers: dict[str, str]
    body: Any


class Caller:
    """Somebody who calls the API."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection."""
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Make one call; a body that is not bytes is sent as JSON.

        Raises:
            OSError, EOFError: the answer was lost.
        """
        try:
            return await self._call(method, path, body, headers)
        except BaseException:
            self.hang_up()
            raise

    async def _call(self, method: str, path: str, body: object, headers: dict[str, str]) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        content = b"" if body is None else content
        named = {"Host": "onsale", "Content-Length": str(len(content))}
        if content:
            named["Content-Type"] = "application/json"
        named |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {named[name]}" for name in named)]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        told = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        text = await reader.readexactly(int(told.get("content-length", 0)))
        if told.get("connection") == "close":
            self.hang_up()
        return Answer(int(head[0].split()[1]), told, json.loads(text) if text else None)

    async def reserve(self, event_id: int, user_id: str, **headers: str) -> Answer:
        """Ask for a seat."""
        body = {"event_id": event_id, "user_id": user_id}
        return await self.call("POST", "/api/bookings/reserve", body, **headers)

    async def cancel(self, booking_id: int, **headers: str) -> Answer:
        """Give a seat back."""
        return await self.call("DELETE", f"/api/bookings/{booking_id}", **headers)

    async def read(self, booking_id: int) -> Answer:
        """Read a booking."""
        return await self.call("GET", f"/api/bookings/{booking_id}")

    async def available(self, event_id: int) -> int:
        """How many seats of an event are left."""
        answer = await self.call("GET", f"/api/events/{event_id}")
        assert answer.status == 200, answer  # noqa: PLR2004, S101 - the tests' language
        seats: int = answer.body["available_seats"]
        return seats
