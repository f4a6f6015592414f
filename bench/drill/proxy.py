"""A TCP proxy that misbehaves to order: it passes, delays, cuts, drops, or springs a trap.

Each program of the drill has a proxy of its own before Redis and one before Postgres, so that one
program can be cut off while the others go on, and a program can be killed at a named point: when
its request passes by, or when the answer comes back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

HOST: Final = "127.0.0.1"


class Trap(NamedTuple):
    """What happens, once, at the first request that has ``wanted`` in it (any of these bytes).

    Sprung before the request has passed on, or with ``at_answer`` when its answer has come and
    before that is passed on. Then the connection is cut, or with ``mute`` left without a word; with
    ``harmless`` it goes on.
    """

    wanted: tuple[bytes, ...]
    spring: Callable[[], None]
    at_answer: bool = False
    mute: bool = False
    harmless: bool = False


class Proxy:
    """One way from a program to a server; where it leads can be changed at any time."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.delay_s = 0.0
        self.refusing = False
        self.dropping = False
        self.trap: Trap | None = None
        self.links: set[Link] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self), HOST, 0)

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._server is None:
            raise RuntimeError("the proxy is not open")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def lead_to(self, upstream: tuple[str, int]) -> None:
        """Lead to another server from now on; what is connected is cut."""
        self.upstream = upstream
        self.cut()

    def cut(self) -> None:
        """Cut every connection."""
        for link in list(self.links):
            link.cut()

    def heal(self) -> None:
        """Pass everything again. Connections that lost a byte are cut."""
        self.delay_s, self.refusing, self.dropping, self.trap = 0.0, False, False, None
        for link in list(self.links):
            if link.torn:
                link.cut()

    def close(self) -> None:
        """Stop."""
        if self._server:
            self._server.close()
        self.cut()


class Link(asyncio.Protocol):
    """One connection of a program, and its other half to the server."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._set: Trap | None = None
        self.torn = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A program connects: so do we."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_server makes
        self._client = transport
        self._proxy.links.add(self)
        if self._proxy.refusing:
            self.cut()
        else:
            self._connecting = asyncio.ensure_future(self._connect())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """The program hung up."""
        self.cut()

    def data_received(self, data: bytes) -> None:
        """The program asks."""
        trap = self._proxy.trap
        if trap and any(wanted in data for wanted in trap.wanted):
            self._proxy.trap = None
            if trap.harmless:
                trap.spring()
            elif trap.at_answer:
                self._set = trap
            else:
                self._spring(trap)
                return
        self._pass(data, self._ask)

    def answered(self, data: bytes) -> None:
        """The server answers."""
        if self._set:
            trap, self._set = self._set, None
            self._spring(trap)
        else:
            self._pass(data, self._answer)

    def cut(self) -> None:
        """End both halves at once."""
        self._proxy.links.discard(self)
        for half in (self._client, self._server):
            if half:
                half.abort()

    def _pass(self, data: bytes, on: Callable[[bytes], None]) -> None:
        if self._proxy.dropping:
            self.torn = True
        elif self.torn:
            pass  # the rest of a stream that has a hole in it
        elif self._proxy.delay_s:
            asyncio.get_running_loop().call_later(self._proxy.delay_s, on, data)
        else:
            on(data)

    def _spring(self, trap: Trap) -> None:
        trap.spring()
        if trap.mute:
            self.torn = True
        else:
            self.cut()

    def _ask(self, data: bytes) -> None:
        if self._server is None:
            self._early.append(data)
        else:
            self._server.write(data)

    def _answer(self, data: bytes) -> None:
        if self._client:
            self._client.write(data)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            server, _ = await loop.create_connection(lambda: _Half(self), *self._proxy.upstream)
        except OSError:
            self.cut()
            return
        self._server = server
        if self not in self._proxy.links:
            server.abort()
            return
        server.writelines(self._early)


class _Half(asyncio.Protocol):
    """The half of a link that leads to the server."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def data_received(self, data: bytes) -> None:
        self._link.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._link.cut()
