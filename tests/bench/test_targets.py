"""The targets: each is found where its scenario ran, and judged by its bound."""

from __future__ import annotations

from bench.speed import report
from bench.speed.measurement import Results
from bench.speed.scenario import CEILING, CONFIRMED, scenarios, short
from bench.speed.targets import TARGETS, Target, depth_growth, lag_p99_ms
from tests.bench.made import everything, measurement


def test_a_whole_run_has_a_figure_for_every_target() -> None:
    """None is left out because a name changed."""
    assert None not in [target.find(everything()) for target in TARGETS]


def test_a_run_of_nothing_has_none() -> None:
    """What was not measured is not judged."""
    assert {target.find(Results([])) for target in TARGETS} == {None}
    assert report.verdicts(Results([])).row_count == 0


def test_the_short_form_judges_some() -> None:
    """Its scenarios are parts of those of the long one, and ratios come of them."""
    few = {each.name: {side.label for side in each.sides} for each in short()}
    all_of_them = {each.name: {side.label for side in each.sides} for each in scenarios()}
    assert all(sides <= all_of_them[name] for name, sides in few.items())
    found = Results([measurement(name, side) for name, sides in few.items() for side in sides])
    judged = [target for target in TARGETS if target.is_ratio and target.find(found) is not None]
    assert len(judged) > 5


def test_a_bound_holds_on_its_side() -> None:
    """Far off is beyond the margin, in the same direction."""
    least, most = (Target("", sign, 2.0, lambda _: None) for sign in ("≥", "≤"))
    assert least.holds(2.0)
    assert not least.holds(1.9)
    assert not least.is_far_off(1.0)
    assert least.is_far_off(0.9)
    assert most.holds(2.0)
    assert not most.holds(2.1)
    assert not most.is_far_off(4.0)
    assert most.is_far_off(4.1)


def test_a_bound_that_is_not_reached_has_its_margin_below_what_is() -> None:
    """It does not hold; and it is not far off before it gets worse."""
    not_yet = Target("", "≥", 2.0, lambda _: None, reached=1.0)
    assert not not_yet.holds(1.0)
    assert not not_yet.is_far_off(0.5)
    assert not_yet.is_far_off(0.4)


def test_a_machine_that_is_slow_for_everybody_passes() -> None:
    """The short form fails on ratios, never on times."""
    slow = [measurement("hot", side.label, rate=1.0) for side in (CONFIRMED, CEILING)]
    assert not [line for line in report.missed(Results(slow)) if "a second" in line]
    alone = [measurement("hot", CONFIRMED.label, rate=1.0), measurement("hot", CEILING.label)]
    assert [line for line in report.missed(Results(alone)) if "a second" in line]


def test_lag_and_depth_are_read_from_the_looks() -> None:
    """The 99th of a hundred lags; the depth at the end to that at the beginning."""
    found = measurement("soak", "us")
    assert lag_p99_ms(found) == 49
    assert 0.8 < depth_growth(found) < 1.2
