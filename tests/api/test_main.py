"""``python -m api`` that cannot serve says why in one line, and exits with 2."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from httpx2 import AsyncClient
from uvicorn import Server

from api.__main__ import config_of
from api.answers import answer
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from starlette.types import Receive, Scope, Send


def _run(pass_fds: Sequence[int] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        pass_fds=pass_fds,
        check=False,
    )


def test_port_taken() -> None:
    """A port that is taken is named."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ended = _run(HOST="127.0.0.1", PORT=port)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"onsale: cannot listen on 127.0.0.1:{port}: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])  # noqa: S104  refused
def test_exposed_without_a_choice(host: str) -> None:
    """An address that can be reached from outside is refused until somebody says who may call."""
    ended = _run(HOST=host, PORT="0")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"onsale: {host} can be reached from outside: set AUTH=")
    assert ended.stderr.count("\n") == 1


def test_handed_over_and_exposed() -> None:
    """So is a socket that somebody else opened."""
    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104  refused
        ended = _run(LISTEN_FD=str(listener.fileno()), pass_fds=[listener.fileno()])
    assert ended.returncode == 2
    assert ended.stderr.startswith("onsale: 0.0.0.0 can be reached from outside")


def test_up_is_exposed_without_a_choice(tmp_path: Path) -> None:
    """``onsale up`` refuses before it starts anything."""
    ended = subprocess.run(
        [sys.executable, "-m", "engine.cli", "up", "--host", "0.0.0.0", "--data", str(tmp_path)],  # noqa: S104  refused
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("onsale: 0.0.0.0 can be reached from outside")
    assert not (tmp_path / "redis").exists()


def test_without_a_key_for_tokens() -> None:
    """AUTH=jwt needs to know whom to trust."""
    ended = _run(AUTH="jwt")
    assert ended.returncode == 2
    assert ended.stderr.startswith("onsale: AUTH=jwt needs exactly one of JWT_SECRET")
    assert ended.stderr.count("\n") == 1


async def _address_seen(settings: Settings, forwarded_for: str) -> str:
    """As whose address a real server takes a call that comes through a proxy on this machine."""
    seen = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(scope["client"][0])
        await answer(200, b"").send(send)

    config = config_of(settings)
    config.app, config.factory, config.lifespan, config.loop = app, False, "off", "none"
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with AsyncClient() as client:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            await client.get(url, headers={"x-forwarded-for": forwarded_for})
        server.should_exit = True
        await serving
    return seen[0]


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "address"),
    [
        ("", "203.0.113.7", "127.0.0.1"),
        ("10.0.0.0/8", "203.0.113.7", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.0/8, 10.0.0.0/8", "203.0.113.7, 10.0.0.1", "203.0.113.7"),
        ("127.0.0.1", "203.0.113.7, 198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "", "127.0.0.1"),
    ],
)
async def test_trusted_proxies(trusted: str, forwarded_for: str, address: str) -> None:
    """A caller's address is what the last proxy that we trust says it is; strangers say nothing."""
    settings = Settings.model_validate({"trusted_proxies": trusted, "rate_limit_max": 0})
    assert await _address_seen(settings, forwarded_for) == address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "99999"),
        ("API_WORKERS", "0"),
        ("LISTEN_FD", "x"),
        ("AUTH", "basic"),
        ("TRUSTED_PROXIES", "*"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy.example"),
    ],
)
def test_bad_setting(name: str, value: str) -> None:
    """A setting that cannot be is named."""
    ended = _run(**{name: value})
    assert ended.returncode == 2
    assert name in ended.stderr
    assert ended.stderr.count("\n") == 1
