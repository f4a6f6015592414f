"""Depth and lag are those of what the ledger does not have yet."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import redis

from bench.speed.contender import BARE
from bench.speed.watch import Watch
from engine import keys

if TYPE_CHECKING:
    from bench.speed.servers import Servers


def look(url: str, **pids: int) -> tuple[int, float, dict[str, int]]:
    """One look, without its instant."""
    with Watch(url, pids) as watch:
        sample = watch.look()
    return sample.depth, sample.lag_ms, sample.memory


def test_the_oldest_entry_of_all_partitions_that_is_not_acknowledged(servers: Servers) -> None:
    """One that is acknowledged in part counts, by its age; one that is wholly so does not."""
    url, now_ms = servers.redis_url(BARE), int(time.time() * 1000)
    logs = {0: (1, 10, 6), 1: (1, 4, 4), 2: (1, 3, 0)}
    ages_ms = {0: {5: 90_000, 8: 30_000, 10: 100}, 1: {4: 80_000}, 2: {3: 60_000}}
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        assert look(url) == (0, 0.0, {})
        for partition, (epoch, seq, acked) in logs.items():
            log = {"epoch": epoch, "seq": seq, "acked": acked}
            client.hset(keys.log(partition), mapping=log)
            for last, age_ms in ages_ms[partition].items():
                entry = {"at": now_ms - age_ms}
                client.xadd(keys.outbox(partition), entry, id=f"{epoch}-{last}")
    depth, lag_ms, memory = look(url, api=os.getpid())
    assert depth == 4 + 3
    assert 60_000 <= lag_ms < 70_000
    assert memory["api"] > 1_000_000
