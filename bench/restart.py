"""``python -m bench.restart``: how long a restart of Redis keeps events from being sold.

Starts an engine of its own, with a million bookings in a hundred events; the k-th most wanted has a
share of 1/k. Customers come at a steady pace, each to one event, by the same shares; who is told
503 tries again until he has his booking. Then Redis is killed with SIGKILL, and ``onsale up``
starts it again on its data: every event is cold. Prints when the busiest event is sold again, and
when all are warm. Afterwards, the same of one cold event with a million bookings.

No figure here has a bound to break. All that runs, customers included, shares the machine's cores.
"""

from __future__ import annotations

import asyncio
import bisect
import gc
import json
import os
import random
import signal
import statistics
import time
from contextlib import asynccontextmanager, suppress
from itertools import accumulate, count
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop
from redis.exceptions import RedisError

from bench.caller import Caller
from bench.reconcile import State, engine, fill, first_sale, say, stores
from engine import keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

BOOKINGS: Final = 1_000_000
EVENTS: Final = 100
A_SECOND: Final = 200
"""Customers who come, whatever becomes of those who came before."""
STEADY_S: Final = 5.0
WINDOW_S: Final = 1.0
RETRY_S: Final = 0.2
POLL_S: Final = 0.02
BOUND_S: Final = 300.0
ROUNDS: Final = 3
DECIDED: Final = (201, 202, 409)
"""409: Redis took his first call's answer with it, but not the booking."""


class Customers:
    """Who wants which event; each comes once, and stays until he has his booking."""

    def __init__(self, url: str, event_ids: list[int]) -> None:
        self._url = url
        self._event_ids = event_ids
        self._shares = list(accumulate(1 / rank for rank in range(1, len(event_ids) + 1)))
        self._random = random.Random(1)  # noqa: S311 - the same customers in every run
        self._callers: list[Caller] = []
        self._names = count()
        self.sold_s: list[list[float]] = [[] for _ in event_ids]
        """Of each event, when its bookings were made."""

    @asynccontextmanager
    async def coming(self) -> AsyncIterator[None]:
        """They come while the body runs."""
        task = asyncio.create_task(self._come())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _come(self) -> None:
        begun_s = time.perf_counter()
        async with asyncio.TaskGroup() as inside:
            for number in count():
                await asyncio.sleep(begun_s + number / A_SECOND - time.perf_counter())
                rank = bisect.bisect(self._shares, self._random.random() * self._shares[-1])
                inside.create_task(self._buy(rank, f"customer {next(self._names)}"))

    async def _buy(self, rank: int, name: str) -> None:
        caller = self._callers.pop() if self._callers else Caller(self._url)
        while not await self._decided(caller, rank, name):  # noqa: ASYNC110 - in the engine
            await asyncio.sleep(RETRY_S)
        self.sold_s[rank].append(time.perf_counter())
        self._callers.append(caller)

    async def _decided(self, caller: Caller, rank: int, name: str) -> bool:
        """Ask once; False for a 503, or if the API had let the idle connection go."""
        try:
            answer = await caller.reserve(self._event_ids[rank], name)
        except (OSError, EOFError):
            return False
        if answer.status not in (*DECIDED, 503):
            raise RuntimeError(f"{name}: {answer}")
        return answer.status in DECIDED


class Epochs(NamedTuple):
    """An event's epoch, and that of its partition; it is warm while they are the same."""

    own: int
    opened: int


class Warmth:
    """Which events are warm, read from Redis itself."""

    def __init__(self, redis: Redis, event_ids: list[int], partitions: int) -> None:
        self._redis = redis
        self._places = [(event_id % partitions, event_id) for event_id in event_ids]

    async def epochs(self) -> list[Epochs]:
        """Of all events, in the order of their ranks."""
        async with self._redis.pipeline(transaction=False) as together:
            for partition, event_id in self._places:
                together.hget(keys.event(partition, event_id), "epoch")
                together.hget(keys.log(partition), "epoch")
            found = [int(epoch or 0) for epoch in await together.execute()]
        return [Epochs(*pair) for pair in zip(found[::2], found[1::2], strict=True)]

    async def until_all(self, before: list[Epochs]) -> tuple[float, list[float]]:
        """When Redis answered, and when each event was warm in a later epoch than before."""
        answered_s, warm_s = 0.0, [0.0] * len(before)
        while not all(warm_s):
            await asyncio.sleep(POLL_S)
            try:
                epochs = await self.epochs()
            except (RedisError, OSError):  # dead, or reading its file
                continue
            now_s = time.perf_counter()
            answered_s = answered_s or now_s
            for rank, (own, opened) in enumerate(epochs):
                if own == opened > before[rank].opened:
                    warm_s[rank] = warm_s[rank] or now_s
        return answered_s, warm_s


class Restart(NamedTuple):
    """What one restart cost, in seconds after the kill, but for ``place``."""

    answered_s: float
    first_sale_s: float
    old_rate_s: float
    all_warm_s: float
    place: float
    """As the how-manieth the busiest event was warm."""


async def restart(data: Path, customers: Customers, warmth: Warmth) -> Restart:
    """Kill Redis while events are sold, and wait until they all are again."""
    before, sold_s = await warmth.epochs(), customers.sold_s[0]
    already = len(sold_s)
    await asyncio.sleep(STEADY_S)
    in_a_window = (len(sold_s) - already) / STEADY_S * WINDOW_S
    killed_s = time.perf_counter()
    os.kill(json.loads((data / "up.json").read_text())["pids"]["redis"], signal.SIGKILL)
    answered_s, warm_s = await warmth.until_all(before)
    while not (again := _reached(sold_s, in_a_window, since_s=answered_s)):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    return Restart(
        answered_s - killed_s,
        sold_s[bisect.bisect(sold_s, answered_s)] - killed_s,
        again - killed_s,
        max(warm_s) - killed_s,
        1 + sorted(warm_s).index(warm_s[0]),
    )


def _reached(sold_s: list[float], in_a_window: float, *, since_s: float) -> float:
    """From when on an event had as many sales in a window as before; 0 if not yet."""
    for place in range(bisect.bisect(sold_s, since_s), len(sold_s)):
        end = bisect.bisect(sold_s, sold_s[place] + WINDOW_S)
        if end - place >= in_a_window:
            return sold_s[place]
    return 0.0


async def measure(state: State, data: Path) -> None:
    """Fill, restart a few times, and print medians; then one cold event with all the bookings."""
    async with stores(state) as (ledger, redis):
        whole = sum(1 / rank for rank in range(1, EVENTS + 1))
        sizes = [round(BOOKINGS / whole / rank) for rank in range(1, EVENTS + 1)]
        event_ids = [await fill(ledger, size) for size in sizes]
        partitions = await ledger.fetchval("SELECT count(*) FROM partitions")
        customers, warmth = Customers(state["api"], event_ids), Warmth(redis, event_ids, partitions)
        async with customers.coming():
            await warmth.until_all([Epochs(0, 0)] * EVENTS)
            rounds = []
            for _ in range(ROUNDS):
                async with asyncio.timeout(BOUND_S):
                    rounds.append(await restart(data, customers, warmth))
        report(Restart(*map(statistics.median, zip(*rounds, strict=True))), busiest=sizes[0])
        event_id, cold_s = await fill(ledger, BOOKINGS), []
        for _ in range(ROUNDS):
            await redis.delete(keys.event(event_id % partitions, event_id))
            begun_s = time.perf_counter()
            async with Caller(state["api"]) as caller:
                await first_sale(caller, event_id, f"the first {begun_s}")
            cold_s.append(time.perf_counter() - begun_s)
        say(f"one cold event of {BOOKINGS:,}: first sale after {statistics.median(cold_s):.1f} s")


def report(took: Restart, *, busiest: int) -> None:
    """Print a line for each figure."""
    say(f"Redis answers after {took.answered_s:.1f} s")
    say(
        f"busiest event ({busiest:,} of {BOOKINGS:,}): first sale after {took.first_sale_s:.1f} s, "
        f"{took.first_sale_s / took.all_warm_s:.2f} x all warm"
    )
    say(f"busiest event at its old rate after {took.old_rate_s:.1f} s")
    say(f"all {EVENTS} events warm after {took.all_warm_s:.1f} s")
    say(f"the busiest was warm as no. {took.place:g}")


def main() -> None:
    """Start an engine, measure, stop it."""
    gc.freeze()
    gc.disable()
    with engine() as (state, data):
        uvloop.run(measure(state, data))


if __name__ == "__main__":
    main()
