"""A turn with real processes: all that a report needs is measured, and what is sold is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.speed import report, ways
from bench.speed.measurement import Measurement, Results
from bench.speed.scenario import ACCEPTED, BY_BATCH, BY_JOB, CONFIRMED, HOT, SELLOUT, Side
from bench.speed.turn import Turn

if TYPE_CHECKING:
    from bench.speed.scenario import Scenario
    from bench.speed.servers import Servers


def take(servers: Servers, scenario: Scenario, side: Side) -> Measurement:
    """One turn of a second."""
    return ways.take(Turn(servers, scenario, side, number=1, seconds=1))


def test_our_own_turn_is_measured_whole(servers: Servers) -> None:
    """All four take CPU, the outbox is looked at, and the ledger has what was answered."""
    found = take(servers, HOT, CONFIRMED)
    assert found.rate > 0
    assert found.outcome.count(201) <= found.sold.rows
    assert min(found.cpu_us[role] for role in ("api", "redis", "worker", "postgres")) > 0
    assert max(sample.depth for sample in found.samples) > 0
    assert max(sample.lag_ms for sample in found.samples) > 0
    assert min(sample.memory["api"] for sample in found.samples) > 10_000_000
    assert report.figures(Results([found]), "hot")


def test_who_will_not_wait_is_answered_202(servers: Servers) -> None:
    """And is in the ledger all the same, when the turn is over."""
    found = take(servers, HOT, ACCEPTED)
    assert set(found.outcome.answers) == {202}
    assert found.sold.rows >= found.outcome.count(202)


def test_what_was_queued_is_waited_for(servers: Servers) -> None:
    """One arq job a booking: its worker is given the time to book what was answered."""
    found = take(servers, HOT, BY_JOB)
    assert found.sold.rows >= found.outcome.count(202) > 0
    assert found.cpu_us["worker"] > found.cpu_us["api"] / 10


def test_a_sale_is_seen_to_end(servers: Servers) -> None:
    """For a peer as for us: all seats, no more, and refusals from then on."""
    for side in (CONFIRMED, BY_BATCH):
        found = take(servers, SELLOUT._replace(seats=100), side)
        assert found.sold.rows == found.outcome.count(201) == 100
        assert found.outcome.count(409) > 0
        assert 0 < found.figures["sold_out_after_s"] < found.outcome.seconds
        assert found.figures["refused_a_second"] > 0
