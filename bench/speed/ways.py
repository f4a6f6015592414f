"""The ways of measuring: what happens in a turn."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import redis
from msgspec.structs import replace

from bench.caller import Caller
from bench.speed import cpu
from bench.speed.contender import running
from bench.speed.load import BUCKET_S, Outcome
from bench.speed.promise import Broken
from bench.speed.stores import depth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.speed.measurement import Measurement
    from bench.speed.turn import Turn

QUEUE: Final = 500
GUESTS: Final = 10_000
ENOUGH: Final = 10_000
"""Bookings from which on their memory is more than that of buffers that come and go."""
TAKEN_BOUND_S: Final = 120.0
GRANTED: Final = (201, 202)
NO_OUTCOME: Final = Outcome(0.0, 0, 0, [], {})
FILL: Final = """
INSERT INTO bookings (event_id, user_id) SELECT $1, 'guest ' || n FROM generate_series(1, $2::int) n
"""


def take(turn: Turn) -> Measurement:
    """Take a turn.

    Raises:
        Broken: what was sold is not what was answered.
    """
    turn.servers.tidy()
    return WAYS[turn.scenario.way](turn)


def at_full_speed(turn: Turn) -> Measurement:
    """As much as goes. CPU is counted until the ledger has everything."""
    alone = turn.scenario.connections == 1
    figures = {"commit_ms": turn.servers.commit_ms()} if alone else {}
    with running(turn.servers, turn.side.contender) as contender:
        events = turn.prepare(contender)
        kept, before = turn.servers.redis_used_bytes(), cpu.taken(contender.pids)
        with turn.watch(contender) as watch:
            outcome = turn.drive(contender, events)
        sold = turn.sold(events, outcome)
        spent = cpu.since(before, contender.pids)
        kept = turn.servers.redis_used_bytes() - kept
    found = turn.measured(outcome, sold, spent)
    counts = turn.side.contender.keeps_in_redis and sold.rows >= ENOUGH
    each = kept / sold.rows if counts else 0.0
    return replace(found, samples=watch.samples, figures=figures, redis_bytes=each)


def sell_out(turn: Turn) -> Measurement:
    """The same, with a look at when the last seat went and how fast the rest was refused.

    A machine that does not sell all seats in time has neither of these figures.
    """
    found = at_full_speed(turn)
    if turn.side.contender.store == "nowhere":
        return found
    sold, end = 0, 0
    series = found.outcome.series
    while sold < turn.scenario.seats and end < len(series[201]):
        sold, end = sold + series[201][end], end + 1
    if sold < turn.scenario.seats:
        return found
    refused = series.get(409, [])[end:]
    figures = {
        "sold_out_after_s": end * BUCKET_S,
        "refused_a_second": sum(refused) / (max(1, len(refused)) * BUCKET_S),
    }
    return replace(found, figures=figures)


def cold(turn: Turn) -> Measurement:
    """Everybody at once at a door that was never opened; then the same again."""
    figures: dict[str, float] = {}
    with running(turn.servers, turn.side.contender) as contender:
        events = turn.open_events(1, turn.scenario.seats)
        turn.servers.sql(turn.side.contender, FILL, events.first, GUESTS)
        for name in ("cold", "warm"):
            took_ms = sorted(asyncio.run(_rush(contender.url, events.first, name)))
            figures[f"{name}_median_ms"] = statistics.median(took_ms)
            figures[f"{name}_last_ms"] = took_ms[-1]
        sold = turn.store.sold(events)
    if sold.rows != GUESTS + 2 * QUEUE or sold.oversold:
        raise Broken(f"{turn.side.label}: {sold} after {2 * QUEUE} bookings beside {GUESTS}")
    return replace(turn.measured(NO_OUTCOME, sold, {}), figures=figures)


def backlog(turn: Turn) -> Measurement:
    """Sell without a worker, then let one take it all."""
    with running(turn.servers, turn.side.contender, worker=False) as contender:
        events = turn.prepare(contender, warm_up=False)
        outcome = turn.drive(contender, events)
        with redis.Redis.from_url(turn.servers.redis_url(turn.side.contender)) as client:
            owed = depth(client)
            contender.start_worker()
            _await_depth(turn, lambda: depth(client) < owed, "the worker begins")
            begun_s, rest = time.perf_counter(), depth(client)
            before = cpu.taken(contender.pids)
            _await_depth(turn, lambda: depth(client) == 0, "the worker has taken everything")
            took_s = time.perf_counter() - begun_s
            spent = cpu.since(before, contender.pids)
        sold = turn.sold(events, outcome)
    share = spent["postgres"] / (spent["postgres"] + spent["worker"])
    figures = {"drained": rest, "drained_a_second": rest / took_s, "postgres_share": share}
    return replace(turn.measured(outcome, sold, spent, count=rest), figures=figures)


def stopped(turn: Turn) -> Measurement:
    """Postgres stands still from the first quarter of the time to the last one.

    What is sold meanwhile is counted without the first and the last tenth of that time: whatever
    was under way, and two clocks that did not start in the same instant.
    """
    quarter_s = turn.seconds / 4
    tenth_s = quarter_s / 5
    with running(turn.servers, turn.side.contender) as contender:
        events = turn.prepare(contender)
        with turn.watch(contender) as watch, ThreadPoolExecutor(1) as beside:
            driven = beside.submit(turn.drive, contender, events)
            time.sleep(quarter_s)
            with frozen(turn.servers.postgres.pid):
                time.sleep(2 * quarter_s)
            outcome = driven.result()
        sold = turn.sold(events, outcome)
    figures = {
        "before_a_second": granted_a_second(outcome, 0, quarter_s),
        "stopped_a_second": granted_a_second(outcome, quarter_s + tenth_s, 3 * quarter_s - tenth_s),
        "after_a_second": granted_a_second(outcome, 3 * quarter_s, 4 * quarter_s),
    }
    return replace(turn.measured(outcome, sold, {}), figures=figures, samples=watch.samples)


WAYS: Final[dict[str, Callable[[Turn], Measurement]]] = {
    "load": at_full_speed,
    "sellout": sell_out,
    "cold": cold,
    "backlog": backlog,
    "stopped": stopped,
}


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process and all below it, it first, while the body runs."""
    stopped: list[int] = []
    try:
        for each in cpu.tree(pid):
            os.kill(each, signal.SIGSTOP)
            stopped.append(each)
        yield
    finally:
        for each in reversed(stopped):
            os.kill(each, signal.SIGCONT)


def granted_a_second(outcome: Outcome, begin_s: float, end_s: float) -> float:
    """Seats given a second between two instants of a load."""
    window = slice(int(begin_s / BUCKET_S), int(end_s / BUCKET_S))
    granted = sum(sum(outcome.series.get(status, [])[window]) for status in GRANTED)
    return granted / (end_s - begin_s)


def _await_depth(turn: Turn, fact: Callable[[], bool], what: str) -> None:
    turn.servers.await_fact(fact, within_s=TAKEN_BOUND_S, what=what)


async def _rush(url: str, event_id: int, tag: str) -> list[float]:
    """How long each of ``QUEUE`` users waits who ask at the same time, in milliseconds."""
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(url)) for _ in range(QUEUE)]
        for caller in callers:
            await caller.call("GET", "/health")
        begun_s = time.perf_counter()

        async def door(number: int) -> float:
            answer = await callers[number].reserve(event_id, f"{tag} {number}")
            if answer.status not in GRANTED:
                raise Broken(f"a first request was answered {answer}")
            return (time.perf_counter() - begun_s) * 1000

        return list(await asyncio.gather(*map(door, range(QUEUE))))
