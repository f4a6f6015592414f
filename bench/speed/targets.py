"""What onsale is to reach, as the design has it, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.speed.scenario import (
    ACCEPTED,
    BY_BATCH,
    BY_LOCK,
    BY_SEAT_ROW,
    BY_STATEMENT,
    CEILING,
    CONFIRMED,
    LIMITED_TOO,
    NOT_COUNTED,
    Side,
)

if TYPE_CHECKING:
    from bench.speed.measurement import Measurement, Results

MARGIN: Final = 2.0
"""How far the short form may miss a ratio: it runs where others do."""

Figure = Callable[["Measurement"], float]
Find = Callable[["Results"], float | None]


class Target(NamedTuple):
    """A figure that is to be at least, or at most, its bound. ``find`` is None without data.

    ``is_ratio``: both sides ran in the same minute, so that it means something on any machine.
    ``reached`` is what is found where the bound is not reached: the short form starts from there.
    """

    says: str
    sign: str
    bound: float
    find: Find
    is_ratio: bool = True
    reached: float | None = None

    def holds(self, found: float) -> bool:
        """Whether a figure is within the bound."""
        return found >= self.bound if self.sign == "≥" else found <= self.bound

    def is_far_off(self, found: float) -> bool:
        """Whether a figure is worse by more than the margin than what is wanted, or reached."""
        usual = self.bound if self.reached is None else self.reached
        return found < usual / MARGIN if self.sign == "≥" else found > usual * MARGIN


def rate(found: Measurement) -> float:
    """Counted answers a second."""
    return found.rate


def of_role(role: str) -> Figure:
    """CPU of one role."""
    return lambda found: found.cpu_us.get(role, 0.0)


def figure(name: str) -> Figure:
    """One of a scenario's own; 0 where a turn did not get so far."""
    return lambda found: found.figures.get(name, 0.0)


def percentile(percent: float) -> Figure:
    """A latency in milliseconds."""
    return lambda found: found.outcome.percentile_ms(percent)


def spread(found: Measurement) -> float:
    """How much longer the slowest hundredth waits than the half."""
    return found.outcome.percentile_ms(99) / found.outcome.percentile_ms(50)


def lag_p99_ms(found: Measurement) -> float:
    """The age of the outbox's oldest entry that 99 of 100 looks do not exceed."""
    lags = sorted(sample.lag_ms for sample in found.samples)
    return lags[int(len(lags) * 0.99)] if lags else 0.0


def depth_growth(found: Measurement) -> float:
    """The outbox's depth in the last third of the looks, to that of the first."""
    third = max(1, len(found.samples) // 3)
    depths = [sample.depth for sample in found.samples]
    return statistics.mean(depths[-third:]) / max(1.0, statistics.mean(depths[:third]))


def memory_growth(found: Measurement) -> float:
    """The API's memory at the end, to that after a sixth of the time."""
    memory = [sample.memory["api"] for sample in found.samples]
    return memory[-1] / memory[len(memory) // 6]


def to(scenario: str, side: Side, other: Side, of: Figure = rate) -> Find:
    """A figure of one side to the same of another, in the same round."""
    return lambda results: results.ratio(scenario, side.label, other.label, of)


def median(scenario: str, side: Side, of: Figure) -> Find:
    """A figure of one side."""
    return lambda results: results.median(scenario, side.label, of)


def quotient(above: Find, below: Find) -> Find:
    """One finding to another."""

    def find(results: Results) -> float | None:
        found, other = above(results), below(results)
        return None if found is None or not other else found / other

    return find


def best_of(*finds: Find) -> Find:
    """The least of several findings: against the strongest of several peers."""

    def find(results: Results) -> float | None:
        found = [each for each in (find(results) for find in finds) if each is not None]
        return min(found, default=None)

    return find


def _alone(results: Results) -> float | None:
    """A single client's confirmed answer, to one COMMIT and one HTTP round trip."""
    scenario, half = "connections-1", percentile(50)
    ours = results.median(scenario, CONFIRMED.label, half)
    commit = results.median(scenario, CONFIRMED.label, figure("commit_ms"))
    trip = results.median(scenario, CEILING.label, half)
    return ours / (commit + trip) if ours and commit and trip else None


TARGETS: Final = (
    Target("accepted: API CPU, to the bare route's", "≤", 1.3,
           to("hot", ACCEPTED, CEILING, of_role("api"))),
    Target("accepted: CPU of Redis, µs", "≤", 12,
           median("hot", ACCEPTED, of_role("redis")), is_ratio=False),
    Target("confirmed: CPU of all four, to the bare route's", "≤", 3,
           to("hot", CONFIRMED, CEILING, lambda found: found.servers_cpu_us)),
    Target("confirmed, 64 connections: answers a second, to the bare route's", "≥", 0.4,
           to("hot", CONFIRMED, CEILING)),
    Target("confirmed, 64 connections: p99 to p50", "≤", 3, median("hot", CONFIRMED, spread)),
    Target("confirmed, 256 connections: answers a second, to the bare route's", "≥", 0.45,
           to("connections-256", CONFIRMED, CEILING)),
    Target("confirmed, one client: p50, to one COMMIT and one bare round trip", "≤", 2, _alone),
    Target("to FOR UPDATE and count, same promise", "≥", 15,
           to("hot", CONFIRMED, BY_LOCK)),
    Target("to the better of the single statements, same promise", "≥", 2.5,
           best_of(to("hot", CONFIRMED, BY_STATEMENT), to("hot", CONFIRMED, BY_SEAT_ROW))),
    Target("to Postgres micro-batched, same promise", "≥", 1.0,
           to("hot", CONFIRMED, BY_BATCH), reached=0.6),
    Target("accepted, to Postgres micro-batched", "≥", 1.2,
           to("hot", ACCEPTED, BY_BATCH), reached=0.83),
    Target("sold out: refusals a second, to Postgres micro-batched", "≥", 1.2,
           to("refused", CONFIRMED, BY_BATCH)),
    Target("the whole sell-out, to Postgres micro-batched", "≥", 1.2,
           to("sellout", CONFIRMED, BY_BATCH)),
    Target("refusals a second in the sell-out, to confirmed bookings a second", "≥", 1.0,
           quotient(median("sellout", CONFIRMED, figure("refused_a_second")),
                    median("connections-256", CONFIRMED, rate))),
    Target("sold_out: answers a second, to the bare route's", "≥", 0.6,
           to("refused", CONFIRMED, CEILING)),
    Target("already_booked: answers a second, to the bare route's", "≥", 0.6,
           to("duplicates", CONFIRMED, CEILING)),
    Target("Postgres stopped: sales a second, to those before", "≥", 0.5,
           quotient(median("stopped", CONFIRMED, figure("stopped_a_second")),
                    median("stopped", CONFIRMED, figure("before_a_second")))),
    Target("Postgres stopped: sales a second of Postgres micro-batched", "≤", 0,
           median("stopped", BY_BATCH, figure("stopped_a_second")), is_ratio=False),
    Target("a minute at full load, accepted: lag of the outbox, p99, ms", "≤", 50,
           median("soak", ACCEPTED, lag_p99_ms), is_ratio=False),
    Target("the same: its depth in the last third, to the first", "≤", 1.5,
           median("soak", ACCEPTED, depth_growth)),
    Target("the same: the API's memory at the end, to that after ten seconds", "≤", 1.05,
           median("soak", ACCEPTED, memory_growth)),
    Target("the same: bytes in Redis a booking", "≤", 120,
           median("soak", ACCEPTED, lambda found: found.redis_bytes), is_ratio=False),
    Target("one worker and a backlog: bookings a second", "≥", 40_000,
           median("backlog", ACCEPTED, figure("drained_a_second")), is_ratio=False),
    Target("rate limit on: CPU of API and Redis, to that without", "≤", 1.1,
           to("extras", LIMITED_TOO, ACCEPTED, lambda m: m.cpu_us["api"] + m.cpu_us["redis"])),
    Target("metrics on: API CPU, to that without", "≤", 1.05,
           to("extras", ACCEPTED, NOT_COUNTED, of_role("api"))),
)  # fmt: skip
