"""What onsale counts, by Prometheus' names."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RESERVATIONS = Counter("onsale_reservations", "Answers to reserve, by outcome.", ["outcome"])
BATCH_SIZE = Histogram(
    "onsale_batch_users", "Users in one script call.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
REDIS_ERRORS = Counter("onsale_redis_errors", "Exchanges with Redis that failed.")
LEDGER_ERRORS = Counter("onsale_ledger_errors", "Transactions of Postgres that failed.")
DRAINED = Counter("onsale_drained", "Items the ledger has taken.")
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
LAG_SECONDS = Gauge(
    "onsale_outbox_lag_seconds",
    "Age of the oldest entry in the last batch drained.",
    ["partition"],
    multiprocess_mode="mostrecent",
)
