"""Whether a contender kept its promise: what was answered is what was sold, and no seat twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bench.speed.load import Outcome
    from bench.speed.scenario import Scenario
    from bench.speed.stores import Sold


class Broken(Exception):
    """A contender did not keep its promise; its figures would mean nothing."""


class Bounds(NamedTuple):
    """How many rows there may be."""

    least: int
    most: int


def bounds(scenario: Scenario, outcome: Outcome) -> Bounds:
    """How many rows the answers allow.

    What was under way when the client stopped, or was answered 503, may be sold or not. Among
    bookings that are given back, 202 stands for either of the two.
    """
    if scenario.kind == "look":
        return Bounds(0, 0)
    if scenario.users:
        return Bounds(scenario.users, scenario.users)
    open_ = scenario.connections + outcome.count(503) + outcome.failed
    granted, either = outcome.count(201), outcome.count(202)
    if scenario.kind == "mixed":
        kept = granted - outcome.count(200)
        return Bounds(kept - either - open_, kept + either + open_)
    return Bounds(granted + either, granted + either + open_)


def check(scenario: Scenario, side: str, outcome: Outcome, sold: Sold) -> None:
    """See that it is so.

    Raises:
        Broken: it is not.
    """
    allowed = bounds(scenario, outcome)
    if sold.oversold:
        raise Broken(f"{side}: {sold.oversold} bookings more than seats")
    if sold.rows != sold.users:
        raise Broken(f"{side}: {sold.rows} bookings of {sold.users} users")
    if not allowed.least <= sold.rows <= allowed.most:
        answers = outcome.answers
        raise Broken(f"{side}: {sold.rows} bookings, but these answers: {answers}, {allowed}")
