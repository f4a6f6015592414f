"""What is printed: a table for each scenario, and the targets with what was found."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from bench.speed.targets import MARGIN, TARGETS, figure, lag_p99_ms, of_role, percentile, rate

if TYPE_CHECKING:
    from bench.speed.measurement import Measurement, Results
    from bench.speed.targets import Figure

WIDTH: Final = 140
ROLES: Final = ("api", "redis", "worker", "postgres", "client")
NO_FIGURE: Final = "-"
COLUMNS: Final = ("a second", "to first", "p50 ms", "p99", "p99.9")


def console() -> Console:
    """As wide as the tables, wherever it goes."""
    return Console(width=WIDTH, highlight=False, markup=False, soft_wrap=True)


def table(results: Results, scenario: str, title: str) -> Table:
    """Medians over the rounds; CPU is in µs, and ``bytes`` is what Redis keeps, for one answer."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    made.add_column("", no_wrap=True)
    for name in (*COLUMNS, *ROLES, "bytes", "sold", "oversold"):
        made.add_column(name, justify="right")
    sides = results.sides(scenario)
    for side in sides:
        found = results.of(scenario, side)
        first = results.ratio(scenario, side, sides[0], rate)
        made.add_row(
            side,
            *(_figure(found, rate, 0), NO_FIGURE if first is None else f"{first:.2f}"),
            *(_figure(found, percentile(p), 1) for p in (50, 99, 99.9)),
            *(_figure(found, of_role(role), 1) for role in ROLES),
            _figure(found, lambda m: m.redis_bytes, 0),
            f"{sum(each.sold.rows for each in found):,}",
            f"{sum(each.sold.oversold for each in found)}",
        )
    return made


def figures(results: Results, scenario: str) -> list[str]:
    """A scenario's own figures, and the outbox's lag, as lines."""
    lines = []
    for side in results.sides(scenario):
        found = results.of(scenario, side)
        names = found[0].figures
        told = [f"{name} {_median(found, figure(name)):,.2f}" for name in names]
        if any(sample.depth for each in found for sample in each.samples):
            told.append(f"outbox_lag_p99_ms {_median(found, lag_p99_ms):,.0f}")
            deepest = max(sample.depth for each in found for sample in each.samples)
            told.append(f"outbox_deepest {deepest:,}")
        if told:
            lines.append(f"  {side}: {', '.join(told)}")
    return lines


def verdicts(results: Results) -> Table:
    """Each target that was measured, what was found, and whether it holds."""
    made = Table(title="targets", title_justify="left", box=None, pad_edge=False)
    for name in ("", "wanted", "found", ""):
        made.add_column(name, justify="left" if not name else "right")
    for target in TARGETS:
        found = target.find(results)
        if found is not None:
            wanted = f"{target.sign} {target.bound:,g}"
            said = "holds" if target.holds(found) else "does not hold"
            made.add_row(target.says, wanted, f"{found:,.2f}", said)
    return made


def missed(results: Results) -> list[str]:
    """The ratios that are far off, as lines."""
    lines = []
    for target in TARGETS:
        found = target.find(results) if target.is_ratio else None
        if found is not None and target.is_far_off(found):
            usual = "" if target.reached is None else f", usually {target.reached:g}"
            wanted = f"{target.sign} {target.bound:g}{usual}"
            lines.append(f"{target.says}: {found:.2f}, wanted {wanted}, margin {MARGIN:g}")
    return lines


def _median(found: list[Measurement], of: Figure) -> float:
    return statistics.median(of(each) for each in found)


def _figure(found: list[Measurement], of: Figure, digits: int) -> str:
    """The median; a dash where there is nothing to tell."""
    if not found[0].outcome.latency_ms:
        return NO_FIGURE
    value = _median(found, of)
    return f"{value:,.{digits}f}" if value else NO_FIGURE
