"""``onsale keys``: what an operator types, and what it prints."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable

    from tests.world import Stores

    Keys = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


@pytest.fixture
def keys(stores: Stores) -> Keys:
    """Run a sub-command."""

    async def run(*args: str) -> subprocess.CompletedProcess[str]:
        done = await asyncio.to_thread(stores.onsale, "keys", *args)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


async def test_the_life_of_a_key(keys: Keys) -> None:
    """It is printed once, alone, so that a script can keep it; then it is only ever named."""
    name = uuid4().hex
    made = await keys("create", name, "--scope", "reserve", "--scope", "read")
    secret = made.stdout.strip()
    assert (made.returncode, made.stderr) == (0, "")
    assert secret.startswith("onsale_")
    again = await keys("create", name, "--scope", "read")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith(f"onsale: there is a key {name} already")
    listed = await keys("list")
    assert f"{name}\tread reserve\t20" in listed.stdout
    assert secret not in listed.stdout
    (row,) = (
        k for k in json.loads((await keys("list", "--json")).stdout)["keys"] if k["name"] == name
    )
    assert row["scopes"] == ["read", "reserve"]
    assert (await keys("revoke", name)).stdout == f"{name} is revoked\n"
    assert name not in (await keys("list")).stdout
    gone = await keys("revoke", name)
    assert (gone.returncode, gone.stderr) == (2, f"onsale: there is no key {name}\n")


@pytest.mark.parametrize(
    "args", [("a b", "--scope", "read"), ("", "--scope", "read"), ("a",), ("a", "--scope", "root")]
)
async def test_what_cannot_be(keys: Keys, args: tuple[str, ...]) -> None:
    """A name that cannot be typed, a key for nothing, a scope that is none."""
    done = await keys("create", *args)
    assert (done.returncode, done.stdout) == (2, "")
