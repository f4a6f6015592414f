"""One turn of one side in a scenario, in steps that the ways of measuring are made of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from bench.caller import Caller
from bench.speed.load import Load, Outcome, drive
from bench.speed.measurement import Measurement
from bench.speed.promise import check
from bench.speed.scenario import PLENTY
from bench.speed.stores import Events, Sold, store_of
from bench.speed.watch import Watch

if TYPE_CHECKING:
    from bench.speed.contender import Running
    from bench.speed.scenario import Scenario, Side
    from bench.speed.servers import Servers

WARM_UP_S: Final = 1
DOORS: Final = 32
GUEST: Final = "guest-"


class Turn:
    """A side's turn, the ``number``-th. ``seconds`` is how long its load lasts."""

    def __init__(
        self, servers: Servers, scenario: Scenario, side: Side, *, number: int, seconds: int
    ) -> None:
        self.servers = servers
        self.scenario = scenario
        self.side = side
        self.number = number
        self.seconds = seconds * scenario.long
        self.store = store_of(servers, side.contender)

    def open_events(self, count: int, seats: int) -> Events:
        """Put events on sale, of no more seats than the contender can make."""
        return self.store.open_events(count, min(seats, self.side.contender.most_seats // count))

    def prepare(self, contender: Running, *, warm_up: bool = True) -> Events:
        """The events of this turn, loaded, and the contender warmed up on another one."""
        events = self.open_events(self.scenario.events, self.scenario.seats)
        if self.side.contender.is_ours:
            asyncio.run(_look_at_each(contender.url, events))
        if warm_up:
            other = self.open_events(1, PLENTY)
            load = Load("reserve", other.first, other.last, "warm-up-", prefer=self.side.prefer)
            connections = self.scenario.connections
            drive(contender.url, load, connections=connections, seconds=WARM_UP_S)
            self.store.sold(other)  # so the worker, if there is one, works
        asyncio.run(_seat_each(contender.url, events.first, range(self.scenario.users)))
        return events

    def load(self, events: Events) -> Load:
        """What is asked."""
        scenario = self.scenario
        tag = GUEST if scenario.users else f"{self.number}-"
        return Load(scenario.kind, events.first, events.last, tag, scenario.users, self.side.prefer)

    def drive(self, contender: Running, events: Events) -> Outcome:
        """Ask at full speed."""
        connections, seconds = self.scenario.connections, self.seconds
        return drive(contender.url, self.load(events), connections=connections, seconds=seconds)

    def watch(self, contender: Running) -> Watch:
        """Look at the outbox and at the memory of the programs meanwhile."""
        return Watch(self.servers.redis_url(self.side.contender), contender.pids)

    def sold(self, events: Events, outcome: Outcome) -> Sold:
        """What was sold, once the ledger has it.

        Raises:
            Broken: it is not what was answered.
        """
        sold = self.store.sold(events)
        if self.side.contender.store != "nowhere":
            check(self.scenario, self.side.label, outcome, sold)
        return sold

    def measured(
        self, outcome: Outcome, sold: Sold, spent_s: dict[str, float], *, count: int | None = None
    ) -> Measurement:
        """The measurement; CPU is told for each counted answer, or each of ``count``."""
        counted = outcome.count(*self.scenario.counted(self.side))
        spent_s = {**spent_s, "client": outcome.client_cpu_s}
        each = max(1, counted if count is None else count)
        return Measurement(
            scenario=self.scenario.name,
            side=self.side.label,
            round=self.number,
            rate=counted / outcome.seconds if outcome.seconds else 0.0,
            outcome=outcome,
            cpu_us={role: spent * 1e6 / each for role, spent in spent_s.items()},
            sold=sold,
        )


async def _seat_each(url: str, event_id: int, users: range) -> None:
    """Give each of these users a seat."""
    numbers = iter(users)

    async def door() -> None:
        async with Caller(url) as caller:
            for number in numbers:
                await caller.reserve(event_id, f"{GUEST}{number}")

    await asyncio.gather(*(door() for _ in range(DOORS)))


async def _look_at_each(url: str, events: Events) -> None:
    """Have each event loaded."""
    ids = iter(range(events.first, events.last + 1))

    async def door() -> None:
        async with Caller(url) as caller:
            for event_id in ids:
                await caller.available(event_id)

    await asyncio.gather(*(door() for _ in range(DOORS)))
