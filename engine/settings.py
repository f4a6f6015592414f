"""Settings: the environment, read once, then passed.

Names are those of the first system. ``DATABASE_URL`` and ``REDIS_URL`` take precedence over
the parts they are made of. A ``.env`` file in the working directory is read as well; the
environment wins over it.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.errors import Misconfigured


class Settings(BaseSettings):
    """Everything that can be set from outside, with its unit last in the name."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_workers: int = Field(default=1, ge=1, le=64)

    database_url: str | None = Field(default=None, pattern=r"^postgres(ql)?://")
    db_host: str | None = None
    db_port: int = Field(default=5432, ge=1, le=65535)
    db_username: str = "onsale"
    db_password: str = ""
    db_database: str = "onsale"

    redis_url: str | None = Field(default=None, pattern=r"^(redis|rediss|unix)://")
    redis_host: str | None = None
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_password: str = ""

    partitions: int = Field(default=16, ge=1, le=127)
    reserve_wait_ms: int = Field(default=2000, ge=0, le=10_000)
    outbox_bound: int = Field(default=200_000, ge=1, description="entries a partition may owe")
    queue_bound: int = Field(default=20_000, ge=1, description="requests waiting for a script")
    # Longer than the worker's wait for an entry (worker/drain.py).
    redis_timeout_ms: int = Field(default=2000, ge=1500)
    allow_volatile_redis: bool = False

    auth: Literal["none", "token", "jwt"] | None = None
    jwt_secret: str = ""
    jwt_public_key_file: str = ""
    jwt_jwks_file: str = ""
    jwt_audience: str = ""
    jwt_issuer: str = ""
    trusted_proxies: str = Field(default="", description="addresses and networks, with commas")

    rate_limit_max: int = Field(default=100, ge=0, description="0 is off")
    rate_limit_time_window: int = Field(default=60_000, ge=1, description="milliseconds")

    metrics_port: int = Field(default=0, ge=0, le=65535, description="of a worker; 0 is off")
    otel: bool = False

    log_format: Literal["pretty", "json"] = "pretty"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def load(cls) -> Settings:
        """Read the environment.

        Raises:
            Misconfigured: a value is not what it must be; the message names it.
        """
        try:
            return cls()
        except ValidationError as error:
            wrong = (f"{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
            raise Misconfigured("; ".join(wrong)) from None

    @field_validator("database_url", "redis_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        """What cannot be taken apart would be a traceback wherever it is used first."""
        parts = urlsplit(url or "")
        if parts.scheme.startswith("redis"):  # Postgres may have several hosts, each with a port
            _ = parts.port
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, text: str) -> str:
        """What is no address would be trusted as a name, and ``*`` as everybody."""
        for part in filter(None, text.split(",")):
            ip_network(part.strip())
        return text

    def check_exposure(self, host: str) -> None:
        """Refuse to let everybody in who can reach this host, unless somebody chose that.

        Raises:
            Misconfigured: the address is not of this machine alone, and ``AUTH`` was not set.
        """
        if self.auth is None and not _is_loopback(host):
            raise Misconfigured(
                f"{host} can be reached from outside: set AUTH=token or AUTH=jwt, "
                "or AUTH=none to let everybody in, or HOST=127.0.0.1"
            )

    def check_metrics_exposure(self) -> None:
        """Refuse to tell everybody who can reach us a worker's metrics, unless somebody chose that.

        A worker knows no callers: what ``AUTH`` says of an API holds for it only if it is ``none``.

        Raises:
            Misconfigured: the address is not of this machine alone, and ``AUTH`` is not ``none``.
        """
        if self.metrics_port and self.auth != "none" and not _is_loopback(self.host):
            raise Misconfigured(
                f"METRICS_PORT of a worker is open to everybody, and {self.host} can be reached "
                "from outside: set AUTH=none for this worker to let everybody in, or HOST=127.0.0.1"
            )

    @property
    def postgres_dsn(self) -> str:
        """The address of the ledger."""
        if self.database_url:
            return self.database_url
        login = quote(self.db_username, safe="")
        if self.db_password:
            login += ":" + quote(self.db_password, safe="")
        host = self.db_host or "127.0.0.1"
        return f"postgresql://{login}@{host}:{self.db_port}/{quote(self.db_database, safe='')}"

    @property
    def redis_dsn(self) -> str:
        """The address of Redis."""
        if self.redis_url:
            return self.redis_url
        login = f":{quote(self.redis_password, safe='')}@" if self.redis_password else ""
        return f"redis://{login}{self.redis_host or '127.0.0.1'}:{self.redis_port}/0"

    @property
    def names_postgres(self) -> bool:
        """Whether a ledger was named, so that none is to be started."""
        return bool(self.database_url or self.db_host)

    @property
    def names_redis(self) -> bool:
        """Whether a Redis was named, so that none is to be started."""
        return bool(self.redis_url or self.redis_host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
