"""``python -m bench.listeners``: what a sale loses to those who watch it.

Starts an engine of its own with one API process, and sells one hot event: in turns with nobody who
listens to it, and with ``LISTENERS``, who are one process that reads and throws away. Prints the
confirmed bookings a second of each, as medians of the rounds, and their ratio; and what a listener
was told. Callers, listeners and both servers share the machine's cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from urllib.parse import urlsplit

import asyncpg
import uvloop

from bench.caller import Caller
from bench.reconcile import engine, first_sale, say
from bench.speed.load import Load, drive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LISTENERS: Final = 2000
ROUNDS: Final = 5
SECONDS: Final = 8
CONNECTIONS: Final = 64
PLENTY: Final = 2_000_000
AT_ONCE: Final = 100
READY: Final = "ready\n"


class Heard(NamedTuple):
    """What all listeners together were sent."""

    messages: int
    least: int
    most: int


class Ear(asyncio.Protocol):
    """One who listens: he counts messages and keeps nothing."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.messages = 0
        self.begun = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count."""
        self.messages += data.count(b"\ndata: ")
        if not self.begun.done():
            self.begun.set_result(None)


async def listen(url: str, event_id: int, listeners: int) -> None:
    """Listen until standard input ends; then print what was heard since it began."""
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    host, port = parts.hostname or "", parts.port or 80
    request = b"GET /api/events/%d/stream HTTP/1.1\r\nHost: onsale\r\n\r\n" % event_id
    ears: list[Ear] = []
    for first in range(0, listeners, AT_ONCE):
        made = await asyncio.gather(
            *(
                loop.create_connection(lambda: Ear(request), host, port)
                for _ in range(min(AT_ONCE, listeners - first))
            )
        )
        ears += [ear for _, ear in made]
        await asyncio.gather(*(ear.begun for _, ear in made))
    before = [ear.messages for ear in ears]
    sys.stdout.write(READY)
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    heard = [ear.messages - had for ear, had in zip(ears, before, strict=True)]
    sys.stdout.write(f"{sum(heard)} {min(heard)} {max(heard)}\n")


@contextlib.asynccontextmanager
async def audience(url: str, event_id: int, listeners: int) -> AsyncIterator[list[Heard]]:
    """Have so many listen meanwhile; afterwards the list has what they heard."""
    argv = (sys.executable, "-m", "bench.listeners", url, str(event_id), str(listeners))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    if (await process.stdout.readline()).decode() != READY:
        raise RuntimeError("the listeners could not listen")
    heard: list[Heard] = []
    yield heard
    process.stdin.close()
    heard.append(Heard(*map(int, (await process.stdout.readline()).split())))
    await process.wait()


async def confirmed_a_second(url: str, event_id: int, tag: str) -> float:
    """Sell for a while; how many bookings a second were confirmed."""
    load = Load("reserve", event_id, event_id, tag)
    outcome = await asyncio.to_thread(drive, url, load, connections=CONNECTIONS, seconds=SECONDS)
    return outcome.count(201) / outcome.seconds


async def measure(url: str, dsn: str) -> None:
    """Sell in turns, and print."""
    ledger = await asyncpg.connect(dsn)
    alone, watched, told = [], [], []
    for number in range(ROUNDS):
        for listeners in (0, LISTENERS) if number % 2 else (LISTENERS, 0):
            statement = "INSERT INTO events (name, total_seats) VALUES ('bench', $1) RETURNING id"
            event_id = await ledger.fetchval(statement, PLENTY)
            async with Caller(url) as caller:
                await first_sale(caller, event_id, "first")
            tag = f"{number}-{listeners}-"
            if not listeners:
                alone.append(await confirmed_a_second(url, event_id, tag))
                continue
            begun_s = time.perf_counter()
            async with audience(url, event_id, listeners) as heard:
                say(f"{listeners:,} listen after {time.perf_counter() - begun_s:.1f} s")
                watched.append(await confirmed_a_second(url, event_id, tag))
            told += heard
    await ledger.close()
    ratio = statistics.median(watched) / statistics.median(alone)
    say(f"nobody listens: {statistics.median(alone):,.0f} confirmed a second")
    say(f"{LISTENERS:,} listen: {statistics.median(watched):,.0f} confirmed a second")
    each = statistics.median(heard.messages for heard in told) / LISTENERS / SECONDS
    say(f"each listener is told {each:.1f} times a second, at the least {min(told).least} in all")
    say(f"ratio {ratio:.2f} (the rounds: {', '.join(_ratios(watched, alone))})")


def _ratios(watched: list[float], alone: list[float]) -> list[str]:
    return [f"{one / other:.2f}" for one, other in zip(watched, alone, strict=True)]


def main() -> None:
    """Measure; or, with arguments, listen."""
    if len(sys.argv) > 1:
        url, event_id, listeners = sys.argv[1:]
        uvloop.run(listen(url, int(event_id), int(listeners)))
        return
    with engine() as (state, _):
        uvloop.run(measure(state["api"], state["database_url"]))


if __name__ == "__main__":
    main()
