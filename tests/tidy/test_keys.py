"""All keys of a partition are in one slot of a cluster."""

from __future__ import annotations

from binascii import crc_hqx
from inspect import signature

from hypothesis import given
from hypothesis import strategies as st

from engine import keys
from engine.model import MAX_EVENT_ID

OF_A_PARTITION = [getattr(keys, name) for name in vars(keys) if name in (
    "log", "outbox", "event", "users", "lease", "staging", "drained", "claim", "record",
)]  # fmt: skip


def slot(key: str) -> int:
    """As in the Redis Cluster Specification, "Hash tags": CRC16/XMODEM of what is in braces."""
    _, brace, rest = key.partition("{")
    tag, closing, _ = rest.partition("}")
    hashed = tag if brace and closing and tag else key
    return crc_hqx(hashed.encode(), 0) % 16384


def test_slot_is_that_of_redis() -> None:
    """The specification's own example, and what ``CLUSTER KEYSLOT`` answers."""
    assert crc_hqx(b"123456789", 0) == 0x31C3
    assert slot("somekey") == 11058
    assert slot("foo{hash_tag}") == 2515


@given(st.integers(0, 126), st.integers(1, MAX_EVENT_ID))
def test_keys_of_a_partition_are_in_one_slot(partition: int, event_id: int) -> None:
    """Whatever the event."""
    arguments = (partition, event_id)
    made = [key(*arguments[: len(signature(key).parameters)]) for key in OF_A_PARTITION]
    assert len({slot(key) for key in made}) == 1
    assert len(set(made)) == len(OF_A_PARTITION) == 9


def test_limits_of_all_callers_are_in_one_slot() -> None:
    """A micro-batch of callers is one script call."""
    assert slot(keys.limit("10.0.0.7")) == slot(keys.limit("{2}:user"))


def test_partitions_spread() -> None:
    """The default sixteen partitions are in sixteen slots."""
    assert len({slot(keys.log(p)) for p in range(16)}) == 16
