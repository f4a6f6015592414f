"""Migrations: each once, in order, whoever comes first."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import asyncpg
import pytest

from engine import migrate as module
from engine.errors import LedgerAway, Misconfigured
from engine.migrate import migrate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the migrations, to be changed."""
    shutil.copytree(module.SQL, tmp_path / "sql")
    monkeypatch.setattr(module, "SQL", tmp_path / "sql")
    return tmp_path / "sql" / "migrations"


async def _fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


async def test_twice(empty_database: str) -> None:
    """The first applies everything, the second nothing."""
    applied = await migrate(empty_database, 4)
    assert applied[0] == "0001_ledger.sql"
    assert applied == sorted(applied)
    assert await migrate(empty_database, 4) == []
    assert len(await _fetch(empty_database, "SELECT FROM partitions")) == 4


async def test_concurrently(empty_database: str) -> None:
    """Of many at once, one applies and the others wait for it."""
    applied = await asyncio.gather(*(migrate(empty_database, 4) for _ in range(6)))
    assert sorted(map(len, applied))[:5] == [0] * 5
    assert len(max(applied, key=len)) >= 1
    assert len(await _fetch(empty_database, "SELECT FROM partitions")) == 4


async def test_new_file_is_applied(empty_database: str, files: Path) -> None:
    """It alone, and what it says."""
    await migrate(empty_database, 4)
    (files / "9001_more.sql").write_text("CREATE TABLE more (n int)")
    assert await migrate(empty_database, 4) == ["9001_more.sql"]
    assert await _fetch(empty_database, "SELECT * FROM more") == []


async def test_changed_file(empty_database: str, files: Path) -> None:
    """A migration that was applied is history: the message names it."""
    await migrate(empty_database, 4)
    (files / "0001_ledger.sql").write_text("SELECT 1")
    with pytest.raises(Misconfigured, match=r"0001_ledger\.sql was changed"):
        await migrate(empty_database, 4)


async def test_file_that_fails_leaves_nothing(empty_database: str, files: Path) -> None:
    """What was applied before it stays, of itself nothing does, and it can be mended."""
    broken = files / "9001_broken.sql"
    broken.write_text("CREATE TABLE half (n int); SELECT 1/0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_database, 4)
    broken.write_text("CREATE TABLE half (n int)")
    assert await migrate(empty_database, 4) == ["9001_broken.sql"]


async def test_other_partitions(empty_database: str) -> None:
    """Their number is fixed at the first migration; the message says what to set."""
    await migrate(empty_database, 4)
    with pytest.raises(Misconfigured, match="set PARTITIONS=4"):
        await migrate(empty_database, 5)
    assert len(await _fetch(empty_database, "SELECT FROM partitions")) == 4


async def test_postgres_away() -> None:
    """It is said as what it is."""
    with pytest.raises(LedgerAway):
        await migrate("postgresql://x@127.0.0.1:1/x", 4)
