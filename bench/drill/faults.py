"""Every fault of the drill, by name.

A fault is a coroutine that does its worst while clients go on, mends what only it can mend, and
notes in the round's facts whatever changes what may be found afterwards.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from bench.drill.proxy import HOST, Proxy, Trap
from bench.drill.record import PARTITIONS, Drift
from bench.drill.stack import APIS, WORKERS, children_of, until
from engine import reconcile
from engine.embedded import RedisServer, write_private
from engine.errors import Unavailable
from engine.recovery import connected

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable

    from bench.drill.record import Facts
    from bench.drill.stack import Stack
    from engine.embedded import Child
    from engine.recovery import Stores

Place = Literal["programs", "redis", "postgres", "network", "hands"]

TRAP_S: Final = 6.0
FROZEN_S: Final = 7.0
"""Longer than a session may idle in a transaction."""
LOCKED_S: Final = 2.5
PAUSED_S: Final = 20.0
AWAY_S: Final = 2.5
BRIEFLY_S: Final = 1.0
BEAT_S: Final = 0.25
MOST_CUT: Final = 2000
SWELL: Final = 65_000
WAL_SEGMENT: Final = 16 * 1024 * 1024
ACKNOWLEDGE: Final = b"\r\n$1\r\n2\r\n$14\r\nonsale:{"
"""The one script with two keys that a worker calls."""
LIFE_OF_A_WORD: Final = 300
SMALL: Final = 100
SLOW_RUNS: Final = 3
LATE_REPAIRS: Final = 6
LATE_S: Final = 0.3
COMPARED: Final = 40

# As if it were the engine's own: nobody is told.
FILL_UNHEARD: Final = """
WITH event AS (SELECT id, total_seats - booked AS free FROM events WHERE id = $1 FOR UPDATE)
INSERT INTO bookings (event_id, user_id)
SELECT id, $2 || n
FROM event, generate_series(1, free) n, (SELECT set_config('onsale.engine', 'on', true)) AS unheard
"""
DELETE_UNHEARD: Final = """
DELETE FROM bookings USING (SELECT set_config('onsale.engine', 'on', true)) AS unheard
WHERE event_id = $1 AND user_id = ANY($2)
"""

# Takes the next number, as the selling scripts do, for an entry that they would never write.
POISON: Final = """
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('XADD', KEYS[2], epoch .. '-' .. seq, unpack(ARGV))
return seq
"""

# As the scripts would, but with no number and no entry.
SEAT_HIM: Final = """
if redis.call('HEXISTS', KEYS[1], 'left') == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], '0-1')
return redis.call('HINCRBY', KEYS[1], 'left', -1)
"""


class Missed(Exception):
    """A fault found nobody to strike."""


class Scene(NamedTuple):
    """Where a fault strikes: the system, the events of the round, and the facts to be noted."""

    stack: Stack
    facts: Facts
    dice: random.Random

    def event(self) -> int:
        """One of the round's events."""
        return self.dice.choice(list(self.facts.events))

    def small_event(self) -> int:
        """One that is soon sold out, and whose users come and go."""
        events = self.facts.events
        return self.dice.choice([each for each in events if 1 < events[each].most <= SMALL])


class Fault(NamedTuple):
    """A fault by name. A round has at most one at each place, ``hands`` and ``network`` apart.

    ``lossy``: Redis may lose what it has told nobody else. ``blinds``: for a while Redis cannot be
    asked, or knows less than it did. ``splits``: for a while two of them answer.
    """

    name: str
    strike: Callable[[Scene], Awaitable[None]]
    place: Place
    lossy: bool
    blinds: bool
    splits: bool


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, place: Place, *, lossy: bool = False, blinds: bool = False, splits: bool = False
) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[Scene], Awaitable[None]]]:
    """Enter a fault into the table."""

    def enter(strike: Callable[[Scene], Awaitable[None]]) -> Callable[[Scene], Awaitable[None]]:
        FAULTS[name] = Fault(name, strike, place, lossy, blinds or lossy, splits)
        return strike

    return enter


# Programs


@fault("api-kill", "programs")
async def kill_an_api(scene: Scene) -> None:
    """An API process dies in the middle of its calls."""
    scene.stack.kill(scene.dice.choice(APIS))


async def kill_a_worker(
    scene: Scene, to: dict[str, Proxy], *wanted: bytes, at_answer: bool = False
) -> None:
    """Kill the first worker that sends one of these bytes, or gets the answer to them."""
    ways = {name: to[name] for name in WORKERS}
    await caught(ways, wanted, scene.stack.kill, at_answer=at_answer)


async def caught(
    ways: dict[str, Proxy],
    wanted: tuple[bytes, ...],
    then: Callable[[str], None],
    *,
    at_answer: bool = False,
    mute: bool = False,
) -> str:
    """Set a trap on these programs' ways and wait until one is in it; answers which.

    Raises:
        Missed: none was, in ``TRAP_S``.
    """
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def trap_for(name: str) -> Trap:
        def sprung() -> None:
            if not found.done():
                found.set_result(name)
                then(name)

        return Trap(wanted, sprung, at_answer=at_answer, mute=mute)

    for name, way in ways.items():
        way.trap = trap_for(name)
    await asyncio.wait([found], timeout=TRAP_S)
    for way in ways.values():
        way.trap = None
    if not found.done():
        raise Missed(f"nobody sent {wanted!r}")
    return found.result()


def committing(scene: Scene) -> bytes:
    """What a worker sends to commit: COMMIT, or one statement with the users of a plain batch."""
    return scene.dice.choice([b"COMMIT", b"%d-user-" % scene.facts.seed])


def nothing(_: str) -> None:
    """To lose the answer is enough."""


@fault("worker-kill-before-commit", "programs")
async def kill_before_commit(scene: Scene) -> None:
    """The batch is written, and COMMIT was not sent; or the one statement that does both."""
    await kill_a_worker(scene, scene.stack.to_postgres, committing(scene))


@fault("worker-kill-after-commit", "programs")
async def kill_after_commit(scene: Scene) -> None:
    """The batch is committed; nobody was told."""
    await kill_a_worker(scene, scene.stack.to_postgres, committing(scene), at_answer=True)


@fault("worker-kill-before-repair", "programs")
async def kill_before_repair(scene: Scene) -> None:
    """The ledger has refused an item; Redis was not told."""
    await poison(scene, "over-long user")
    await kill_a_worker(scene, scene.stack.to_redis, b":lease\r\n")


@fault("worker-kill-before-publish", "programs")
async def kill_before_publish(scene: Scene) -> None:
    """Those who wait for the batch are not told."""
    await kill_a_worker(scene, scene.stack.to_redis, b"PUBLISH")


@fault("worker-kill-before-trim", "programs")
async def kill_before_trim(scene: Scene) -> None:
    """The outbox keeps what the ledger has."""
    await kill_a_worker(scene, scene.stack.to_redis, ACKNOWLEDGE)


@fault("worker-kill-in-bisection", "programs")
async def kill_in_bisection(scene: Scene) -> None:
    """A batch was refused and is being halved."""
    await poison(scene, "NUL")
    await kill_a_worker(scene, scene.stack.to_postgres, b"ROLLBACK", at_answer=True)


@fault("worker-freeze", "programs")
async def freeze_a_worker(scene: Scene) -> None:
    """A worker stops in its transaction, with its locks, for longer than it may idle there."""

    def freeze(name: str) -> None:
        os.kill(scene.stack.programs[name].pid, signal.SIGSTOP)

    ways = {name: scene.stack.to_postgres[name] for name in WORKERS}
    name = await caught(ways, (b"COMMIT",), freeze, mute=True)
    await asyncio.sleep(FROZEN_S)
    with suppress(ProcessLookupError):  # something else may have killed it
        os.kill(scene.stack.programs[name].pid, signal.SIGCONT)


@fault("clock", "redis", lossy=True)
async def set_clocks_off(scene: Scene) -> None:
    """A worker's clock is an hour ahead, an API's an hour behind, Redis's either; all start so."""
    stack, library = scene.stack, faketime()
    ahead, behind = skewed(library, "+1h"), skewed(library, "-1h")
    stack.programs[WORKERS[0]].environment |= ahead
    stack.programs[APIS[0]].environment |= behind
    stack.kill(WORKERS[0])
    stack.kill(APIS[0])
    await restart(stack, stack.redis, scene.dice.choice([ahead, behind]))
    await asyncio.sleep(AWAY_S)
    for name in (WORKERS[0], APIS[0]):
        for variable in ahead:
            del stack.programs[name].environment[variable]
        stack.kill(name)
    await restart(stack, stack.redis, {})


def faketime() -> Path:
    """The library that sets clocks off.

    Raises:
        FileNotFoundError: it is not installed.
    """
    spec = find_spec("libfaketime")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in Path(folder).glob("vendor/libfaketime/src/libfaketime.so.1"):
            return library
    raise FileNotFoundError("libfaketime is not installed: pip install libfaketime")


def skewed(library: Path, by: str) -> dict[str, str]:
    """The environment of a program whose clock is off."""
    return {"LD_PRELOAD": str(library), "FAKETIME": by, "DONT_FAKE_MONOTONIC": "1"}


async def restart(stack: Stack, child: Child, environment: dict[str, str]) -> None:
    """Kill a server and start it with more in its environment."""

    def launch() -> None:
        os.environ.update(environment)
        try:
            child.launch()
        finally:
            for name in environment:
                del os.environ[name]

    async with stack.down(child):
        await stack.in_launcher(launch)


# Redis


@fault("redis-kill", "redis", lossy=True)
async def kill_redis(scene: Scene) -> None:
    """Redis dies; its file has what was written."""
    async with scene.stack.down(scene.stack.redis):
        pass


@fault("redis-pause", "redis", blinds=True)
async def pause_redis(scene: Scene) -> None:
    """Redis says nothing for longer than anybody waits, and goes on as if nothing had been."""
    os.kill(scene.stack.redis.pid, signal.SIGSTOP)
    await asyncio.sleep(AWAY_S)
    with suppress(ProcessLookupError):
        os.kill(scene.stack.redis.pid, signal.SIGCONT)


@fault("redis-aof-cut", "redis", lossy=True)
async def cut_the_file(scene: Scene) -> None:
    """The end of the append-only file is missing, twice running."""
    stack = scene.stack
    for _ in range(2):
        async with stack.down(stack.redis):
            newest = max(
                (stack.redis.data_dir / "appendonlydir").glob("*.incr.aof"),
                key=lambda path: int(path.name.split(".")[-3]),
            )
            size = max(0, newest.stat().st_size - scene.dice.randint(1, MOST_CUT))
            os.truncate(newest, size)
        await asyncio.sleep(BRIEFLY_S)


@fault("redis-aof-old", "redis", lossy=True)
async def restore_an_old_file(scene: Scene) -> None:
    """Redis comes back as it was a moment ago."""
    stack = scene.stack
    folder = stack.redis.data_dir / "appendonlydir"
    old = folder.with_name("old")

    async def rewrites_nothing() -> bool:
        async with stack.redis_client() as redis:
            info = await redis.info("persistence")
        return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]

    await until(rewrites_nothing, "Redis rewrites its file no more")
    shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(folder, old)
    await asyncio.sleep(scene.dice.uniform(BEAT_S, BRIEFLY_S))
    async with stack.down(stack.redis):
        shutil.rmtree(folder)
        old.rename(folder)


@fault("redis-flush", "hands", lossy=True)
async def flush_redis(scene: Scene) -> None:
    """Everything in Redis is gone."""
    await scene.stack.in_redis("FLUSHALL")


@fault("redis-del", "hands", lossy=True)
async def delete_a_key(scene: Scene) -> None:
    """Somebody deletes keys, one of each kind, in an order by chance."""
    kinds = ["log", "outbox", "event:{}", "event:{}:users", "event:{}:lease", "event:{}:staging"]
    scene.dice.shuffle(kinds)
    for kind in kinds[:3]:
        event = scene.event()
        scene.facts.edited.add(event)
        key = f"onsale:{{{event % PARTITIONS}}}:" + kind.format(event)
        await scene.stack.in_redis("DEL", key)
        await asyncio.sleep(BEAT_S)


@fault("redis-xtrim", "hands", lossy=True)
async def trim_the_outbox(scene: Scene) -> None:
    """Somebody trims an outbox of what the ledger has not taken."""
    for _ in range(3):
        p = scene.event() % PARTITIONS
        scene.facts.edited.update(each for each in scene.facts.events if each % PARTITIONS == p)
        await scene.stack.in_redis("XTRIM", f"onsale:{{{p}}}:outbox", "MAXLEN", "0")
        await asyncio.sleep(BEAT_S)


@fault("redis-script-flush", "hands", blinds=True)
async def flush_scripts(scene: Scene) -> None:
    """Redis forgets the scripts."""
    for _ in range(2):
        await scene.stack.in_redis("SCRIPT", "FLUSH")
        await asyncio.sleep(BEAT_S)


@fault("redis-maxmemory", "hands")
async def use_memory_up(scene: Scene) -> None:
    """Redis has no room for another booking."""
    await scene.stack.in_redis("CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(BRIEFLY_S)
    await scene.stack.in_redis("CONFIG", "SET", "maxmemory", "0")


@fault("redis-promote", "redis", lossy=True, splits=True)
async def promote_a_lagging_replica(scene: Scene) -> None:
    """A replica that lags is promoted; the old master answers some for a while; then all back."""
    stack = scene.stack
    first, second = stack.redis, RedisServer(stack.folder / "redis-2")
    second.data_dir.mkdir(exist_ok=True)
    write_private(second.data_dir / "password", (first.data_dir / "password").read_text())
    slow = {server: Proxy((HOST, server.port)) for server in (first, second)}
    await slow[first].open()
    await stack.in_launcher(second.start)
    try:
        slow[second].upstream = (HOST, second.port)
        await slow[second].open()
        for old, new in ((first, second), (second, first)):
            await follow(old, new, slow[old])
            slow[old].delay_s = scene.dice.uniform(0.1, 0.5)
            await asyncio.sleep(BRIEFLY_S)
            await command(new, "REPLICAOF", "NO", "ONE")
            stack.redis = new
            names = scene.dice.sample(list(stack.to_redis), len(stack.to_redis))
            for name in names[:2]:
                stack.to_redis[name].lead_to((HOST, new.port))
            await asyncio.sleep(scene.dice.uniform(0, BRIEFLY_S))
            for name in names[2:]:
                stack.to_redis[name].lead_to((HOST, new.port))
            await asyncio.sleep(BRIEFLY_S)
    finally:
        stack.redis = first
        for proxy in stack.to_redis.values():
            if proxy.upstream != (HOST, first.port):
                proxy.lead_to((HOST, first.port))
        for proxy in slow.values():
            proxy.close()
        await stack.in_launcher(second.kill)
        shutil.rmtree(second.data_dir)


async def follow(master: RedisServer, replica: RedisServer, way: Proxy) -> None:
    """Make one Redis the replica of another, and return when it has everything."""
    password = (master.data_dir / "password").read_text()
    way.delay_s = 0.0
    await command(replica, "CONFIG", "SET", "masterauth", password)
    await command(replica, "REPLICAOF", HOST, str(way.port))

    async def is_in_step() -> bool:
        return b"master_link_status:up" in await command(replica, "INFO", "replication")

    await until(is_in_step, "the replica is in step")


async def command(server: RedisServer, *words: str) -> bytes:
    """Send one command to a certain Redis; the reply, if it is one string."""
    async with Redis.from_url(server.url) as redis:
        redis.response_callbacks.clear()
        reply: bytes = await redis.execute_command(*words)
    return reply


# Postgres


@fault("pg-pause", "postgres")
async def pause_postgres(scene: Scene) -> None:
    """Postgres stands still, with all its sessions."""
    frozen = [scene.stack.postgres.pid]
    os.kill(frozen[0], signal.SIGSTOP)
    frozen += children_of(frozen[0])
    for pid in frozen[1:]:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(PAUSED_S)
    for pid in frozen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@fault("pg-immediate", "postgres")
async def stop_postgres_at_once(scene: Scene) -> None:
    """An immediate stop: no checkpoint, no farewell; it recovers from its log."""
    stack = scene.stack
    async with stack.down(stack.postgres, signal.SIGQUIT):
        pass


@fault("pg-terminate", "postgres")
async def terminate_sessions(scene: Scene) -> None:
    """An administrator ends all sessions, twice."""
    for _ in range(2):
        await scene.stack.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'onsale'"
        )
        await asyncio.sleep(BEAT_S)


@fault("pg-lock", "postgres")
async def lock_an_event(scene: Scene) -> None:
    """A person locks an event's row, and thinks."""
    connection = await asyncpg.connect(scene.stack.postgres.url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM events WHERE id = $1 FOR UPDATE", scene.event())
            await asyncio.sleep(LOCKED_S)
    finally:
        connection.terminate()


@fault("pg-connections", "postgres")
async def use_connections_up(scene: Scene) -> None:
    """Others have all connections of Postgres, and ours are ended."""
    mine: list[asyncpg.Connection] = []
    try:
        while await another(scene.stack, mine):
            pass
        await mine[0].execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'onsale'"
        )
        while await another(scene.stack, mine):
            pass
        await asyncio.sleep(BRIEFLY_S)
    finally:
        for connection in mine:
            connection.terminate()


async def another(stack: Stack, mine: list[asyncpg.Connection]) -> bool:
    """Take one connection more; False if there is none left."""
    try:
        mine.append(await asyncpg.connect(stack.postgres.url, timeout=2))
    except (asyncpg.PostgresError, OSError, TimeoutError):
        return False
    return True


@fault("pg-disk-full", "postgres")
async def fill_the_disk(scene: Scene) -> None:
    """The file of ``bookings`` cannot grow: every session of ours has a limit of file size."""
    rows = "SELECT pg_relation_size('bookings') AS size"
    if (await scene.stack.sql(rows))[0]["size"] < 1.05 * WAL_SEGMENT:
        await swell(scene.stack)
    size = (await scene.stack.sql(rows))[0]["size"]
    pids = await scene.stack.sql(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'onsale'"
    )
    limited = [pid for (pid,) in pids if limit_files(pid, size)]
    await asyncio.sleep(BRIEFLY_S * 2)
    for pid in limited:
        limit_files(pid, resource.RLIM_INFINITY)


def limit_files(pid: int, size: int) -> bool:
    """Limit how large the files are that a process can write; False if it is gone."""
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    except ProcessLookupError:
        return False
    return True


async def swell(stack: Stack) -> None:
    """Make the file of ``bookings`` larger than one of the log, so that the log is not limited."""
    connection = await asyncpg.connect(stack.postgres.url)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL onsale.engine = 'on'")  # it is nobody's news
            event = await connection.fetchval(
                "INSERT INTO events (name, total_seats) VALUES ('swell', $1) RETURNING id", SWELL
            )
            await connection.execute(
                "INSERT INTO bookings (event_id, user_id) "
                "SELECT $1, rpad(n::text, 255, 'x') FROM generate_series(1, $2) n", event, SWELL,
            )  # fmt: skip
            await connection.execute("DELETE FROM bookings WHERE event_id = $1", event)
    finally:
        connection.terminate()


# The network


@fault("answer-of-script-lost", "network", blinds=True)
async def swallow_a_script(scene: Scene) -> None:
    """Redis has decided, and the answer never comes."""
    ways = {name: scene.stack.to_redis[name] for name in APIS}
    for mute in (False, True):
        await caught(ways, (b"EVALSHA",), nothing, at_answer=True, mute=mute)
    await asyncio.sleep(AWAY_S)  # so long who asked waits for an answer


@fault("answer-of-commit-lost", "network")
async def swallow_a_commit(scene: Scene) -> None:
    """Postgres has committed, and the worker does not know."""
    ways = {name: scene.stack.to_postgres[name] for name in WORKERS}
    for _ in range(2):
        await caught(ways, (committing(scene),), nothing, at_answer=True)


@fault("net-delay", "network", blinds=True)
async def delay(scene: Scene) -> None:
    """Some ways are slow."""
    for proxy in scene.dice.sample(scene.stack.proxies(), 4):
        proxy.delay_s = scene.dice.uniform(0.02, 0.4)
    await asyncio.sleep(BRIEFLY_S * 2)
    for proxy in scene.stack.proxies():
        proxy.delay_s = 0.0


@fault("net-cut", "network", blinds=True)
async def cut(scene: Scene) -> None:
    """Some programs cannot connect to a server."""
    chosen = scene.dice.sample(scene.stack.proxies(), 3)
    for proxy in chosen:
        proxy.refusing = True
        proxy.cut()
    await asyncio.sleep(BRIEFLY_S)
    for proxy in chosen:
        proxy.refusing = False


@fault("net-drop", "network", blinds=True)
async def drop(scene: Scene) -> None:
    """What some programs say, and are told, is lost without a word."""
    chosen = scene.dice.sample(scene.stack.proxies(), 2)
    for proxy in chosen:
        proxy.dropping = True
    await asyncio.sleep(AWAY_S)
    for proxy in chosen:
        proxy.heal()


# Hands


@fault("hands-sql", "hands")
async def edit_the_ledger(scene: Scene) -> None:
    """A person inserts and deletes rows, and changes the number of seats, during the sale."""
    scene.facts.hands_in_ledger = True
    for number in range(6):
        with suppress(asyncpg.IntegrityConstraintViolationError):  # the ledger minds itself
            await scene.dice.choice([insert_a_row, delete_a_row, raise_seats, lower_seats])(
                scene, number
            )
        await asyncio.sleep(BEAT_S)


@fault("hands-redis", "hands")
async def edit_redis(scene: Scene) -> None:
    """A person gives seats to strangers in Redis, and has each mended while the sale goes on."""
    for number in range(8):
        event, user = scene.event(), f"stranger-{scene.facts.seed}-{number}"
        key = f"onsale:{{{event % PARTITIONS}}}:event:{event}"
        scene.facts.touched.add((event, user))
        await scene.stack.in_redis("EVAL", SEAT_HIM, 2, key, f"{key}:users", user)
        with suppress(Unavailable):  # another fault is in the way
            report = await reconcile.run(scene.stack.settings(), [event], dry_run=False)
            scene.facts.drift += [Drift(*each) for each in report.drift]


@fault("hands-unheard", "hands")
async def sell_seats_unheard(scene: Scene) -> None:
    """A person sells all that is left of an event in the ledger, and Redis never hears of it."""
    scene.facts.hands_in_ledger = True
    event = scene.small_event()
    user = f"unheard-{scene.facts.seed}-"
    scene.facts.touched |= {
        (event, f"{user}{n}") for n in range(1, scene.facts.events[event].most + 1)
    }
    await scene.stack.sql(FILL_UNHEARD, event, user)


@fault("reconcile-slow", "hands")
async def reconcile_over_a_slow_line(scene: Scene) -> None:
    """A person deletes rows unheard, and compares their users, and others, over a slow line.

    Each answer that he goes by is old when he acts on it: what he compares comes and goes.
    """
    async with line(scene) as (stores, to_redis):
        to_redis.delay_s = scene.dice.uniform(0.05, 0.15)
        for _ in range(SLOW_RUNS):
            await delete_and_compare(scene, stores, scene.event())


@fault("repair-late", "hands")
async def repair_late(scene: Scene) -> None:
    """A person deletes rows unheard, looks at once, and his repair takes long to arrive.

    Meanwhile arrive cancels that one API process had sent before by a slow way; and their users
    book anew at the other.
    """
    event = scene.small_event()
    others = scene.stack.to_redis[scene.dice.choice(APIS)]
    async with line(scene) as (stores, to_redis):
        others.delay_s = LATE_S
        for _ in range(LATE_REPAIRS):
            await asyncio.sleep(2 * LATE_S)
            to_redis.delay_s = 0.0
            to_redis.trap = Trap(
                (b"HMGET",), lambda: setattr(to_redis, "delay_s", LATE_S), harmless=True
            )
            await delete_and_compare(scene, stores, event)
        others.delay_s = 0.0


async def delete_and_compare(scene: Scene, stores: Stores, event: int) -> None:
    """Delete some of the latest rows of an event, unheard; have their users and others mended."""
    facts = scene.facts
    rows = await scene.stack.sql(
        "SELECT user_id FROM bookings WHERE event_id = $1 ORDER BY id DESC LIMIT $2",
        event, COMPARED,
    )  # fmt: skip
    users = [user for (user,) in rows if (event, user) not in facts.touched]
    deleted = {(event, user) for user in scene.dice.sample(users, len(users) // 2)}
    facts.touched |= deleted
    await scene.stack.sql(DELETE_UNHEARD, event, [user for _, user in deleted])
    with suppress(Unavailable):  # another fault is in the way
        checked = await reconcile.reconcile_event(stores, event, users=users)
        found = [Drift(*each) for each in checked.drift]
        # Not in `deleted`, but in all that was: another such person may be at the same event.
        facts.drift += [each for each in found if (event, each.user_id) not in facts.touched]
        facts.mended |= deleted


@asynccontextmanager
async def line(scene: Scene) -> AsyncIterator[tuple[Stores, Proxy]]:
    """Both stores as somebody has them by a way of his own; and his way to Redis."""
    settings = scene.stack.settings()
    redis = urlsplit(settings.redis_dsn)
    way = Proxy((HOST, redis.port or 0))
    await way.open()
    through = redis._replace(netloc=f":{redis.password}@{HOST}:{way.port}").geturl()
    settings = settings.model_copy(update={"redis_url": through})
    try:
        async with connected(settings, connections=2) as stores:
            yield stores, way
    finally:
        way.close()


async def insert_a_row(scene: Scene, number: int) -> None:
    """Book a seat for somebody."""
    event, user = scene.event(), f"hand-{scene.facts.seed}-{number}"
    scene.facts.touched.add((event, user))
    await scene.stack.sql("INSERT INTO bookings (event_id, user_id) VALUES ($1, $2)", event, user)


async def delete_a_row(scene: Scene, _: int) -> None:
    """Take somebody's seat away."""
    event = scene.event()
    rows = await scene.stack.sql(
        "SELECT user_id FROM bookings WHERE event_id = $1 ORDER BY id LIMIT 1", event
    )
    for (user,) in rows:
        scene.facts.touched.add((event, user))
        await scene.stack.sql(
            "DELETE FROM bookings WHERE event_id = $1 AND user_id = $2", event, user
        )


async def raise_seats(scene: Scene, _: int) -> None:
    """Put chairs in."""
    event = scene.event()
    seats = scene.facts.events[event]
    scene.facts.events[event] = type(seats)(seats.fewest, seats.most + 2)
    await scene.stack.sql("UPDATE events SET total_seats = total_seats + 2 WHERE id = $1", event)


async def lower_seats(scene: Scene, _: int) -> None:
    """Take a chair out."""
    event = scene.event()
    seats = scene.facts.events[event]
    scene.facts.events[event] = type(seats)(seats.fewest - 1, seats.most)
    await scene.stack.sql("UPDATE events SET total_seats = total_seats - 1 WHERE id = $1", event)


@fault("poison", "hands")
async def write_poison(scene: Scene) -> None:
    """Somebody writes into an outbox what no script would."""
    for kind in scene.dice.sample(["NUL", "unknown event", "over-long user", "missing fields"], 2):
        await poison(scene, kind)
        await asyncio.sleep(BEAT_S)


async def poison(scene: Scene, kind: str) -> None:
    """One entry of nonsense, with a number of its own."""
    event, user = str(scene.event()), '"poison"'
    if kind == "NUL":
        user = '"nul\\u0000"'
    elif kind == "unknown event":
        event = str(2**31 - 1)
    elif kind == "over-long user":
        user = '"' + "x" * LIFE_OF_A_WORD + '"'
    p = int(event) % PARTITIONS
    fields = ["kind", "reserve", "event", event, "at", "1763816400123", "users", f"[{user}]"]
    if kind == "missing fields":
        fields = ["kind", "reserve"]
    scene.facts.poisoned += 1
    log, outbox = f"onsale:{{{p}}}:log", f"onsale:{{{p}}}:outbox"
    await scene.stack.in_redis("EVAL", POISON, "2", log, outbox, *fields)
