"""A server in this process, and a connection to it that says what it is told to."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from uvicorn import Config, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    App = Callable[[Scope, Receive, Send], Any]

BOUND_S = 10


@asynccontextmanager
async def served(
    app: App,
    protocol: type[HttpToolsProtocol],
    *,
    state: dict[str, Any] | None = None,
    **kwargs: Any,
) -> AsyncIterator[int]:
    """A server of an app, with what the app's lifespan leaves in its state; gives its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    alive = "off" if state is None else "on"
    served = app if state is None else _living(app, state)
    config = Config(
        served,
        http=protocol,
        ws="none",
        lifespan=alive,
        log_config=None,
        timeout_graceful_shutdown=1,
        **kwargs,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:  # noqa: ASYNC110 - a flag of uvicorn's
        await asyncio.sleep(0)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = state is None
        await serving


def _living(app: App, state: dict[str, Any]) -> App:
    async def living(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"].update(state)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await app(scope, receive, send)

    return living


class Line:
    """A connection that says what it is told to, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int, address: str = "127.0.0.1") -> AsyncIterator[Line]:
        """A new one, from an address of this machine; it is there for ``BOUND_S`` at most."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        try:
            async with asyncio.timeout(BOUND_S):
                yield cls(reader, writer)
        finally:
            writer.close()

    def say(self, data: bytes) -> None:
        """Send."""
        self._writer.write(data)

    async def heard(self) -> None:
        """Wait until the server, which is in this loop, has read what was said."""
        await self._writer.drain()
        for _ in range(5):
            await asyncio.sleep(0)

    async def head(self) -> tuple[bytes, dict[bytes, bytes]]:
        """The status line and the headers of the next answer."""
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        assert headers.pop(b"date")
        return first, headers

    async def answer(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """The next answer, its body included."""
        first, headers = await self.head()
        if b"transfer-encoding" not in headers:
            return first, headers, await self.exactly(int(headers.get(b"content-length", 0)))
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += await self.exactly(size)
            await self.exactly(2)
        await self.exactly(2)
        return first, headers, body

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        return await self._reader.readexactly(count)

    async def ended(self) -> bool:
        """Whether the other side closes, without another word."""
        return await self._reader.read() == b""

    async def closed(self) -> None:
        """Wait until the other side closes, whatever it says, or is still told, before that."""
        with suppress(ConnectionError):
            while await self._reader.read(1024):
                pass
