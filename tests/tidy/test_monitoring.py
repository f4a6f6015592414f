"""The dashboard and the alert rules use metrics that exist, and leave none out."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from engine import metrics
from tests.tidy.sources import ROOT

MONITORING = ROOT / "docs/monitoring"
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
SAMPLES = {
    family.name + suffix: (family.name, labels)
    for collector, labels in (
        (each, set(each._labelnames))  # noqa: SLF001 - there is no other way to ask
        for each in vars(metrics).values()
        if isinstance(each, MetricWrapperBase)
    )
    for family in collector.describe()
    for suffix in SUFFIXES[family.type]
}
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
EXPRESSIONS += [rule["expr"] for rule in RULES]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_exists(expression: str) -> None:
    """Each metric by a name that is exposed, and grouped by labels that it has."""
    names = re.findall(r"\bonsale_\w+", expression)
    assert names
    assert set(names) <= set(SAMPLES)
    wanted = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))
    assert wanted - {"le"} <= set.union(*(SAMPLES[name][1] for name in names))
    assert expression.count("(") == expression.count(")")


def test_the_dashboard_is_whole() -> None:
    """Every metric is on it, each panel has a place of its own."""
    shown = {SAMPLES[name][0] for text in EXPRESSIONS for name in re.findall(r"onsale_\w+", text)}
    assert shown == {family for family, _ in SAMPLES.values()}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(set(places)) == len(PANELS)
    assert [panel["id"] for panel in PANELS] == list(range(1, len(PANELS) + 1))


def test_every_alert_is_explained() -> None:
    """What it means and what to do is a row of its own, in the order of the rules."""
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(Onsale\w+)` \| [^|]{10,} \| [^|]{5,} \|$", text, re.MULTILINE)
    assert rows == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
