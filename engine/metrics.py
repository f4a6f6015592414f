"""What onsale counts, by Prometheus' names, and how it is handed out.

Where ``PROMETHEUS_MULTIPROC_DIR`` names a folder, all processes that have it count together, and
each of them can answer for all. There an observation is a few writes to mapped memory: the hot path
observes once a batch.
"""

from __future__ import annotations

import os
from typing import Final

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector

from engine.errors import Misconfigured

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RESERVATIONS = Counter("onsale_reservations", "Answers to reserve, by outcome.", ["outcome"])
BATCH_SIZE = Histogram(
    "onsale_batch_users", "Users in one script call.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
ACCEPT_SECONDS = Histogram(
    "onsale_accept_seconds",
    "From a reserve to Redis's answer: of each script call, the request that waited longest.",
    buckets=_SECONDS,
)
CONFIRM_SECONDS = Histogram(
    "onsale_confirm_seconds",
    "From Redis's answer to the ledger's: of each drain, the booking that waited longest.",
    buckets=_SECONDS,
)
REDIS_ERRORS = Counter("onsale_redis_errors", "Exchanges with Redis that failed.")
LEDGER_ERRORS = Counter("onsale_ledger_errors", "Transactions of Postgres that failed.")
DRAINED = Counter("onsale_drained", "Items the ledger has taken.")
DRAIN_ITEMS = Histogram(
    "onsale_drain_items",
    "Items in one transaction of the ledger.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
)
REJECTED = Counter("onsale_rejected", "Bookings the ledger refused, by reason.", ["reason"])
DEAD_LETTERS = Counter("onsale_dead_letters", "Entries set aside: the ledger can never take them.")
SETTLED_LETTERS = Counter(
    "onsale_dead_letters_settled", "Dead letters that were settled, by outcome.", ["outcome"]
)
WAITING_LETTERS = Gauge(
    "onsale_dead_letters_waiting", "Dead letters to settle.", multiprocess_mode="mostrecent"
)
RECOVERIES = Counter("onsale_recoveries", "Epochs opened.")
HYDRATIONS = Counter("onsale_hydrations", "Events loaded from the ledger.")
DRIFT = Counter("onsale_drift", "Differences between Redis and the ledger, by kind.", ["kind"])
WATCHERS = Gauge(
    "onsale_watchers", "Listeners to the streams of events.", multiprocess_mode="livesum"
)
DEPTH = Gauge(
    "onsale_outbox_depth",
    "Items the ledger has not taken, looked up every two seconds.",
    ["partition"],
    multiprocess_mode="mostrecent",
)
LAG_SECONDS = Gauge(
    "onsale_outbox_lag_seconds",
    "Age of the oldest item the ledger has not taken, looked up every two seconds.",
    ["partition"],
    multiprocess_mode="mostrecent",
)
LAST_TICK = Gauge(
    "onsale_last_tick_timestamp_seconds",
    "When a worker last handed out shifts, in Unix time.",
    multiprocess_mode="mostrecent",
)


def exposition() -> bytes:
    """The metrics of this process, or of all that count together, in Prometheus' text format."""
    return generate_latest(_registry())


def serve(host: str, port: int) -> None:
    """Serve them over HTTP, in a thread of this process.

    Raises:
        Misconfigured: the port is taken, or not for us to take.
    """
    try:
        start_http_server(port, addr=host, registry=_registry())
    except OSError as error:
        raise Misconfigured(f"cannot serve metrics on port {port} of {host}: {error}") from None


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
