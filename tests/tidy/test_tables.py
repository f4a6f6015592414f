"""Words, problems and metrics: one table each, whole, and nothing in it that is never used."""

from __future__ import annotations

import re

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from api.languages import Language
from api.problems import FAULTS, PROBLEMS, Problem
from engine import metrics
from engine.errors import Fault
from engine.model import Status, Word
from tests.tidy.sources import ROOT, strings

GRANTS = {Word.RESERVED, Word.REPLAYED, Word.CANCELLED}
GONE = {Status.CANCELLED, Status.REJECTED, Status.LOST}


@pytest.mark.parametrize("word", sorted(set(Word) - GRANTS))
def test_every_refusal_has_its_problem(word: Word) -> None:
    """What the engine refuses, the API can say."""
    assert 400 <= PROBLEMS[word].status < 500


@pytest.mark.parametrize("status", sorted(GONE))
def test_every_booking_that_is_gone_has_its_problem(status: Status) -> None:
    """410, with what has become of it."""
    assert PROBLEMS[f"booking_{status}"].status == 410


def test_every_fault_has_its_problem() -> None:
    """Each kind of fault that a caller can meet is a 503 that says when to try again."""
    kinds = {kind for kind in (Fault, *Fault.__subclasses__()) if kind is not Fault}
    for kind in kinds:
        mapped = [code for of, code in FAULTS.items() if issubclass(kind, of)]
        parts = [code for of, code in FAULTS.items() if issubclass(of, kind)]
        assert mapped or parts, kind
    for code in FAULTS.values():
        assert PROBLEMS[code].status == 503
        assert PROBLEMS[code].retry_after_seconds


def test_every_code_is_reachable() -> None:
    """A code that nothing answers is a promise that nobody keeps."""
    table = ROOT / "api" / "problems.py"
    said = {text for path in (ROOT / "api").glob("*.py") if path != table for text in strings(path)}
    said |= {str(word) for word in set(Word) - GRANTS} | {f"booking_{status}" for status in GONE}
    said |= set(FAULTS.values())
    assert set(PROBLEMS) <= said


@pytest.mark.parametrize(("code", "row"), PROBLEMS.items(), ids=PROBLEMS)
def test_every_problem_is_whole(code: str, row: Problem) -> None:
    """A title, a sentence for developers in each language, and one in Russian for people."""
    assert re.fullmatch(r"[a-z_]+", code)
    assert row.title
    assert len(row.detail) == len(Language)
    assert all(sentence.endswith(".") for sentence in row.detail)
    assert re.search(r"[\u0430-\u044f]", row.detail.ru)
    assert row.detail.en.isascii()
    assert re.search(r"[\u0430-\u044f]", row.error)
    assert (row.retry_after_seconds is not None) == (row.status in (429, 503))


OURS = [
    collector for collector in vars(metrics).values() if isinstance(collector, MetricWrapperBase)
]


@pytest.mark.parametrize("collector", OURS, ids=lambda collector: collector.describe()[0].name)
def test_every_metric_has_a_help_text(collector: MetricWrapperBase) -> None:
    """A name of ours, and a sentence; counters of Prometheus's end in ``_total`` by themselves."""
    (family,) = collector.describe()
    assert re.fullmatch(r"onsale_[a-z_]+", family.name)
    assert re.fullmatch(r"[A-Z].{10,}\.", family.documentation)


def test_metrics_are_found() -> None:
    """The list above is not empty, and all of it is registered."""
    assert len(OURS) >= 10
    names = {family.name for family in REGISTRY.collect()}
    assert {collector.describe()[0].name for collector in OURS} <= names
