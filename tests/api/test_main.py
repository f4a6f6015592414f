"""``python -m api`` that cannot serve says why in one line, and exits with 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


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
