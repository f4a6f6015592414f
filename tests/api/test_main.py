"""``python -m api`` that cannot serve says why in one line, and exits with 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest


def _run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
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


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "99999"), ("API_WORKERS", "0"), ("LISTEN_FD", "x")]
)
def test_bad_setting(name: str, value: str) -> None:
    """A setting that cannot be is named."""
    ended = _run(**{name: value})
    assert ended.returncode == 2
    assert name in ended.stderr
    assert ended.stderr.count("\n") == 1
