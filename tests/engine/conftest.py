"""Stores that only the test changes: one pair a file, one partition a test."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.engine.house import House, Shop, database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from engine.settings import Settings


@pytest.fixture(scope="module")
async def house(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A Redis and a ledger of this file's own."""
    folder = tmp_path_factory.mktemp("house")
    async with House.build(folder, settings.postgres_dsn) as house:
        yield house


@pytest.fixture
async def own_house(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A Redis and a ledger of this test's own, to be broken."""
    folder = tmp_path_factory.mktemp("house")
    async with House.build(folder, settings.postgres_dsn, partitions=3) as house:
        yield house


@pytest.fixture(scope="module")
def partitions() -> Iterator[int]:
    """The partitions of this file's house that no test has used."""
    return count()


@pytest.fixture
async def shop(house: House, partitions: Iterator[int]) -> Shop:
    """A partition of this test's own, open."""
    return await Shop(house, next(partitions)).open()


@pytest.fixture
async def empty_database(settings: Settings) -> AsyncIterator[str]:
    """The address of a database with nothing in it."""
    async with database(settings.postgres_dsn) as dsn:
        yield dsn
