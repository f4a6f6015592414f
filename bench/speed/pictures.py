"""Pictures of what was measured, as SVG: they are drawn from the files in ``results/``."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.speed.load import BUCKET_S
from bench.speed.scenario import (
    ACCEPTED,
    BY_BATCH,
    BY_LOCK,
    BY_SEAT_ROW,
    CEILING,
    CONFIRMED,
)

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.speed.measurement import Measurement, Results

SIZE: Final = (9.0, 4.5)
STEP_S: Final = 0.2
"""Rates over time are means over this."""
ROLES: Final = {"api": "#4c78a8", "redis": "#e45756", "worker": "#f2a541", "postgres": "#72b7b2"}
COLOURS: Final = {
    CONFIRMED.label: "#1b5e9c",
    ACCEPTED.label: "#57a0d3",
    BY_BATCH.label: "#d9742b",
    CEILING.label: "#888888",
    BY_SEAT_ROW.label: "#8c6bb1",
    BY_LOCK.label: "#b03060",
}
"""Who is shown, and how; the others are in the tables and among the bars."""
GRANTED: Final = (201, 202)


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what there are measurements for; answers the files."""
    mpl.rcParams.update({"svg.hashsalt": "onsale", "svg.fonttype": "none", "font.size": 10})
    pictures = {
        "throughput": (throughput, "hot"),
        "latency": (latency, "hot"),
        "cpu": (cpu, "hot"),
        "lag": (lag, "soak"),
        "stopped": (stopped, "stopped"),
        "sellout": (sell_out, "sellout"),
    }
    drawn = []
    for name, (paint, scenario) in pictures.items():
        if scenario in results.scenarios():
            figure = Figure(figsize=SIZE, layout="constrained")
            paint(figure.add_subplot(), results)
            drawn.append(folder / f"{name}.svg")
            figure.savefig(drawn[-1], metadata={"Date": None})
    return drawn


def throughput(axes: Axes, results: Results) -> None:
    """Bookings a second over time, of each side's median turn."""
    for side in shown(results, "hot"):
        turn = median_turn(results.of("hot", side))
        times, rates = over_time(turn, GRANTED)
        axes.plot(times, rates, label=side, color=COLOURS[side])
    label(axes, "one hot event, 64 connections", "seconds", "bookings a second")


def latency(axes: Axes, results: Results) -> None:
    """How long which share of the callers waited."""
    for side in shown(results, "hot"):
        points = median_turn(results.of("hot", side)).outcome.latency_ms
        beyond = [(100 - percent, ms) for percent, ms in points if percent < 100]  # noqa: PLR2004
        axes.plot(*zip(*beyond, strict=True), label=side, color=COLOURS[side])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    shares = (50, 10, 1, 0.1, 0.01)
    axes.set_xticks(shares, [f"{100 - share:g} %" for share in shares])
    label(axes, "one hot event, 64 connections", "share of callers who waited no longer", "ms")


def cpu(axes: Axes, results: Results) -> None:
    """CPU for one booking, by who takes it."""
    sides = list(reversed(results.sides("hot")))
    begin = [0.0] * len(sides)
    for role, colour in ROLES.items():
        widths = [
            statistics.median(turn.cpu_us.get(role, 0.0) for turn in results.of("hot", side))
            for side in sides
        ]
        axes.barh(sides, widths, left=begin, color=colour, label=role)
        begin = [a + b for a, b in zip(begin, widths, strict=True)]
    for place, total in enumerate(begin):
        axes.text(total, place, f" {total:,.0f}", va="center")
    label(axes, "CPU for one booking", "µs", "")


def lag(axes: Axes, results: Results) -> None:
    """The outbox over the soak."""
    for side in shown(results, "soak"):
        samples = results.of("soak", side)[0].samples
        times, lags = [s.at_s for s in samples], [s.lag_ms for s in samples]
        axes.plot(times, lags, label=side, color=COLOURS[side], linewidth=0.8)
    label(axes, "a minute at full load: age of the outbox's oldest entry", "seconds", "ms")


def stopped(axes: Axes, results: Results) -> None:
    """Sales while Postgres stands still."""
    for side in shown(results, "stopped"):
        turn = results.of("stopped", side)[0]
        times, rates = over_time(turn, GRANTED)
        axes.plot(times, rates, label=side, color=COLOURS[side])
        quarter = turn.outcome.seconds / 4
    axes.axvspan(quarter, 3 * quarter, color="#eeeeee", label="Postgres stands still")
    label(axes, "1,000 events, Postgres stopped", "seconds", "bookings a second")


def sell_out(axes: Axes, results: Results) -> None:
    """Answers of any kind over the sale of 1,000 seats."""
    for side in shown(results, "sellout"):
        turn = median_turn(results.of("sellout", side))
        times, rates = over_time(turn, tuple(turn.outcome.series))
        axes.plot(times, rates, label=side, color=COLOURS[side])
    label(axes, "1,000 seats, then refusals; 256 connections", "seconds", "answers a second")


def shown(results: Results, scenario: str) -> list[str]:
    """Who is drawn over time."""
    return [side for side in COLOURS if side in results.sides(scenario)]


def median_turn(turns: list[Measurement]) -> Measurement:
    """The turn whose rate is the median, or the one below."""
    return sorted(turns, key=lambda turn: turn.rate)[(len(turns) - 1) // 2]


def over_time(turn: Measurement, statuses: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Middles of steps in seconds, and answers a second in each; the last, half-full one is not."""
    columns = [turn.outcome.series[status] for status in statuses if status in turn.outcome.series]
    counts = [sum(column) for column in zip(*columns, strict=True)]
    width = round(STEP_S / BUCKET_S)
    steps = [sum(counts[n : n + width]) for n in range(0, len(counts) - width + 1, width)]
    times = [(place + 0.5) * STEP_S for place in range(len(steps))]
    return times, [step / STEP_S for step in steps]


def label(axes: Axes, title: str, below: str, beside: str) -> None:
    """Say what is seen; from zero on, unless it is logarithmic."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0 if beside else None)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.legend(frameon=False, fontsize=8, loc="outside right upper")
