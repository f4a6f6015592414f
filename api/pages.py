"""What a browser is given to show: the pages, with their scripts and styles.

Each page runs what comes from here as a file, and nothing else: its policy allows no script and no
style inside the page, and no outside host.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from api import openapi
from api.answers import Answer, Header, answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope

STATIC: Final = Path(__file__).with_name("static")
TYPES: Final = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
}
_AS_IT_SAYS: Final[Header] = (b"x-content-type-options", b"nosniff")
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(name: str) -> Callable[[Scope, Receive], Awaitable[Answer]]:
    """The endpoint that gives a file by its name, such as ``live.html``."""

    async def given(_scope: Scope, _receive: Receive) -> Answer:
        return _answer(name)

    return given


@cache
def _answer(name: str) -> Answer:
    kind = name.rpartition(".")[2]
    more = ((b"content-security-policy", _POLICY),) if kind == "html" else ()
    return answer(200, _content(name), _AS_IT_SAYS, *more, media_type=TYPES[kind])


def _content(name: str) -> bytes:
    match name:
        case "docs.html":
            return openapi.page().html
        case "docs.js":
            return openapi.page().script
        case "docs.css":
            return openapi.page().style
        case _:
            return (STATIC / name).read_bytes()
