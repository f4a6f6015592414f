"""What was measured is written, read back and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from bench.speed import pictures, report, results
from bench.speed.scenario import scenarios
from tests.bench.made import everything, measurement

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Bit for bit, one file a scenario."""
    for each in scenarios():
        found = [one for one in everything().all if one.scenario == each.name]
        results.write(tmp_path, each.name, {"cores": "2"}, found)
    assert len(list(tmp_path.glob("*.json"))) == len(list(scenarios()))
    by_name = sorted(everything().all, key=lambda one: one.scenario)
    assert sorted(results.read(tmp_path).all, key=lambda one: one.scenario) == by_name


def test_every_picture_is_drawn_and_names_who_is_in_it(tmp_path: Path) -> None:
    """As SVG whose text is text, the same from the same figures."""
    drawn = pictures.draw(everything(), tmp_path)
    assert len(drawn) == 6
    for path in drawn:
        text = path.read_text(encoding="utf-8")
        ET.fromstring(text)  # noqa: S314 - our own file
        assert "onsale, confirmed" in text
    before = [path.read_bytes() for path in drawn]
    assert [path.read_bytes() for path in pictures.draw(everything(), tmp_path)] == before


def test_rates_over_time_are_means_over_a_fifth_of_a_second() -> None:
    """One booking in each bucket of 20 ms is fifty a second."""
    times, rates = pictures.over_time(measurement("hot", "us"), (201,))
    assert [round(at, 6) for at in times] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert rates == [50.0] * 5


def test_a_table_has_a_line_for_each_side() -> None:
    """With medians, and what was sold."""
    found = everything()
    for each in scenarios():
        assert report.table(found, each.name, each.title).row_count == len(each.sides)
