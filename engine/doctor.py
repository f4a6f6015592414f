"""What is wrong, or may go wrong: one small check a risk, each a function of what was read.

A check answers None, or a finding: one sentence that says what may happen, and one that says what
to do. Its name is the function's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from engine.ledger import SESSIONS
from engine.recovery import REDIS_7

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.readings import Readings

POSTGRES_15: Final = 150_000
WORKERS: Final = 2
"""As many as should run, so that one may die (docs/operating.md)."""
NEAR: Final = 0.8
LONG_FORK_US: Final = 200_000
LONG_REWRITE_S: Final = 600
CLOCK_S: Final = 1.0
LEAST_FREE: Final = 0.1
LONG_LAG_S: Final = 10.0
MANY_RECOVERIES: Final = 3
SESSIONS_BY_HAND: Final = 2


class Finding(NamedTuple):
    """A risk and what to do about it."""

    check: str
    risk: str
    advice: str


class Said(NamedTuple):
    """A finding before it has its check's name."""

    risk: str
    advice: str


def findings(readings: Readings) -> list[Finding]:
    """What every check finds, in their order."""
    said = ((check.__name__, check(readings)) for check in CHECKS)
    return [Finding(name, *found) for name, found in said if found]


# Redis


def redis_version(readings: Readings) -> Said | None:
    """The scripts need 7.0."""
    version = str(readings.redis["redis_version"])
    if tuple(map(int, version.split(".")[:2])) >= REDIS_7:
        return None
    return Said(f"Redis is {version}, and onsale does not start on it.", "Run 7.0 or newer.")


def redis_evicts(readings: Readings) -> Said | None:
    """Nothing may be forgotten."""
    policy = readings.redis["maxmemory_policy"]
    if policy == "noeviction":
        return None
    return Said(
        f"maxmemory-policy is {policy}: Redis may forget who has a seat.",
        "CONFIG SET maxmemory-policy noeviction, and the same in its file.",
    )


def redis_settings_hidden(readings: Readings) -> Said | None:
    """Some checks need CONFIG."""
    if readings.redis_config:
        return None
    return Said(
        "Redis does not tell its settings (CONFIG GET), so that they could not be checked.",
        "Allow the command to this user, or look at the settings where Redis is run.",
    )


def redis_keeps_no_file(readings: Readings) -> Said | None:
    """Pending bookings live in it."""
    if readings.redis["aof_enabled"]:
        return None
    return Said(
        "Redis keeps no append-only file: a restart loses every pending booking.",
        "CONFIG SET appendonly yes, and the same in its file.",
    )


def redis_seldom_syncs(readings: Readings) -> Said | None:
    """Everysec or always."""
    if readings.redis_config.get("appendfsync") != "no":
        return None
    return Said(
        "appendfsync is no: a machine that dies may take half a minute of pending bookings along.",
        "CONFIG SET appendfsync everysec, or always, and the same in its file.",
    )


def redis_cannot_write_its_file(readings: Readings) -> Said | None:
    """A full disk, mostly."""
    redis = readings.redis
    if redis.get("aof_last_write_status", "ok") == "ok":
        return None
    return Said(
        "Redis could not write its append-only file, and refuses to sell.",
        "Look at its log and its disk.",
    )


def redis_cannot_rewrite_its_file(readings: Readings) -> Said | None:
    """Recovery waits for one; and the file grows without."""
    redis = readings.redis
    if redis.get("aof_last_bgrewrite_status", "ok") == "ok":
        return None
    return Said(
        "The last rewrite of the append-only file failed: it grows, and a recovery waits for one.",
        "Look at Redis's log, its disk and its memory.",
    )


def redis_rewrites_for_long(readings: Readings) -> Said | None:
    """A rewrite that hangs."""
    seconds = readings.redis.get("aof_current_rewrite_time_sec", -1)
    if seconds <= LONG_REWRITE_S:
        return None
    return Said(
        f"Redis has been rewriting its append-only file for {seconds} s: a recovery waits for it.",
        "Look at its disk.",
    )


def redis_cannot_save(readings: Readings) -> Said | None:
    """With stop-writes-on-bgsave-error a failed snapshot stops the sale."""
    failed = readings.redis.get("rdb_last_bgsave_status", "ok") != "ok"
    if not failed or readings.redis_config.get("stop-writes-on-bgsave-error", "yes") != "yes":
        return None
    return Said(
        "The last snapshot of Redis failed, and with stop-writes-on-bgsave-error it sells nothing.",
        "Mend what its log says; or CONFIG SET save '', the append-only file is what counts.",
    )


def redis_memory_unbounded(readings: Readings) -> Said | None:
    """The machine's bound is the kernel's."""
    if readings.redis.get("maxmemory", 0):
        return None
    return Said(
        "maxmemory is not set: a Redis that grows is killed by the machine, not refused memory.",
        "CONFIG SET maxmemory to what the machine can spare, about half, for rewrites copy pages.",
    )


def redis_memory_near_its_bound(readings: Readings) -> Said | None:
    """At the bound every reserve is a 503."""
    used, bound = readings.redis["used_memory"], readings.redis.get("maxmemory", 0)
    if not bound or used < NEAR * bound:
        return None
    return Said(
        f"Redis uses {used / bound:.0%} of maxmemory; at the bound every reserve is refused.",
        "Raise maxmemory, or find out what fills it.",
    )


def redis_misses_its_replicas(readings: Readings) -> Said | None:
    """The bound of min-replicas-to-write."""
    wanted = int(readings.redis_config.get("min-replicas-to-write", 0))
    there = readings.redis.get("min_slaves_good_slaves", readings.redis["connected_slaves"])
    if there >= wanted:
        return None
    return Said(
        f"min-replicas-to-write is {wanted} and {there} replicas are there: nothing is sold.",
        "Bring the replicas back, or CONFIG SET min-replicas-to-write 0.",
    )


def redis_is_a_replica(readings: Readings) -> Said | None:
    """It takes no writes."""
    role = readings.redis["role"]
    if role == "master":
        return None
    return Said(
        f"This Redis is a {role}: it takes no bookings.",
        "Set REDIS_URL to the master, or promote it.",
    )


def redis_forks_slowly(readings: Readings) -> Said | None:
    """A fork stops everybody."""
    micros = readings.redis.get("latest_fork_usec", 0)
    if micros <= LONG_FORK_US:
        return None
    return Said(
        f"The last fork stopped Redis, and every sale, for {micros / 1000:.0f} ms.",
        "Turn huge pages off, give it less memory to copy, or another machine.",
    )


def redis_is_swapped(readings: Readings) -> Said | None:
    """Seen where Redis runs on this machine."""
    swapped = readings.machine.redis_swapped_kb
    if not swapped:
        return None
    return Said(
        f"{swapped} kB of Redis are in swap: a sale that needs them waits for the disk.",
        "Give the machine more memory, or turn swap off for Redis.",
    )


def huge_pages(readings: Readings) -> Said | None:
    """Seen where Redis runs on this machine."""
    if readings.machine.huge_pages != "always":
        return None
    if readings.redis_config.get("disable-thp") == "yes":
        return None
    return Said(
        "Transparent huge pages are on for Redis: while it rewrites its file, sales stall.",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, at each boot.",
    )


def overcommit(readings: Readings) -> Said | None:
    """Seen where Redis runs on this machine."""
    if readings.machine.overcommit != "2":
        return None
    return Said(
        "vm.overcommit_memory is 2: Redis may find no memory to fork, and cannot rewrite its file.",
        "sysctl vm.overcommit_memory=1.",
    )


# Postgres


def postgres_version(readings: Readings) -> Said | None:
    """What it is written for."""
    settings = readings.ledger.settings
    if int(settings["server_version_num"]) >= POSTGRES_15:
        return None
    return Said(
        f"Postgres is {settings['server_version']}: onsale is not tried on it.",
        "Run 15 or newer.",
    )


def fsync(readings: Readings) -> Said | None:
    """A 201 is a promise."""
    if readings.ledger.settings["fsync"] == "on":
        return None
    return Said(
        "fsync is off: a machine that dies may take confirmed bookings along, or the whole ledger.",
        "fsync = on.",
    )


def full_page_writes(readings: Readings) -> Said | None:
    """Torn pages."""
    if readings.ledger.settings["full_page_writes"] == "on":
        return None
    return Said(
        "full_page_writes is off: a machine that dies while it writes may ruin the ledger.",
        "full_page_writes = on.",
    )


def synchronous_commit(readings: Readings) -> Said | None:
    """Onsale sets its own; hands do not."""
    value = readings.ledger.settings["synchronous_commit"]
    if value != "off":
        return None
    return Said(
        "synchronous_commit is off: onsale sets its own to on, but what a person writes in psql "
        "may be lost though it was committed.",
        "synchronous_commit = on.",
    )


def synchronous_standby_missing(readings: Readings) -> Said | None:
    """Commits wait for a standby that is not there."""
    names = readings.ledger.settings["synchronous_standby_names"]
    states = {state for _, state in readings.ledger.standbys}
    if not names or None in states or states & {"sync", "quorum"}:
        return None
    return Said(
        f"synchronous_standby_names is {names}, and none of them is there: every commit waits, and "
        "every answer is 202.",
        "Bring a standby back, or set synchronous_standby_names = '' and reload.",
    )


def standby_asynchronous(readings: Readings) -> Said | None:
    """A failover to it forgets."""
    names = [name for name, state in readings.ledger.standbys if state == "async"]
    if not names or readings.ledger.settings["synchronous_standby_names"]:
        return None
    return Said(
        f"Standby {names[0]} is asynchronous: who fails over to it loses the last confirmed "
        "bookings unless they are still in the outbox.",
        "synchronous_standby_names, if that is not what you want.",
    )


def max_connections(readings: Readings) -> Said | None:
    """All processes of onsale, and those who are there already."""
    settings = readings.ledger.settings
    reserved = ("superuser_reserved_connections", "reserved_connections")
    free = int(settings["max_connections"]) - sum(int(settings.get(name, 0)) for name in reserved)
    free -= readings.ledger.sessions
    needed = SESSIONS * (readings.settings.api_workers + WORKERS) + SESSIONS_BY_HAND
    if needed <= free:
        return None
    return Said(
        f"Postgres has {max(free, 0)} connections left for onsale, which may need {needed} "
        f"(API_WORKERS={readings.settings.api_workers}, {WORKERS} workers).",
        "Raise max_connections, or see who else is connected.",
    )


def idle_in_transaction(readings: Readings) -> Said | None:
    """A person's lock."""
    if readings.ledger.settings["idle_in_transaction_session_timeout"] != "0":
        return None
    return Said(
        "idle_in_transaction_session_timeout is 0: who leaves psql open in a transaction keeps "
        "an event locked, and its bookings pending, for as long as he likes.",
        "Set it for the database or the server, to 5min say (onsale sets its own).",
    )


def wal_level(readings: Readings) -> Said | None:
    """No standby, no base backup."""
    if readings.ledger.settings["wal_level"] != "minimal":
        return None
    return Said(
        "wal_level is minimal: there can be no base backup, no archive and no standby.",
        "wal_level = replica.",
    )


def postgres_in_recovery(readings: Readings) -> Said | None:
    """It takes no writes."""
    if not readings.ledger.in_recovery:
        return None
    return Said(
        "This Postgres is a standby: it takes no bookings, and every answer stays 202.",
        "Set DATABASE_URL to the primary, or promote it.",
    )


def autovacuum(readings: Readings) -> Said | None:
    """Rows of `events` and `partitions` change with every batch."""
    server = readings.ledger.settings["autovacuum"] != "on"
    tables = readings.ledger.vacuum_off
    if not server and not tables:
        return None
    return Said(
        f"autovacuum is off for {'every table' if server else ', '.join(tables)}: they grow, and "
        "sales grow slower with them.",
        "autovacuum = on." if server else "RESET (autovacuum_enabled) of these tables.",
    )


def migrations(readings: Readings) -> Said | None:
    """The ledger is that of this version."""
    if not readings.ledger.migrations:
        return None
    return Said(
        f"The ledger is not this version's: {', '.join(readings.ledger.migrations)}.",
        "onsale migrate.",
    )


def partitions(readings: Readings) -> Said | None:
    """The number is the ledger's, for good."""
    made_with, wanted = readings.ledger.partitions, readings.settings.partitions
    if readings.ledger.migrations or made_with == wanted:
        return None
    return Said(
        f"PARTITIONS is {wanted}, but the ledger was made with {made_with}: nothing starts.",
        f"PARTITIONS={made_with}.",
    )


# Both


def clocks(readings: Readings) -> Said | None:
    """Instants come from Redis, ends from Postgres."""
    ahead = {"Redis": readings.redis_ahead_s, "Postgres": readings.ledger.ahead_s}
    name = max(ahead, key=lambda each: abs(ahead[each]))
    if abs(ahead[name]) <= CLOCK_S:
        return None
    return Said(
        f"The clock of {name} is {ahead[name]:+.1f} s off this machine's: times of bookings and "
        "the lag are off by as much.",
        "Let all machines follow one time server.",
    )


def disks(readings: Readings) -> Said | None:
    """Seen where the servers run on this machine."""
    full = [disk for disk in readings.machine.disks if disk.free < LEAST_FREE * disk.total]
    if not full:
        return None
    disk = full[0]
    return Said(
        f"The disk of {disk.whose} has {disk.free / disk.total:.0%} left; when it is full, "
        f"{'nothing is sold' if disk.whose == 'Redis' else 'every answer is 202'}.",
        "Make room.",
    )


# The sale


def no_worker(readings: Readings) -> Said | None:
    """Seen by signs of life."""
    if readings.sale is None:
        return None
    idle = [each.partition for each in readings.sale.status.partitions if not each.worked]
    if not idle:
        return None
    return Said(
        f"No worker was seen at {len(idle)} of {readings.settings.partitions} partitions: what is "
        "booked there stays pending.",
        "onsale worker; if one runs, look at its log.",
    )


def recovering(readings: Readings) -> Said | None:
    """A recovery takes a moment."""
    if readings.sale is None:
        return None
    now = [each.partition for each in readings.sale.status.partitions if each.state != "open"]
    if not now:
        return None
    return Said(
        f"{len(now)} partitions are being recovered: nothing of theirs is sold meanwhile.",
        "Ask again in a few seconds; if it stays so, look at the log of a worker.",
    )


def recoveries(readings: Readings) -> Said | None:
    """Epochs are for accidents."""
    if readings.sale is None or readings.sale.recoveries <= MANY_RECOVERIES:
        return None
    return Said(
        f"A partition was recovered {readings.sale.recoveries} times in an hour: Redis "
        "keeps losing its scripts or its state.",
        "Find out what restarts, flushes or fails it over.",
    )


def outbox_lag(readings: Readings) -> Said | None:
    """The ledger is behind."""
    if readings.sale is None:
        return None
    worst = max(readings.sale.status.partitions, key=lambda each: each.lag_seconds)
    if worst.lag_seconds <= LONG_LAG_S:
        return None
    return Said(
        f"The ledger is {worst.lag_seconds:.0f} s behind in partition {worst.partition}: "
        "callers are told 202.",
        "Look for `drain_halted` and `drain_waits` in the logs of the workers.",
    )


def outbox_near_its_bound(readings: Readings) -> Said | None:
    """At the bound every reserve is a 503."""
    if readings.sale is None:
        return None
    bound = readings.settings.outbox_bound
    worst = max(readings.sale.status.partitions, key=lambda each: each.depth)
    if worst.depth < NEAR * bound:
        return None
    return Said(
        f"Partition {worst.partition} owes the ledger {worst.depth} bookings of {bound} at most; "
        "then every reserve is refused.",
        "Mend the worker or Postgres.",
    )


def dead_letters(readings: Readings) -> Said | None:
    """A person must look."""
    if readings.sale is None or not readings.sale.dead_letters:
        return None
    return Said(
        f"{readings.sale.dead_letters} dead letters wait: callers who were told 202 have no seat.",
        "onsale dead-letters list.",
    )


def drift(readings: Readings) -> Said | None:
    """Of the busiest events, by the quick check."""
    if readings.sale is None:
        return None
    events = [each.id for each in readings.sale.status.events if each.drift]
    if not events:
        return None
    return Said(
        f"Redis and the ledger differ in event {', '.join(map(str, events))}.",
        "onsale reconcile, and find out who writes to Redis.",
    )


CHECKS: Final[tuple[Callable[[Readings], Said | None], ...]] = (
    redis_version,
    redis_evicts,
    redis_settings_hidden,
    redis_keeps_no_file,
    redis_seldom_syncs,
    redis_cannot_write_its_file,
    redis_cannot_rewrite_its_file,
    redis_rewrites_for_long,
    redis_cannot_save,
    redis_memory_unbounded,
    redis_memory_near_its_bound,
    redis_misses_its_replicas,
    redis_is_a_replica,
    redis_forks_slowly,
    redis_is_swapped,
    huge_pages,
    overcommit,
    postgres_version,
    fsync,
    full_page_writes,
    synchronous_commit,
    synchronous_standby_missing,
    standby_asynchronous,
    max_connections,
    idle_in_transaction,
    wal_level,
    postgres_in_recovery,
    autovacuum,
    migrations,
    partitions,
    clocks,
    disks,
    no_worker,
    recovering,
    recoveries,
    outbox_lag,
    outbox_near_its_bound,
    dead_letters,
    drift,
)
