"""Settings: the environment, by the names of the first system, with the addresses made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from engine.errors import Misconfigured
from engine.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty environment, and a folder without a .env file."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_set() -> None:
    """Everything has a default, and no server is named."""
    settings = Settings()
    assert (settings.partitions, settings.reserve_wait_ms, settings.rate_limit_max) == (
        16, 2000, 100,
    )  # fmt: skip
    assert not settings.names_postgres
    assert not settings.names_redis


def test_parts_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in a password, the address keeps it."""
    for name, value in {
        "DB_HOST": "db", "DB_PORT": "6432", "DB_USERNAME": "u@x", "DB_PASSWORD": "p/:?#%",
        "DB_DATABASE": "a b", "REDIS_HOST": "cache", "REDIS_PORT": "6380", "REDIS_PASSWORD": "@/",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.postgres_dsn == "postgresql://u%40x:p%2F%3A%3F%23%25@db:6432/a%20b"
    assert settings.redis_dsn == "redis://:%40%2F@cache:6380/0"
    assert settings.names_postgres
    assert settings.names_redis


def test_whole_addresses_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the parts that they are made of."""
    monkeypatch.setenv("DB_HOST", "db")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/x")
    monkeypatch.setenv("REDIS_HOST", "cache")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere/1")
    settings = Settings()
    assert settings.postgres_dsn == "postgresql://elsewhere/x"
    assert settings.redis_dsn == "redis://elsewhere/1"


def test_file_and_environment(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env file is read, what it has beyond ours is left alone, and the environment wins."""
    (nothing_set / ".env").write_text("PORT=1234\nPARTITIONS=3\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("PARTITIONS", "5")
    settings = Settings()
    assert (settings.port, settings.partitions) == (1234, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"), ("PORT", "http"), ("PARTITIONS", "0"), ("PARTITIONS", "128"),
        ("RESERVE_WAIT_MS", "-1"), ("RESERVE_WAIT_MS", "10001"), ("OUTBOX_BOUND", "0"),
        ("QUEUE_BOUND", "0"), ("RATE_LIMIT_MAX", "-1"), ("RATE_LIMIT_TIME_WINDOW", "0"),
        ("REDIS_URL", "redis://h:99999"), ("REDIS_URL", "redis://h:x"),
        ("DATABASE_URL", "postgresql://[::1/x"),
        ("API_WORKERS", "0"), ("LOG_FORMAT", "xml"), ("LOG_LEVEL", "loud"),
    ],
)  # fmt: skip
def test_out_of_bounds(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """It is refused, by its name."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_several_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres may have several."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://one:5432,two:5433/x")
    assert Settings().postgres_dsn == "postgresql://one:5432,two:5433/x"


def test_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is one line that names the variables, for whoever starts a program."""
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("DATABASE_URL", "mysql://x")
    with pytest.raises(Misconfigured, match=r"PORT: .*; DATABASE_URL: "):
        Settings.load()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_a_host_of_this_machine(host: str) -> None:
    """Needs no word on who may call."""
    Settings().check_exposure(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "onsale.example", ""])  # noqa: S104  refused
def test_a_host_of_the_network(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs one, whichever it is."""
    with pytest.raises(Misconfigured, match="set AUTH="):
        Settings().check_exposure(host)
    for auth in ("none", "token", "jwt"):
        monkeypatch.setenv("AUTH", auth)
        Settings().check_exposure(host)


@pytest.mark.parametrize("auth", [None, "token", "jwt"])
def test_metrics_of_a_worker(auth: str | None) -> None:
    """They are for whoever asks: to serve them to the network is chosen by ``none`` alone."""
    inside = {"metrics_port": 9100, "auth": auth}
    Settings.model_validate(inside).check_metrics_exposure()
    outside = {**inside, "host": "0.0.0.0"}  # noqa: S104  refused
    with pytest.raises(Misconfigured, match="set AUTH=none for this worker"):
        Settings.model_validate(outside).check_metrics_exposure()
    Settings.model_validate({**outside, "auth": "none"}).check_metrics_exposure()
    Settings.model_validate({**outside, "metrics_port": 0}).check_metrics_exposure()


def test_frozen() -> None:
    """Read once, then passed."""
    settings: Any = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1
