"""What holds for every command: JSON of a documented shape, exit codes, completion."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from engine.cli import app
from tests import world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.world import Sale

ONSALE = [sys.executable, "-m", "engine.cli"]
OPERATING = Path(__file__).parents[2] / "docs/operating.md"
OTHER_PROGRAMS = {"api", "worker", "psql", "drill", "bench"}


def commands(of: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Each command by its whole name."""
    for name, command in of.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(typer.main.get_command(app)))
SHAPES = dict(
    re.findall(r"^\| `([a-z -]+)` \| `(\{.*\})` \|", OPERATING.read_text("utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_speak_json(name: str) -> None:
    """But those that become another program; and its shape is in the docs."""
    options = {option for each in COMMANDS[name].params for option in each.opts}
    if name in OTHER_PROGRAMS:
        assert "--json" not in options
        assert name not in SHAPES
    else:
        assert "--json" in options
        assert name in SHAPES


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - OTHER_PROGRAMS - {"up", "version"}))
def test_every_command_says_how_it_exits(name: str) -> None:
    """In its help: 0, and what else."""
    assert re.search(r"\bExits with 0\b.*\b2: ", COMMANDS[name].help or "", re.DOTALL)


def names(shape: str) -> list[str]:
    """The names of the outermost object of a shape."""
    depth, found = 0, []
    for part in re.findall(r'"\w+"|[{}\[\]]', shape):
        if part[0] == '"':
            found += [part.strip('"')] if depth == 1 else []
        else:
            depth += 1 if part in "{[" else -1
    return found


@pytest.mark.parametrize(
    "command", ["events list", "dead-letters list", "migrate", "reconcile --dry-run"]
)
async def test_json_is_as_documented(sale: Sale, command: str) -> None:
    """One document, one line, with the names that the docs have, in their order."""
    done = await asyncio.to_thread(sale.onsale, *command.split(), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert list(json.loads(done.stdout)) == names(SHAPES[command.partition(" --")[0]])


async def test_redis(sale: Sale) -> None:
    """A reply of any shape, for people and for programs."""
    for args, plain, reply in (
        (["ECHO", "hi"], "hi\n", "hi"),
        (["GET", "nothing"], "(nil)\n", None),
        (["MGET", "nothing"], "(nil)\n", [None]),
        (["EXISTS", "nothing"], "0\n", 0),
    ):
        assert (await asyncio.to_thread(sale.onsale, "redis", *args)).stdout == plain
        done = await asyncio.to_thread(sale.onsale, "redis", "--json", *args)
        assert json.loads(done.stdout) == {"reply": reply}
    refused = await asyncio.to_thread(sale.onsale, "redis", "NOSUCH")
    assert (refused.returncode, refused.stdout) == (2, "")


def test_servers_that_are_away() -> None:
    """One line on standard error, whatever is asked for, and exit code 2."""
    nowhere = world.environment(
        DATABASE_URL="postgresql://127.0.0.1:1/onsale", REDIS_URL="redis://127.0.0.1:1/0"
    )
    for command in (["events", "list"], ["bookings", "find", "--user", "u"], ["migrate"]):
        done = subprocess.run(
            [*ONSALE, *command], env=nowhere, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].startswith("onsale: ")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("onsale ev", "events"),
        ("onsale events set", "set-seats"),
        ("onsale bookings find --us", "--user"),
    ],
)
def test_completion(typed: str, offered: str) -> None:
    """A shell can ask how a line goes on."""
    asking = world.environment(
        _ONSALE_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
    )
    done = subprocess.run(ONSALE, env=asking, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [offered]


async def test_status_and_doctor(sale: Sale) -> None:
    """Of a system that runs: every partition has a worker, and doctor's exit code is 1."""
    event_id = await sale.open_event(3)
    async with sale.caller() as caller:
        assert (await caller.reserve(event_id, "ann")).status == 201
    done = await asyncio.to_thread(sale.onsale, "status", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, list(told)) == (0, names(SHAPES["status"]))
    assert [each["worked"] for each in told["partitions"]] == [True] * sale.partitions
    (event,) = (each for each in told["events"] if each["id"] == event_id)
    assert (event["sold"], event["left"], event["drift"]) == (1, 2, [])
    plain = await asyncio.to_thread(sale.onsale, "status")
    assert plain.stdout.startswith("partition\tepoch\tstate\t")

    done = await asyncio.to_thread(sale.onsale, "doctor", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, list(told)) == (1, names(SHAPES["doctor"]))
    found = [each["check"] for each in told["findings"]]
    assert {"redis_memory_unbounded", "idle_in_transaction"} <= set(found)
    assert "no_worker" not in found
    plain = await asyncio.to_thread(sale.onsale, "doctor")
    assert (plain.returncode, plain.stdout.count("\n")) == (1, 2 * len(found) + 1)
