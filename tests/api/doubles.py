"""An engine that says what a test wants to hear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from httpx2 import ASGITransport, AsyncClient

from api import routes
from tests.api.conformance import Described

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.engine import Engine


class Double:
    """An engine whose every call gives, or raises, the same."""

    def __init__(self, outcome: object) -> None:
        self._outcome = outcome

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*_: object, **__: object) -> object:
            if isinstance(self._outcome, Exception):
                raise self._outcome
            return self._outcome

        return call

    @property
    def events(self) -> Double:
        """Its events, which do the same."""
        return self


def over(outcome: object, **options: Any) -> AsyncClient:
    """A client of the API over such an engine."""
    app = routes.build(cast("Engine", Double(outcome)), **{"wait_ms": 0, **options})
    return AsyncClient(transport=ASGITransport(app=Described(app)), base_url="http://onsale")
