"""The fence: which scripts exist at all, and whose they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from engine.embedded import RedisServer, write_private
from engine.model import Event, Number
from engine.scripts import FENCED, Change, Scripts, source
from tests.lua.desk import EVENT, Desk
from tests.world import until

if TYPE_CHECKING:
    from engine.scripts import Command


def commands(scripts: Scripts) -> dict[str, Command]:
    """A call of every fenced script that would do something."""
    return {
        "reserve": scripts.reserve(EVENT, ["ann"], [""], bound=10),
        "cancel": scripts.cancel(EVENT, "zoe", Number(3, 1), bound=10),
        "look": scripts.look(EVENT),
        "find": scripts.find(Number(3, 1)),
        "lease": scripts.lease(EVENT + 1, "token", lease_ms=60_000),
        "stage": scripts.stage(EVENT, "token", [("ann", "3-1")], lease_ms=60_000),
        "install": scripts.install(Event(EVENT, "x", 1), "token", staged=0),
        "close": scripts.close(EVENT),
        "repair": scripts.repair(EVENT, [Change("zoe", "3-1", None)]),
        "acknowledge": scripts.acknowledge(1, tail=0),
    }


SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[2] / "lua").glob("*.lua"))


async def test_master_that_comes_back_with_an_older_state_sells_nothing(tmp_path: Path) -> None:
    """It was demoted, took what a lagging replica had, and was promoted: scripts, epoch and all."""
    with RedisServer(tmp_path / "first") as first:
        (tmp_path / "second").mkdir(mode=0o700)
        write_private(tmp_path / "second/password", (first.data_dir / "password").read_text())
        with RedisServer(tmp_path / "second") as second:
            async with Redis.from_url(first.url) as ours, Redis.from_url(second.url) as other:
                await follow(other, first)  # the first replica gives its master a new name
                desk = await Desk(ours, 1).open()
                await desk.put_on_sale(5)
                assert await desk.reserve("ann") == [1]
                await ours.wait(1, 5000)
                await other.execute_command("REPLICAOF", "NO", "ONE")
                assert await desk.reserve("bob") == [2]
                await follow(ours, second)
                await ours.execute_command("REPLICAOF", "NO", "ONE")
                assert set(await desk.held()) == {"ann"}
                assert await desk.refused(desk.ask("cem")) == "fenced"
                cancel = desk.scripts.cancel(EVENT, "ann", Number(3, 1), bound=10)
                assert await desk.refused(cancel) == "fenced"


async def follow(replica: Redis, master: RedisServer) -> None:
    """Make one Redis the replica of another, and return when it has everything."""
    password = (master.data_dir / "password").read_text()
    await replica.config_set("masterauth", password)
    await replica.execute_command("REPLICAOF", "127.0.0.1", master.port)

    async def is_in_step() -> bool:
        return (await replica.info("replication"))["master_link_status"] == "up"

    await until(is_in_step)


@pytest.fixture
async def sale(desk: Desk) -> Desk:
    """A desk at which each of these calls would be answered."""
    await desk.put_on_sale(5, sold={"zoe": "3-1"})
    await desk.redis.set(desk.lease, "token")
    return desk


def test_every_script_is_called_here() -> None:
    """So that a new one is not forgotten."""
    assert set(commands(Scripts(1, 1))) == set(FENCED)


def test_scripts_are_of_one_partition_and_epoch() -> None:
    """Another partition at the same epoch has other hashes, and so has another epoch."""
    hashes = [
        {command[1] for command in commands(scripts).values()}
        for scripts in (Scripts(1, 2), Scripts(2, 2), Scripts(1, 3), Scripts(11, 2))
    ]
    assert len(set.union(*hashes)) == 4 * len(FENCED)


async def test_loading_a_partitions_scripts_loads_no_others(desk: Desk) -> None:
    """Partition 1 recovered at epoch 2 leaves partition 2 at epoch 2 fenced."""
    mine, theirs = Scripts(desk.partition, 2), Scripts(desk.partition + 5000, 2)
    await mine.load(desk.redis)
    shas = [str(command[1]) for command in commands(theirs).values()]
    assert not any(await desk.redis.script_exists(*shas))


@pytest.mark.parametrize("name", FENCED)
async def test_script_that_nobody_loaded(sale: Desk, name: str) -> None:
    """A Redis that restarted does not have it, and changes nothing."""
    command = commands(Scripts(sale.partition, 2))[name]
    before = await sale.snapshot()
    with pytest.raises(NoScriptError):
        await sale.answer(command)
    assert await sale.snapshot() == before


@pytest.mark.parametrize("name", FENCED)
async def test_script_of_another_epoch(sale: Desk, name: str) -> None:
    """A script that Redis still has, of an epoch that is over, is fenced by the log."""
    await sale.redis.hset(sale.log, "epoch", 4)
    assert await sale.refused(commands(sale.scripts)[name]) == "fenced"


@pytest.mark.parametrize("name", FENCED)
async def test_text_without_its_fence_cannot_run(sale: Desk, name: str) -> None:
    """Whoever sends the file as it lies gets an error, and changes nothing."""
    command = commands(sale.scripts)[name]
    before = await sale.snapshot()
    with pytest.raises(ResponseError, match="EPOCH"):
        await sale.answer(("EVAL", source(name), *command[2:]))
    assert await sale.snapshot() == before


@pytest.mark.parametrize("name", FENCED)
@pytest.mark.parametrize("difference", [-1, 1])
async def test_wrong_count_of_keys(sale: Desk, name: str, difference: int) -> None:
    """A call with a key too few or too many is an error, and changes nothing."""
    _, sha, count, *rest = commands(sale.scripts)[name]
    keys_ = [*rest[: int(count)], sale.log][: int(count) + difference]
    before = await sale.snapshot()
    with pytest.raises(ResponseError, match="assertion failed"):
        await sale.answer(("EVALSHA", sha, len(keys_), *keys_, *rest[int(count) :]))
    assert await sale.snapshot() == before


@pytest.mark.parametrize("name", SCRIPTS)
async def test_no_arguments(sale: Desk, name: str) -> None:
    """A call without its arguments is an error, and changes nothing."""
    text = sale.scripts.texts.get(name, source(name))
    before = await sale.snapshot()
    with pytest.raises(ResponseError, match="assertion failed"):
        await sale.answer(("EVAL", text, 0))
    assert await sale.snapshot() == before
