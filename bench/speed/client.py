"""``python -m bench.speed.client``: the load without wrk. It says the same in the same JSON.

One process, one loop, and a protocol object a connection; it takes more CPU a request than wrk
does, so that on few cores the figures are lower. The ratios are still ratios.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
import time
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.speed.load import BUCKET_S, Load, Outcome

if TYPE_CHECKING:
    from bench.speed.load import Kind

LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
NEW_BOOKING: Final = re.compile(rb'"id":(\d+),"event_id"')
POINTS: Final = (*range(1, 100), 99.5, 99.9, 99.95, 99.99, 100)
CANCEL_EVERY: Final = 3


class Asker:
    """Makes requests, and notes what became of them."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._asked = self._turn = 0
        self._held: list[bytes] = []
        self._random = random.Random(1)  # noqa: S311 - the same events in every run
        self._begun_s = time.perf_counter()
        self.took_s: list[float] = []
        self.series: dict[int, dict[int, int]] = {}

    def request(self) -> bytes:
        """The next request."""
        load = self._load
        self._turn += 1
        if load.kind == "look":
            return b"GET /api/events/%d HTTP/1.1\r\nHost: onsale\r\n\r\n" % self._event()
        if load.kind == "mixed" and self._turn % CANCEL_EVERY == 0 and self._held:
            path = b"/api/bookings/" + self._held.pop()
            return b"DELETE " + path + b" HTTP/1.1\r\nHost: onsale\r\n\r\n"
        self._asked += 1
        user = f"{load.tag}{self._asked % load.users if load.users else self._asked}"
        body = f'{{"event_id":{self._event()},"user_id":"{user}"}}'
        prefer = f"Prefer: {load.prefer}\r\n" if load.prefer else ""
        return (
            f"POST /api/bookings/reserve HTTP/1.1\r\nHost: onsale\r\n{prefer}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def answered(self, status: int, body: bytes, *, asked_s: float) -> None:
        """Note an answer."""
        now_s = time.perf_counter()
        self.took_s.append(now_s - asked_s)
        buckets = self.series.setdefault(status, {})
        bucket = int((now_s - self._begun_s) / BUCKET_S)
        buckets[bucket] = buckets.get(bucket, 0) + 1
        if self._load.kind == "mixed" and (found := NEW_BOOKING.search(body)):
            self._held.append(found[1])

    def _event(self) -> int:
        first, last = self._load.first_event, self._load.last_event
        return first if first == last else self._random.randint(first, last)


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._read = b""
        self._asked_s = 0.0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take an answer when it is whole, and ask again."""
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not found or (length and len(body) < int(length[1])):
            return
        self._read = b""
        self._asker.answered(int(head[9:12]), body, asked_s=self._asked_s)
        self._ask()

    def connection_lost(self, _error: Exception | None) -> None:
        """Note it."""
        self.lost = True

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        self._transport.write(self._asker.request())


async def drive(connections: int, seconds: int, url: str, load: Load) -> Outcome:
    """Ask for so long over so many connections."""
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    host, port = parts.hostname or "", parts.port or 80
    asker, begun_s = Asker(load), time.perf_counter()
    opening = (
        loop.create_connection(lambda: Connection(asker), host, port) for _ in range(connections)
    )
    opened = await asyncio.gather(*opening)
    await asyncio.sleep(begun_s + seconds - time.perf_counter())
    failed = sum(protocol.lost for _, protocol in opened)
    for transport, _ in opened:
        transport.abort()  # the loop goes round a few times more before it ends
    return outcome(asker, time.perf_counter() - begun_s, failed)


def outcome(asker: Asker, seconds: float, failed: int) -> Outcome:
    """What was noted, in the form that wrk's script gives."""
    took_s = sorted(asker.took_s) or [0.0]
    last = max((max(buckets) for buckets in asker.series.values()), default=0)
    return Outcome(
        seconds=seconds,
        failed=failed,
        late=0,
        latency_ms=[
            (point, took_s[max(0, math.ceil(point / 100 * len(took_s)) - 1)] * 1000)
            for point in POINTS
        ],
        series={
            status: [buckets.get(bucket, 0) for bucket in range(last + 1)]
            for status, buckets in asker.series.items()
        },
    )


def main() -> None:
    """Read the command line, ask, and print one line."""
    connections, seconds, url, kind, first, last, users, prefer, tag = sys.argv[1:]
    load = Load(cast("Kind", kind), int(first), int(last), tag, int(users), prefer)
    found = uvloop.run(drive(int(connections), int(seconds), url, load))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main()
