"""The README in Russian says what the README says: commands, answers, settings, figures."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs/README.ru.md"]
TEXTS = [page.read_text(encoding="utf-8") for page in PAGES]
BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def _found(pattern: str) -> list[list[str]]:
    return [re.findall(pattern, text, re.MULTILINE) for text in TEXTS]


def test_same_commands_and_answers() -> None:
    """Nobody types a command that is no more."""
    english, russian = (BLOCK.findall(text) for text in TEXTS)
    assert english == russian


def test_same_settings() -> None:
    """Each variable with its default, in the same order."""
    english, russian = _found(r"^\| `([A-Z_]+)` \| (.*?) ?\|")
    assert english == russian


def test_same_chapters() -> None:
    """As many of each level, as many rows in the tables, points and pictures."""
    english, russian = _found(r"^(?:#+ |\| |- |!\[)")
    assert english == russian


def test_same_figures() -> None:
    """Numbers of a thousand and more, however their digits are grouped."""
    english, russian = (
        [
            re.sub(r"\D", "", number)
            for number in re.findall(r"\b\d{1,3}(?:[, \u00a0]\d{3})+\b", BLOCK.sub("", text))
        ]
        for text in TEXTS
    )
    assert english == russian
