"""Measurements made up for tests."""

from __future__ import annotations

from bench.speed.load import Outcome
from bench.speed.measurement import Measurement, Results
from bench.speed.scenario import scenarios
from bench.speed.stores import Sold
from bench.speed.watch import Sample

POINTS = [*range(1, 100), 99.5, 99.9, 99.95, 99.99, 100]


def outcome(**series: list[int]) -> Outcome:
    """An outcome with these counts by status, ``s201=[…]``; percent p took p ms."""
    return Outcome(
        seconds=1.0,
        failed=0,
        late=0,
        latency_ms=[(point, point) for point in POINTS],
        series={int(name[1:]): counts for name, counts in series.items()},
    )


def measurement(
    scenario: str, side: str, *, number: int = 1, rate: float = 100.0, cpu_us: float = 10.0
) -> Measurement:
    """A turn that sold a booking in each of fifty buckets."""
    return Measurement(
        scenario=scenario,
        side=side,
        round=number,
        rate=rate,
        outcome=outcome(s201=[1] * 50, s409=[2] * 50),
        cpu_us=dict.fromkeys(("api", "redis", "worker", "postgres", "client"), cpu_us),
        sold=Sold(50, 50, 0),
        redis_bytes=100.0,
        samples=[Sample(n / 20, n % 7, n % 50, {"api": 1000, "redis": 1}) for n in range(100)],
        figures=FIGURES,
    )


FIGURES = {
    "commit_ms": 1.0,
    "refused_a_second": 100.0,
    "before_a_second": 100.0,
    "stopped_a_second": 60.0,
    "drained_a_second": 1000.0,
}


def everything(rate: float = 100.0) -> Results:
    """Two rounds of every side of every scenario."""
    return Results(
        [
            measurement(each.name, side.label, number=number, rate=rate)
            for each in scenarios()
            for number in (1, 2)
            for side in each.sides
        ]
    )
