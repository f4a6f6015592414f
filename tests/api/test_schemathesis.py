"""A stranger reads the description, tries whatever it allows and forbids, and finds no lie."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests import world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.world import Stores

CONFIG = Path(__file__).with_name("schemathesis.toml")
SEED = "1"
MAX_EXAMPLES = "5"
"""Of each call and phase: some hundreds of requests in all."""


async def test_schemathesis_finds_nothing(
    live_api: str, stores: Stores, open_event: Callable[..., Awaitable[int]], tmp_path: Path
) -> None:
    """All its checks, over real stores: statuses, headers, schemas, what is to be refused."""
    for _ in range(3):
        await open_event(3)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", f"{live_api}/openapi.json", "--seed", SEED, "--max-examples", MAX_EXAMPLES),
        *("--checks", "all", "--no-color", "--exclude-operation-id", "watch"),  # does not end
        cwd=tmp_path,
        env=world.environment(PYTHONPATH=str(CONFIG.parents[2])),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    await stores.count_seats()
