"""A rush as a picture: answers a second, and how long they took, in one SVG without a library."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.rush.crowd import Answered

MOST_COLUMNS: Final = 120
LEAST_S: Final = 0.05
WIDTH, PLOT, LEFT, RIGHT, GAP, TOP = 960, 190, 72, 24, 64, 92
COLORS: Final = {
    "confirmed": "#5142cf",
    "pending": "#00778a",
    "sold_out": "#d6d3ec",
    "unanswered": "#c22651",
}
MEDIAN, P99 = "#5142cf", "#a35200"
NAMESPACE: Final = 'xmlns="http://www.w3.org/2000/svg"'
FONT: Final = 'font-family="system-ui, sans-serif" font-size="13"'
INK, SOFT, GRID = "#17172b", "#56566f", "#e7e7f1"
MEDIAN_SHARE, P99_SHARE = 0.5, 0.99


class Column(NamedTuple):
    """A short stretch of the rush: answers a second by kind, and how long they took."""

    rates: dict[str, float]
    median_ms: float
    p99_ms: float


def columns(answers: Sequence[Answered], seconds: float) -> list[Column]:
    """The rush in stretches of equal length."""
    count = min(MOST_COLUMNS, max(1, int(seconds / LEAST_S)))
    width_s = seconds / count
    place = lambda each: min(count - 1, int(each.at_s / width_s))  # noqa: E731 - a key
    found = [Column({}, 0, 0)] * count
    for column, group in groupby(sorted(answers, key=lambda each: each.at_s), place):
        part = list(group)
        took_ms = sorted(each.took_ms for each in part)
        rates: dict[str, float] = {}
        for each in part:
            rates[each.what] = rates.get(each.what, 0) + 1 / width_s
        found[column] = Column(rates, share(took_ms, MEDIAN_SHARE), share(took_ms, P99_SHARE))
    return found


def share(ordered: Sequence[float], part: float) -> float:
    """The value that this part of them does not exceed; 0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def draw(title: str, line: str, answers: Sequence[Answered], seconds: float) -> str:
    """The picture as SVG."""
    parts = columns(answers, seconds)
    most = _ceiling(max(sum(each.rates.values()) for each in parts))
    slowest = _ceiling(max(each.p99_ms for each in parts))
    lower = TOP + PLOT + GAP
    height = lower + PLOT + 44
    kinds = [kind for kind in COLORS if any(kind in each.rates for each in parts)]
    return "\n".join(
        [
            f'<svg {NAMESPACE} viewBox="0 0 {WIDTH} {height}" role="img" {FONT}>',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" rx="16" fill="#fff"/>',
            _text(LEFT, 30, title, size=20, color=INK, weight=700),
            _text(LEFT, 50, line),
            *_axes(TOP, most, "answers a second", seconds),
            *_stacked(parts, kinds, TOP, most),
            *_legend(TOP, {kind.replace("_", " "): COLORS[kind] for kind in kinds}),
            *_axes(lower, slowest, "milliseconds until the answer", seconds),
            _line([each.p99_ms for each in parts], lower, slowest, P99),
            _line([each.median_ms for each in parts], lower, slowest, MEDIAN),
            *_legend(lower, {"median": MEDIAN, "99%": P99}),
            "</svg>\n",
        ]
    )


def _x(share_of_all: float) -> float:
    return LEFT + share_of_all * (WIDTH - LEFT - RIGHT)


def _text(  # noqa: PLR0913 - what a text has
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    color: str = SOFT,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{color}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _axes(top: float, most: float, what: str, seconds: float) -> list[str]:
    found = [_text(LEFT, top - 6, what, color=INK, weight=600)]
    for part in (0, 0.5, 1):
        y = top + PLOT * (1 - part)
        found.append(
            f'<path d="M{LEFT} {y:g}H{WIDTH - RIGHT}" stroke="{GRID}" fill="none"/>'
            + _text(LEFT - 8, y + 4, f"{most * part:,g}", anchor="end")
        )
    found.append(_text(LEFT, top + PLOT + 18, "0 s"))
    found.append(_text(WIDTH - RIGHT, top + PLOT + 18, f"{seconds:.1f} s", anchor="end"))
    return found


def _stacked(parts: Sequence[Column], kinds: Sequence[str], top: float, most: float) -> list[str]:
    found, below = [], [0.0] * len(parts)
    for kind in kinds:
        above = [under + each.rates.get(kind, 0) for under, each in zip(below, parts, strict=True)]
        way = _steps(above, top, most) + _steps(below, top, most)[::-1]
        found.append(f'<polygon points="{" ".join(way)}" fill="{COLORS[kind]}"/>')
        below = above
    return found


def _steps(values: Sequence[float], top: float, most: float) -> list[str]:
    return [
        f"{_x((column + side) / len(values)):.1f},{top + PLOT * (1 - value / most):.1f}"
        for column, value in enumerate(values)
        for side in (0, 1)
    ]


def _line(values: Sequence[float], top: float, most: float, color: str) -> str:
    way = " ".join(_steps(values, top, most))
    return f'<polyline points="{way}" fill="none" stroke="{color}" stroke-width="1.5"/>'


def _legend(top: float, names: dict[str, str]) -> list[str]:
    found, x = [], WIDTH - RIGHT
    for name, color in reversed(names.items()):
        found.append(_text(x, top - 6, name, anchor="end"))
        x -= 8 * len(name) + 18
        found.append(f'<rect x="{x}" y="{top - 16}" width="11" height="11" rx="3" fill="{color}"/>')
        x -= 16
    return found


def _ceiling(value: float) -> float:
    """The next round number."""
    power = 1.0
    while power * 10 < value:
        power *= 10
    return next((part * power for part in (1, 2, 5) if part * power >= value), power * 10)
