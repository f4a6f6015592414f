"""Medians and ratios: each round is compared with itself."""

from __future__ import annotations

from bench.speed.measurement import Results
from bench.speed.targets import rate
from tests.bench.made import measurement


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """Not the ratio of the medians: a round in which the machine was slow is slow for both."""
    rates = {"us": (100.0, 10.0, 90.0), "them": (50.0, 4.0, 100.0)}
    results = Results(
        [
            measurement("hot", side, number=number, rate=found)
            for side, of_rounds in rates.items()
            for number, found in enumerate(of_rounds, 1)
        ]
    )
    assert results.ratio("hot", "us", "them", rate) == 2.0
    assert results.median("hot", "us", rate) == 90.0


def test_what_was_not_measured_has_no_figure() -> None:
    """None, and not zero."""
    results = Results([measurement("hot", "us")])
    assert results.median("hot", "them", rate) is None
    assert results.ratio("hot", "us", "them", rate) is None
    assert results.sides("hot") == ["us"]


def test_the_cpu_of_all_servers_is_without_the_client() -> None:
    """The client stands for the world outside."""
    assert measurement("hot", "us", cpu_us=10.0).servers_cpu_us == 40.0
