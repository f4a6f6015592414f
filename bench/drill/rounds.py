"""A round of the drill: a sale, its faults, the healing, and the judgement."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from bench.drill import record
from bench.drill.checker import judge
from bench.drill.clients import Crowd
from bench.drill.faults import FAULTS, Fault, Missed, Scene
from bench.drill.record import Drift, Facts, Seats, Violation
from bench.drill.stack import until
from engine import reconcile

if TYPE_CHECKING:
    from pathlib import Path

    from bench.drill.record import Call
    from bench.drill.stack import Stack

SEATS: Final = (1, 50, 5000)
FEWEST_AT_ONCE: Final = 2
MOST_AT_ONCE: Final = 4
SALE_S: Final = 2.0
LATEST_START_S: Final = 0.8
AFTERMATH_S: Final = 0.7
ECHO_S: Final = 1.0
"""How long a call may still be under way that saw the fault."""
UNHEALED: Final = 0
"""The number of the promise that whatever is broken heals by itself."""


class Result(msgspec.Struct, frozen=True):
    """What came of a round."""

    seed: int
    faults: list[str]
    violations: list[Violation]
    counts: dict[str, int]
    seconds: float
    healing_s: float


def draw(seed: int, names: list[str], *, alone: bool) -> list[Fault]:
    """Two to four of these faults that can strike at once; ``alone``: the one whose turn it is."""
    if alone or len(names) == 1:
        return [FAULTS[names[seed % len(names)]]]
    dice = random.Random(seed)  # noqa: S311 - it is to be repeatable
    wanted = dice.randint(FEWEST_AT_ONCE, MOST_AT_ONCE)
    chosen: list[Fault] = []
    for name in dice.sample(names, len(names)):
        new = FAULTS[name]
        if len(chosen) < wanted and all(
            new.place in ("hands", "network") or new.place != each.place for each in chosen
        ):
            chosen.append(new)
    return chosen


async def play(stack: Stack, seed: int, chosen: list[Fault], folder: Path) -> Result:
    """Play a round, judge it, and leave its record in the folder."""
    loop = asyncio.get_running_loop()
    begun_s, healing_s = loop.time(), 0.0
    stack.said()  # what was said before is of another round
    events = {await _open(stack, seats): seats for seats in SEATS}
    facts = Facts(
        seed=seed,
        events={event: Seats(seats, seats) for event, seats in events.items()},
        lossy=any(each.lossy for each in chosen),
    )
    crowd = Crowd(seed, events, stack.caller)
    violations: list[Violation] = []
    try:
        async with asyncio.timeout(300):
            await _sell(Scene(stack, facts, random.Random(seed)), crowd, chosen)  # noqa: S311
            sold_s = loop.time()
            await _heal(stack)
            healing_s = loop.time() - sold_s
            await _look_back(stack, facts, crowd)
            dump = await stack.dump(list(events))
            violations = judge(crowd.calls, facts, dump)
            record.write(folder, crowd.calls, facts, dump)
    except TimeoutError as error:
        violations = [Violation(UNHEALED, str(error) or "the round did not end")]
    seconds = loop.time() - begun_s
    return Result(seed, facts.faults, violations, _counts(crowd.calls), seconds, healing_s)


async def _open(stack: Stack, seats: int) -> int:
    statement = "INSERT INTO events (name, total_seats) VALUES ('drill', $1) RETURNING id"
    event: int = (await stack.sql(statement, seats))[0]["id"]
    return event


async def _sell(scene: Scene, crowd: Crowd, chosen: list[Fault]) -> None:
    """The sale, with its faults, and a little longer."""
    async with asyncio.TaskGroup() as group:
        selling = group.create_task(crowd.run())
        try:
            async with asyncio.TaskGroup() as striking:
                striking.create_task(asyncio.sleep(SALE_S))
                for each in chosen:
                    striking.create_task(_strike(each, scene))
            await asyncio.sleep(AFTERMATH_S)
        finally:
            crowd.stop()
        await selling


async def _strike(chosen: Fault, scene: Scene) -> None:
    await asyncio.sleep(scene.dice.uniform(0, LATEST_START_S))
    now_s = asyncio.get_running_loop().time
    begun_s = now_s()
    with suppress(Missed):
        await chosen.strike(scene)
        scene.facts.faults.append(chosen.name)
    lasted = (begun_s, now_s() + ECHO_S)
    if chosen.blinds:
        scene.facts.blind.append(lasted)
    if chosen.splits:
        scene.facts.split.append(lasted)


async def _heal(stack: Stack) -> None:
    """Let everything mend itself."""
    stack.heal()
    await until(stack.is_ready, "both API processes are ready again")
    await until(stack.is_drained, "the ledger has taken everything")


async def _look_back(stack: Stack, facts: Facts, crowd: Crowd) -> None:
    """Look, mend, and look again."""
    facts.drift += await _reconcile(stack, facts, dry_run=True)
    await _reconcile(stack, facts, dry_run=False)
    await crowd.read_all()
    facts.left_over = await _reconcile(stack, facts, dry_run=True)
    facts.said = stack.said()


async def _reconcile(stack: Stack, facts: Facts, *, dry_run: bool) -> list[Drift]:
    report = await reconcile.run(stack.settings(), list(facts.events), dry_run=dry_run)
    return [Drift(*each) for each in report.drift]


def _counts(calls: list[Call]) -> dict[str, int]:
    """How many calls there were, and how they ended."""
    counts = Counter(
        str(call.status) if call.end is not None else "no answer"
        for call in calls
        if not call.after
    )
    counts["lost"] = sum(call.after and call.code == "booking_lost" for call in calls)
    return dict(counts)
