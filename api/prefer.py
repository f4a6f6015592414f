"""How long a caller is willing to wait for the ledger: the ``Prefer`` header (RFC 7240).

``respond-async`` alone does not wait; ``wait=N`` waits N seconds, and does so too when both are
given (RFC 7240, section 4.3). A header that does not follow the grammar is as if it were not there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_WAIT_SECONDS = 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # noqa: S105  a token of RFC 9110, not a secret
_WORD = rf'(?:{_TOKEN}|"(?:[^"\\]|\\.)*+")'
_PREFERENCE = re.compile(
    rf"[ \t]*+(?P<name>{_TOKEN})(?:[ \t]*+=(?:[ \t]*+(?P<value>{_WORD}))?)?"
    rf"(?:[ \t]*+;(?:[ \t]*+{_TOKEN}(?:[ \t]*+=(?:[ \t]*+{_WORD})?)?)?)*+[ \t]*+(?:,|$)"
)


class Preference(NamedTuple):
    """How long to wait, and what ``Preference-Applied`` says of it; None where nothing was."""

    wait_ms: int | None
    applied: bytes | None


_AT_ONCE = Preference(0, b"respond-async")
_NOTHING = Preference(None, None)


def parse(header: bytes) -> Preference:
    """Read a ``Prefer`` header; of a preference that is given twice the first counts."""
    if header == b"respond-async":
        return _AT_ONCE
    found: dict[str, str] = {}
    text, at = header.decode("latin-1").strip(" \t,"), 0
    while at < len(text):
        match = _PREFERENCE.match(text, at)
        if match is None:
            return _NOTHING
        found.setdefault(match["name"].lower(), (match["value"] or "").strip('"'))
        at = match.end()
    wait = found.get("wait", "")
    if wait.isascii() and wait.isdigit():
        seconds = min(int(wait[:9]), MAX_WAIT_SECONDS)
        return Preference(seconds * 1000, b"wait=%d" % seconds)
    if found.get("respond-async") == "":
        return _AT_ONCE
    return _NOTHING
