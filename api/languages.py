"""Which of our languages a caller reads: ``Accept-Language`` (RFC 9110, section 12.5.4).

A range is matched by its first subtag (``ru-RU`` is ``ru``), as RFC 4647 does in its lookup.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

MAX_HEADER_BYTES = 256
"""What stands beyond is not looked at: nobody reads that many languages."""

_RANGE = re.compile(
    r"\s*(?P<first>[a-z]{1,8}|\*)(?:-[a-z0-9]{1,8})*\s*"
    r"(?:;\s*q\s*=\s*(?P<weight>0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?",
    re.IGNORECASE,
)


class Language(StrEnum):
    """What a ``detail`` can be read in; the first is what callers who say nothing get."""

    EN = "en"
    RU = "ru"


def language_of(scope: Scope) -> Language:
    """The language of a request's answer."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    said = [value for name, value in headers if name == b"accept-language"]
    return chosen(b",".join(said)) if said else Language.EN


@lru_cache(maxsize=256)
def chosen(header: bytes | None) -> Language:
    """The language with the highest weight; of two with the same, the one that is named first.

    A range that does not follow the grammar is as if it were not there, and so is a header that
    leaves no language: a refusal in English is more use than none.
    """
    weights: dict[str, float] = {}
    for part in (header or b"")[:MAX_HEADER_BYTES].decode("latin-1").lower().split(","):
        match = _RANGE.fullmatch(part)
        if match:
            weight = float(match["weight"] or 1)
            weights[match["first"]] = max(weight, weights.get(match["first"], 0.0))
    others = weights.pop("*", 0.0)
    order = [*(name for name in weights if name in set(Language)), *Language]
    best = max(order, key=lambda name: weights.get(name, others))
    return Language(best) if weights.get(best, others) else Language.EN
