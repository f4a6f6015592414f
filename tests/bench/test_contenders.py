"""Every contender that books keeps its promise: else its speed would mean nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from bench.contenders.postgres_batched import Batched
from bench.contenders.postgres_for_update import ForUpdate
from bench.contenders.postgres_seats import SeatRows
from bench.contenders.postgres_statement import Statement
from bench.contenders.redis_evalsha import EvalSha
from bench.speed.contender import (
    BATCHED,
    EVALSHA,
    FOR_UPDATE,
    SEAT_ROWS,
    STATEMENT,
    Contender,
)
from bench.speed.stores import Sold, store_of
from engine.model import Word

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.contenders.face import Peer, Verdict
    from bench.speed.servers import Servers
    from bench.speed.stores import Events

PEERS: list[tuple[Contender, type[Peer]]] = [
    (FOR_UPDATE, ForUpdate),
    (STATEMENT, Statement),
    (SEAT_ROWS, SeatRows),
    (BATCHED, Batched),
    (EVALSHA, EvalSha),
]
every = pytest.mark.parametrize(
    ("contender", "peer"), PEERS, ids=[contender.name for contender, _ in PEERS]
)
only_batched = pytest.mark.parametrize(
    ("contender", "peer"), [(BATCHED, Batched)], ids=[BATCHED.name]
)


class Sale:
    """A contender's store, and peers that sell from it."""

    def __init__(self, servers: Servers, contender: Contender, peers: list[Peer]) -> None:
        self.servers = servers
        self.contender = contender
        self.peers = peers
        self.store = store_of(servers, contender)

    async def open(self, seats: int, count: int = 1) -> Events:
        """Put events on sale."""
        return await asyncio.to_thread(self.store.open_events, count, seats)

    async def rush(self, event_id: int, users: list[str]) -> list[Verdict]:
        """Ask for all of them at once, of each peer in turn."""
        asks = (
            self.peers[place % len(self.peers)].reserve(event_id, user)
            for place, user in enumerate(users)
        )
        return await asyncio.gather(*asks)

    async def sold(self, events: Events) -> Sold:
        """Count."""
        return await asyncio.to_thread(self.store.sold, events)


@pytest.fixture
async def sale(
    servers: Servers,
    contender: Contender,
    peer: type[Peer],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Sale]:
    """Two of a contender, as if in two processes."""
    monkeypatch.setenv("DATABASE_URL", servers.database_url(contender))
    monkeypatch.setenv("REDIS_URL", servers.redis_url(contender))
    async with AsyncExitStack() as at_end:
        peers = [await at_end.enter_async_context(opened(peer())) for _ in range(2)]
        yield Sale(servers, contender, peers)


@asynccontextmanager
async def opened(peer: Peer) -> AsyncIterator[Peer]:
    """A peer that is connected."""
    await peer.open()
    yield peer
    await peer.close()


def words(verdicts: list[Verdict]) -> Counter[Word]:
    """How often each word was answered."""
    return Counter(verdict.word for verdict in verdicts)


@every
async def test_as_many_are_booked_as_there_are_seats(sale: Sale) -> None:
    """Not one more and not one less, and the rest is told that it is sold out."""
    events = await sale.open(seats=70)
    verdicts = await sale.rush(events.first, [f"user {n}" for n in range(200)])
    assert words(verdicts) == {Word.RESERVED: 70, Word.SOLD_OUT: 130}
    assert await sale.sold(events) == Sold(rows=70, users=70, oversold=0)


@every
async def test_a_user_gets_one_seat_however_often_he_asks(sale: Sale) -> None:
    """The other answers name his booking."""
    events = await sale.open(seats=1000)
    users = [f"user {n}" for n in range(30)] * 5
    verdicts = await sale.rush(events.first, users)
    assert words(verdicts) == {Word.RESERVED: 30, Word.ALREADY_BOOKED: 120}
    booked = {
        user: verdict.booking_id
        for user, verdict in zip(users, verdicts, strict=True)
        if verdict.word is Word.RESERVED
    }
    assert [verdict.booking_id for verdict in verdicts] == [booked[user] for user in users]
    assert len(set(booked.values())) == 30
    assert await sale.sold(events) == Sold(rows=30, users=30, oversold=0)


@every
async def test_who_has_a_seat_is_told_so_when_all_are_gone(sale: Sale) -> None:
    """``already_booked`` goes before ``sold_out``."""
    events = await sale.open(seats=3)
    await sale.rush(events.first, ["ann", "bob", "cid"])
    for _ in range(2):
        verdicts = await sale.rush(events.first, ["dan", "ann", "eve", "bob"])
        told = [verdict.word for verdict in verdicts]
        assert told == [Word.SOLD_OUT, Word.ALREADY_BOOKED] * 2


@every
async def test_an_event_that_does_not_exist_is_not_found(sale: Sale) -> None:
    """Nothing is booked, and it is not called sold out."""
    verdicts = await sale.rush(2**31 - 1, ["ann", "bob"])
    assert words(verdicts) == {Word.EVENT_NOT_FOUND: 2}


@only_batched
async def test_one_batch_books_for_many_events(sale: Sale) -> None:
    """Each event is filled to its last seat, whatever the others have."""
    events = await sale.open(seats=7, count=20)
    ids = range(events.first, events.last + 1)
    asks = [sale.peers[n % 2].reserve(e, f"user {n}") for n in range(12) for e in ids]
    assert words(await asyncio.gather(*asks)) == {Word.RESERVED: 140, Word.SOLD_OUT: 100}
    assert await sale.sold(events) == Sold(rows=140, users=140, oversold=0)


@only_batched
async def test_a_seat_that_is_given_back_is_sold_again(sale: Sale) -> None:
    """Also by the process that had called the event sold out."""
    events = await sale.open(seats=2)
    first, other = sale.peers
    ann = await first.reserve(events.first, "ann")
    await sale.rush(events.first, ["bob", "bob"])
    assert words(await sale.rush(events.first, ["cid", "dan"])) == {Word.SOLD_OUT: 2}
    assert await other.cancel(ann.booking_id)
    assert not await other.cancel(ann.booking_id)
    assert await first.seats(events.first) == (2, 1)
    assert words(await sale.rush(events.first, ["cid", "dan"])) == {
        Word.RESERVED: 1,
        Word.SOLD_OUT: 1,
    }
    assert await sale.sold(events) == Sold(rows=2, users=2, oversold=0)


@only_batched
async def test_the_counter_is_the_number_of_rows(sale: Sale) -> None:
    """Two processes book and cancel side by side, and neither loses a count."""
    events = await sale.open(seats=500)

    async def come_and_go(number: int) -> None:
        peer = sale.peers[number % 2]
        booked = await peer.reserve(events.first, f"user {number}")
        if number % 3 == 0:
            assert await peer.cancel(booked.booking_id)

    await asyncio.gather(*map(come_and_go, range(300)))
    assert await sale.sold(events) == Sold(rows=200, users=200, oversold=0)
    assert await sale.peers[0].seats(events.first) == (500, 300)
