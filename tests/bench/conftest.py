"""One Redis and one Postgres for all contenders, as the bench has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.speed.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Each contender's tables are laid out."""
    with Servers() as running:
        yield running
