"""Somebody who listens to an event, by HTTP/1.1 and server-sent events as they are on the wire."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from tests.world import BOUND_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Message(NamedTuple):
    """One message."""

    id: int
    kind: str
    data: dict[str, Any]


class Ears:
    """An open stream. ``retry_ms`` and ``beats`` are what was heard of them so far."""

    def __init__(self, reader: asyncio.StreamReader, head: str) -> None:
        self._reader = reader
        self.status = int(head.split()[1])
        self.head = head.lower()
        self.retry_ms = 0
        self.beats = 0
        self._text = ""

    async def next(self) -> Message:
        """The next message.

        Raises:
            EOFError: the stream has ended.
        """
        async with asyncio.timeout(BOUND_S):
            while True:
                while "\n\n" in self._text:
                    block, _, self._text = self._text.partition("\n\n")
                    if message := self._read(block):
                        return message
                self._text += await self._chunk()

    async def until(self, fact: Callable[[Message], object]) -> list[Message]:
        """All messages up to the first of which this is so."""
        heard = [await self.next()]
        while not fact(heard[-1]):
            heard.append(await self.next())
        return heard

    async def _chunk(self) -> str:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        chunk = (await self._reader.readexactly(size + 2))[:size]
        if not size:
            raise EOFError
        return chunk.decode()

    def _read(self, block: str) -> Message | None:
        fields = dict(line.split(":", 1) for line in block.splitlines())
        if "" in fields:
            self.beats += 1
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        if "data" not in fields:
            return None
        return Message(int(fields["id"]), fields["event"].strip(), json.loads(fields["data"]))


@asynccontextmanager
async def listening(url: str, event_id: int, after: int | None = None) -> AsyncIterator[Ears]:
    """Listen to an event."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    last = "" if after is None else f"Last-Event-ID: {after}\r\n"
    writer.write(f"GET /api/events/{event_id}/stream HTTP/1.1\r\nHost: a\r\n{last}\r\n".encode())
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        yield Ears(reader, head)
    finally:
        writer.close()
        await writer.wait_closed()
