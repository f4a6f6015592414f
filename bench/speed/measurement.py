"""What a turn found, and the arithmetic over many."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import msgspec

from bench.speed.load import Outcome  # noqa: TC001 - read by msgspec
from bench.speed.stores import Sold  # noqa: TC001 - read by msgspec
from bench.speed.watch import Sample  # noqa: TC001 - read by msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


class Measurement(msgspec.Struct, frozen=True):
    """What a turn found.

    ``rate`` is the counted answers a second, ``cpu_us`` the CPU of each role for one of them,
    ``redis_bytes`` what Redis keeps of a booking after all. ``figures`` are a scenario's own.
    """

    scenario: str
    side: str
    round: int
    rate: float
    outcome: Outcome
    cpu_us: dict[str, float]
    sold: Sold
    redis_bytes: float = 0.0
    samples: list[Sample] = []
    figures: dict[str, float] = {}

    @property
    def servers_cpu_us(self) -> float:
        """Of all servers together, without the client."""
        return sum(us for role, us in self.cpu_us.items() if role != "client")


class Results:
    """All measurements of a run."""

    def __init__(self, measurements: list[Measurement]) -> None:
        self.all = measurements

    def of(self, scenario: str, side: str) -> list[Measurement]:
        """One side's turns in a scenario, by round."""
        found = [m for m in self.all if (m.scenario, m.side) == (scenario, side)]
        return sorted(found, key=lambda each: each.round)

    def sides(self, scenario: str) -> list[str]:
        """Who took part in a scenario, in order."""
        return list(dict.fromkeys(m.side for m in self.all if m.scenario == scenario))

    def scenarios(self) -> list[str]:
        """What was measured, in order."""
        return list(dict.fromkeys(m.scenario for m in self.all))

    def median(
        self, scenario: str, side: str, figure: Callable[[Measurement], float]
    ) -> float | None:
        """The median of a side's rounds; None if it was not measured."""
        found = [figure(each) for each in self.of(scenario, side)]
        return statistics.median(found) if found else None

    def ratio(
        self, scenario: str, side: str, other: str, figure: Callable[[Measurement], float]
    ) -> float | None:
        """The median, over rounds, of a figure of one side to the same of another."""
        pairs = zip(self.of(scenario, side), self.of(scenario, other), strict=False)
        found = [figure(a) / figure(b) for a, b in pairs if figure(b)]
        return statistics.median(found) if found else None
