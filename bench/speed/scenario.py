"""What is measured: who, asked what, over how many connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from bench.speed.contender import (
    ARQ_JOB,
    BARE,
    BARE_ASGI,
    BATCHED,
    BATCHED_EXPRESS,
    BATCHED_FULL,
    BATCHED_PLAIN,
    EVALSHA,
    FOR_UPDATE,
    LIMITED,
    ONSALE,
    SEAT_ROWS,
    STATEMENT,
    UNMETERED,
    Contender,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.speed.load import Kind

PLENTY: Final = 10_000_000
AT_ONCE: Final = "respond-async"


class Side(NamedTuple):
    """Somebody in a comparison. ``wants``: the statuses that count; all, if there are none."""

    label: str
    contender: Contender
    wants: tuple[int, ...]
    prefer: str = ""


CONFIRMED: Final = Side("onsale, confirmed", ONSALE, (201,))
ACCEPTED: Final = Side("onsale, accepted", ONSALE, (202,), AT_ONCE)
CEILING: Final = Side("bare route", BARE, (201,))
ASGI: Final = Side("bare ASGI", BARE_ASGI, (201,))
BY_EVALSHA: Final = Side("an EVALSHA a request", EVALSHA, (202,))
BY_JOB: Final = Side("an arq job a booking", ARQ_JOB, (202,))
BY_LOCK: Final = Side("Postgres, FOR UPDATE", FOR_UPDATE, (201,))
BY_STATEMENT: Final = Side("Postgres, one statement", STATEMENT, (201,))
BY_SEAT_ROW: Final = Side("Postgres, SKIP LOCKED", SEAT_ROWS, (201,))
BY_BATCH: Final = Side("Postgres, micro-batched", BATCHED, (201,))
BY_BATCH_FULL: Final = Side("the same with our indexes", BATCHED_FULL, (201,))
BY_BATCH_EXPRESS: Final = Side("the same past ASGI", BATCHED_EXPRESS, (201,))
BY_BATCH_PLAIN: Final = Side("the same, uvicorn as it comes", BATCHED_PLAIN, (201,))
LIMITED_TOO: Final = Side("onsale, rate limit on", LIMITED, (202,), AT_ONCE)
NOT_COUNTED: Final = Side("onsale, no metrics", UNMETERED, (202,), AT_ONCE)


class Scenario(NamedTuple):
    """One comparison; ``way`` says how a turn of it goes (``turn.py``).

    ``wants`` takes the place of what each side wants; ``long`` multiplies the seconds.
    """

    name: str
    title: str
    sides: tuple[Side, ...]
    kind: Kind = "reserve"
    events: int = 1
    seats: int = PLENTY
    users: int = 0
    connections: int = 64
    wants: tuple[int, ...] | None = None
    way: str = "load"
    long: int = 1
    rounds: int | None = None

    def counted(self, side: Side) -> tuple[int, ...]:
        """The statuses that count for a side."""
        return side.wants if self.wants is None else self.wants


_HOT: Final = (CONFIRMED, ACCEPTED, CEILING, BY_BATCH)
_REFUSED: Final = (409,)
_ANY: Final = ()

HOT: Final = Scenario(
    "hot",
    "one hot event, 64 connections",
    (
        *_HOT,
        BY_BATCH_FULL,
        BY_BATCH_EXPRESS,
        BY_BATCH_PLAIN,
        ASGI,
        BY_EVALSHA,
        BY_JOB,
        BY_LOCK,
        BY_STATEMENT,
        BY_SEAT_ROW,
    ),
)
SELLOUT: Final = Scenario(
    "sellout",
    "1,000 seats, everybody comes once, 256 connections",
    (CONFIRMED, CEILING, BY_BATCH),
    seats=1000,
    connections=256,
    wants=_ANY,
    way="sellout",
)


def scenarios() -> Iterator[Scenario]:
    """All of them, in the order in which they run."""
    yield HOT
    for connections in (1, 256, 1000):
        yield Scenario(
            f"connections-{connections}",
            f"one hot event, {connections} connection{'s' if connections > 1 else ''}",
            _HOT,
            connections=connections,
        )
    yield Scenario(
        "events",
        "1,000 events at random",
        (CONFIRMED, ACCEPTED, BY_BATCH, BY_STATEMENT),
        events=1000,
        seats=PLENTY // 1000,
    )
    yield SELLOUT
    yield Scenario(
        "refused",
        "a sold-out event: nothing but refusals",
        (CONFIRMED, CEILING, BY_BATCH, BY_BATCH_EXPRESS, BY_BATCH_PLAIN, BY_STATEMENT),
        seats=0,
        wants=(*_REFUSED, 201),
    )
    yield Scenario(
        "duplicates",
        "1,000 users who have a seat ask for another",
        (CONFIRMED, CEILING, BY_BATCH, BY_STATEMENT),
        users=1000,
        wants=(*_REFUSED, 201),
    )
    yield Scenario(
        "mixed",
        "two bookings, then one of them given back",
        (CONFIRMED, ACCEPTED, BY_BATCH),
        kind="mixed",
        wants=(200, 201, 202),
    )
    yield Scenario("looks", "availability", (CONFIRMED, BY_BATCH), kind="look", wants=(200,))
    yield Scenario(
        "extras", "what counting costs", (ACCEPTED, LIMITED_TOO, NOT_COUNTED), wants=(202,)
    )
    yield Scenario(
        "cold", "500 first requests at once for an event of 10,000 bookings", (CONFIRMED,),
        way="cold",
    )  # fmt: skip
    yield Scenario("backlog", "one worker and a backlog", (ACCEPTED,), way="backlog", long=2)
    yield Scenario(
        "stopped", "Postgres stopped in the middle, 1,000 events", (CONFIRMED, ACCEPTED, BY_BATCH),
        events=1000, seats=PLENTY // 1000, way="stopped", long=8, rounds=1,
    )  # fmt: skip
    yield Scenario("soak", "a minute at full load", (CONFIRMED, ACCEPTED), long=12, rounds=1)


def short() -> Iterator[Scenario]:
    """The few that CI runs."""
    yield HOT._replace(sides=(CONFIRMED, ACCEPTED, CEILING, BY_BATCH, BY_LOCK))
    yield SELLOUT
