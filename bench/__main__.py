"""``make bench``: answers a second of each kind, next to the API's cheapest route.

Starts an engine of its own, asks for each kind of answer in turn, several rounds, and prints the
median of each and its ratio to ``GET /health`` in the same round. Everything shares the machine's
cores, this client included, so only the ratios mean something.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS: Final = 64
ROUNDS: Final = 5
SECONDS: Final = 1.5


def reserve(event_id: int, user_id: str, prefer: str) -> bytes:
    """A reserve request as bytes."""
    body = f'{{"event_id":{event_id},"user_id":"{user_id}"}}'
    return (
        f"POST /api/bookings/reserve HTTP/1.1\r\nHost: bench\r\nPrefer: {prefer}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def rate(url: str, request: Callable[[str], bytes], expected: bytes) -> float:
    """Answers a second, over all connections; each must have the expected status."""
    parts, end = urlsplit(url), time.perf_counter() + SECONDS

    async def client(number: int) -> int:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        answers = 0
        while time.perf_counter() < end:
            writer.write(request(f"{number}-{answers}-{end}"))
            head = await reader.readuntil(b"\r\n\r\n")
            if expected not in head[:16]:
                raise RuntimeError(f"expected {expected!r}: {head!r}")
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            answers += 1
        writer.close()
        return answers

    return sum(await asyncio.gather(*[client(n) for n in range(CONNECTIONS)])) / SECONDS


async def measure(url: str, database_url: str) -> None:
    """Ask for each kind in turn, and print a line for each."""
    connection = await asyncpg.connect(database_url)
    statement = "INSERT INTO events (name, total_seats) VALUES ('bench', $1) RETURNING id"
    open_id = await connection.fetchval(statement, 10_000_000)
    full_id = await connection.fetchval(statement, 0)
    await connection.close()
    kinds: dict[str, tuple[Callable[[str], bytes], bytes]] = {
        "health": (lambda _: b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n", b" 200 "),
        "sold_out": (lambda user: reserve(full_id, user, "wait=10"), b" 409 "),
        "confirmed": (lambda user: reserve(open_id, user, "wait=10"), b" 201 "),
        "accepted": (lambda user: reserve(open_id, user, "respond-async"), b" 202 "),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, (request, expected) in kinds.items():
            rates[kind].append(await rate(url, request, expected))
    for kind, found in rates.items():
        ratios = [a / b for a, b in zip(found, rates["health"], strict=True)]
        print(  # noqa: T201 - this is what it is for
            f"{kind:10} {statistics.median(found):8.0f} a second  "
            f"{statistics.median(ratios):5.2f} x health"
        )


def main() -> None:
    """Start an engine, measure, stop it."""
    with tempfile.TemporaryDirectory(prefix="onsale-bench-") as data:
        argv = [sys.executable, "-m", "engine.cli", "up", "--json", "--port", "0", "--data", data]
        quiet = {**os.environ, "RATE_LIMIT_MAX": "0", "LOG_LEVEL": "error"}
        with subprocess.Popen(  # noqa: S603 - our own program
            argv, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as up:
            try:
                state = json.loads((up.stdout or sys.stdin.buffer).readline())
                asyncio.run(measure(state["api"], state["database_url"]))
            finally:
                up.terminate()


main()
