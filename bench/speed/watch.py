"""What goes on while a load runs: depth and lag of the outbox, and memory, over time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import redis

from bench.speed.cpu import resident_bytes
from bench.speed.servers import PARTITIONS
from engine import keys

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERY_S: Final = 0.05


class Sample(msgspec.Struct, frozen=True):
    """One look. The depth is in bookings; the lag is the age of the oldest of them."""

    at_s: float
    depth: int
    lag_ms: float
    memory: dict[str, int]


class Watch:
    """Looks every ``EVERY_S``, in a thread of its own, from ``with`` to its end."""

    def __init__(self, redis_url: str, pids: Mapping[str, int]) -> None:
        self._client = redis.Redis.from_url(redis_url)
        self._pids = pids
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._begun_s = time.perf_counter()
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._begun_s = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            self.samples.append(self.look())

    def look(self) -> Sample:
        """Look once."""
        logs = self._logs()
        lag_ms = self._lag_ms({p: log for p, log in logs.items() if log[1] > log[2]})
        depth = sum(seq - acked for _, seq, acked in logs.values())
        memory = {role: resident_bytes(pid) for role, pid in self._pids.items()}
        return Sample(time.perf_counter() - self._begun_s, depth, lag_ms, memory)

    def _logs(self) -> dict[int, tuple[int, int, int]]:
        """Each partition's epoch, last number and last acknowledged number."""
        with self._client.pipeline(transaction=False) as together:
            for partition in range(PARTITIONS):
                together.hmget(keys.log(partition), ["epoch", "seq", "acked"])
            rows = together.execute()
        return {
            partition: (int(epoch or 0), int(seq or 0), int(acked or 0))
            for partition, (epoch, seq, acked) in enumerate(rows)
        }

    def _lag_ms(self, owing: dict[int, tuple[int, int, int]]) -> float:
        """The age of the oldest entry that is not acknowledged; 0 if there is none."""
        if not owing:
            return 0.0
        with self._client.pipeline(transaction=False) as together:
            for partition, (epoch, _, acked) in owing.items():
                together.xrange(keys.outbox(partition), min=f"{epoch}-{acked + 1}", count=1)
            found: list[Any] = together.execute()
        made_ms = [int(fields[b"at"]) for entries in found for _, fields in entries]
        return max(0.0, time.time() * 1000 - min(made_ms)) if made_ms else 0.0
