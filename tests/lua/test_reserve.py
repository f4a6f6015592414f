"""reserve.lua: seats in order, each refusal whole, and one entry for what was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine import keys
from engine.idempotency import DAY_S
from engine.model import Number, Window
from tests.lua.desk import EVENT, PLENTY
from tests.lua.faults import BOUND, NO_INSTANT, OF_SELLING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.lua.desk import Desk

MAX_SEQ = 2**32 - 1


async def test_gives_seats_in_the_order_of_the_batch(desk: Desk) -> None:
    """The first users get the seats, the next are told that none is left."""
    await desk.put_on_sale(2)
    assert await desk.reserve("cem", "ann", "bob") == [1, 2, "sold_out"]
    assert await desk.held() == {"cem": "3-1", "ann": "3-2"}
    assert await desk.left() == 0


async def test_writes_one_entry_for_a_batch(desk: Desk) -> None:
    """Its id is the number of its last item, and the drain reads the same users from it."""
    await desk.put_on_sale(5)
    at_ms, *_ = await desk.answer(desk.ask("ann", "bob"))
    fields = {"kind": "reserve", "event": "17", "at": str(at_ms), "users": '["ann","bob"]'}
    assert await desk.entries() == [("3-2", fields)]
    assert await desk.redis.hget(desk.log, "seq") == b"2"
    assert [(str(item.number), item.user_id) for item in await desk.items()] == [
        ("3-1", "ann"),
        ("3-2", "bob"),
    ]


async def _window(desk: Desk, *, opens_in_ms: int | None, closes_in_ms: int | None) -> int | None:
    """Put the event on sale for a time relative to Redis's; when it opens."""
    await desk.put_on_sale(5, sold={"ann": "2-8"})
    await desk.redis.set(keys.record(desk.partition, "r"), "2-8")
    seconds, micros = await desk.redis.time()
    now_ms = seconds * 1000 + micros // 1000
    window = Window(*(None if ms is None else now_ms + ms for ms in (opens_in_ms, closes_in_ms)))
    await desk.answer(desk.scripts.repair(EVENT, [], window=window))
    return window.opens_ms


HOUR_MS = 3_600_000


@pytest.mark.parametrize("closes_in_ms", [None, 2 * HOUR_MS])
async def test_not_open(desk: Desk, closes_in_ms: int | None) -> None:
    """Nobody gets a seat before the sale opens; who has one is told so as ever, a key or not."""
    opens_ms = await _window(desk, opens_in_ms=HOUR_MS, closes_in_ms=closes_in_ms)
    before = await desk.snapshot()
    assert await desk.reserve("bob", "ann") == [f"not_open {opens_ms}", "already_booked 2-8"]
    assert await desk.reserve("ann", requests={"ann": "r"}) == ["replayed 2-8"]
    assert await desk.snapshot() == before


@pytest.mark.parametrize("opens_in_ms", [None, -2 * HOUR_MS])
async def test_closed(desk: Desk, opens_in_ms: int | None) -> None:
    """Nor once it has closed; a seat can still be given back."""
    await _window(desk, opens_in_ms=opens_in_ms, closes_in_ms=0)
    assert await desk.reserve("bob", "ann") == ["closed", "already_booked 2-8"]
    await desk.answer(desk.scripts.cancel(EVENT, "ann", Number(2, 8), bound=PLENTY))
    assert await desk.reserve("ann") == ["closed"]


async def test_open(desk: Desk) -> None:
    """From the instant on at which it opens, until it closes."""
    await _window(desk, opens_in_ms=0, closes_in_ms=HOUR_MS)
    assert await desk.reserve("bob") == [1]


async def test_goes_on_after_the_last_number(desk: Desk) -> None:
    """Numbers are contiguous over calls."""
    await desk.put_on_sale(5)
    await desk.reserve("ann", "bob")
    assert await desk.reserve("cem") == [3]


async def test_same_user_twice_in_a_batch(desk: Desk) -> None:
    """He gets one seat; the second ask meets the first's booking."""
    await desk.put_on_sale(5)
    assert await desk.reserve("ann", "ann", "bob") == [1, "already_booked 3-1", 2]
    assert await desk.left() == 3


async def test_same_request_twice_in_a_batch(desk: Desk) -> None:
    """Under one Idempotency-Key the second ask is a replay."""
    await desk.put_on_sale(5)
    asked = ("bob", "ann", "cem", "ann")
    assert await desk.reserve(*asked, requests={"ann": "r"}) == [1, 2, 3, "replayed 3-2"]
    assert await desk.recorded("r") == "3-2"
    assert await desk.left() == 2


@pytest.mark.parametrize("seats", [1, 5])
async def test_already_booked_changes_nothing(desk: Desk, seats: int) -> None:
    """Also when nothing is left, he who holds a booking is told which."""
    await desk.put_on_sale(seats, sold={"ann": "2-8"})
    assert (await desk.refused(desk.ask("ann")))[1:] == ["already_booked 2-8"]


async def test_a_grant_is_on_record_for_a_day(desk: Desk) -> None:
    """Of who sent a key, and of nobody else."""
    await desk.put_on_sale(5)
    before = {*await desk.snapshot(), desk.users.encode()}
    at_ms, *given = await desk.answer(desk.ask("ann", "bob", requests={"bob": "r"}))
    assert given == [1, 2]
    assert await desk.held() == {"ann": "3-1", "bob": "3-2"}
    record = keys.record(desk.partition, "r").encode()
    after = await desk.snapshot()
    assert {*after} - before == {record}
    assert await desk.recorded("r") == "3-2"
    _, expires_ms = after[record]
    assert 0 <= expires_ms - at_ms - DAY_S * 1000 < 1000


async def test_same_request_is_a_replay(desk: Desk) -> None:
    """Whoever else is in the batch; the record stays as it is, and expires when it would."""
    await desk.put_on_sale(5)
    await desk.reserve("ann", requests={"ann": "r"})
    assert (await desk.refused(desk.ask("ann", requests={"ann": "r"})))[1:] == ["replayed 3-1"]
    both = {"ann": "r", "bob": "s"}
    assert await desk.reserve("bob", "ann", requests=both) == [2, "replayed 3-1"]
    assert await desk.recorded("s") == "3-2"


async def test_same_request_after_a_cancel_books_nothing(desk: Desk) -> None:
    """Whether the seat is free, is somebody else's, or is the user's again without the key."""
    await desk.put_on_sale(1)
    late = desk.ask("ann", requests={"ann": "r"})
    await desk.answer(late)
    await desk.answer(desk.scripts.cancel(EVENT, "ann", Number(3, 1), bound=PLENTY))
    assert (await desk.refused(late))[1:] == ["replayed 3-1"]
    assert await desk.reserve("ann") == [3]
    assert (await desk.refused(late))[1:] == ["replayed 3-1"]
    await desk.answer(desk.scripts.cancel(EVENT, "ann", Number(3, 3), bound=PLENTY))
    assert await desk.reserve("bob") == [5]
    assert (await desk.refused(late))[1:] == ["replayed 3-1"]


async def test_record_outlives_the_event_in_redis(desk: Desk) -> None:
    """An event that is closed and loaded again has its replays still."""
    await desk.put_on_sale(5)
    await desk.reserve("ann", requests={"ann": "r"})
    await desk.answer(desk.scripts.close(EVENT))
    await desk.put_on_sale(5, sold={"ann": "3-1"})
    assert (await desk.refused(desk.ask("ann", requests={"ann": "r"})))[1:] == ["replayed 3-1"]


@pytest.mark.parametrize("sent", [{}, {"ann": "s"}])
async def test_other_request_is_no_replay(desk: Desk, sent: dict[str, str]) -> None:
    """Under another key, or none, a user meets his booking as ever; that is not noted."""
    await desk.put_on_sale(5)
    await desk.reserve("ann", requests={"ann": "r"})
    assert (await desk.refused(desk.ask("ann", requests=sent)))[1:] == ["already_booked 3-1"]


async def test_refusals_are_not_on_record(desk: Desk) -> None:
    """Nothing was done: the same request is judged anew."""
    await desk.put_on_sale(1, sold={"bob": "3-1"})
    sold_out = desk.ask("ann", requests={"ann": "r"})
    assert (await desk.refused(sold_out))[1:] == ["sold_out"]
    await desk.answer(desk.scripts.cancel(EVENT, "bob", Number(3, 1), bound=PLENTY))
    assert (await desk.answer(sold_out))[1:] == [2]


async def test_record_of_another_type(desk: Desk) -> None:
    """What a hand has put there and no script reads is no record; the next grant's is."""
    await desk.put_on_sale(5)
    await desk.redis.rpush(keys.record(desk.partition, "r"), "3-8")
    assert await desk.reserve("ann", requests={"ann": "r"}) == [1]
    assert await desk.recorded("r") == "3-1"


async def test_sold_out_changes_nothing(desk: Desk) -> None:
    """With no seat left there is no entry and no number."""
    await desk.put_on_sale(1, sold={"ann": "3-1"})
    assert (await desk.refused(desk.ask("bob", "cem")))[1:] == ["sold_out", "sold_out"]


async def test_event_without_seats(desk: Desk) -> None:
    """An event of no seats is sold out, not dirty."""
    await desk.put_on_sale(0)
    assert (await desk.refused(desk.ask("ann")))[1:] == ["sold_out"]


async def test_below_zero_after_a_cut_sells_nothing(desk: Desk) -> None:
    """Seats were taken from the event after they were sold: it adds up, and sells nothing."""
    await desk.put_on_sale(1, sold={"ann": "3-1", "bob": "3-2"})
    assert await desk.left() == -1
    assert (await desk.refused(desk.ask("cem", "ann")))[1:] == ["sold_out", "already_booked 3-1"]


@pytest.mark.parametrize(
    ("fault", "word"), [*OF_SELLING, *((fault, "dirty") for fault in NO_INSTANT)]
)
async def test_refuses_whole(
    desk: Desk, fault: Callable[[Desk], Awaitable[None]], word: str
) -> None:
    """Each state that forbids a sale has its word, and no key is changed."""
    await desk.put_on_sale(5, sold={"zoe": "2-1"})
    await fault(desk)
    assert await desk.refused(desk.ask("ann", "bob", bound=BOUND)) == word


async def test_sells_until_the_bound(desk: Desk) -> None:
    """One number below the bound the batch is taken, whole; at the bound none is."""
    await desk.put_on_sale(99)
    await desk.redis.hset(desk.log, mapping={"seq": 9, "acked": 0})
    assert await desk.reserve("ann", "bob", bound=10) == [10, 11]
    assert await desk.refused(desk.ask("cem", bound=10)) == "overloaded"
    await desk.redis.hset(desk.log, "acked", 2)
    assert await desk.reserve("cem", bound=10) == [12]


async def test_last_number_of_an_epoch(desk: Desk) -> None:
    """2³²-1 is given out exactly; a batch that would go beyond it is not begun."""
    await desk.put_on_sale(5)
    await desk.redis.hset(desk.log, mapping={"seq": MAX_SEQ - 1, "acked": MAX_SEQ - 1})
    assert await desk.refused(desk.ask("ann", "bob")) == "fenced"
    assert await desk.reserve("ann") == [MAX_SEQ]
    assert await desk.held() == {"ann": f"3-{MAX_SEQ}"}
    assert await desk.redis.hget(desk.log, "seq") == str(MAX_SEQ).encode()
    assert await desk.refused(desk.ask("bob")) == "fenced"


async def test_five_hundred_users(desk: Desk) -> None:
    """A full batch, each with a key, is one entry."""
    users = [f"user {i}" for i in range(500)]
    await desk.put_on_sale(500)
    requests = {user: f"r-{user}" for user in users}
    assert await desk.reserve(*users, requests=requests) == list(range(1, 501))
    replayed = [f"replayed 3-{seq}" for seq in range(1, 501)]
    assert await desk.reserve(*users, requests=requests) == replayed
    assert [entry for entry, _ in await desk.entries()] == ["3-500"]
    assert [item.user_id for item in await desk.items()] == users


ODD = [
    "|", "a|b", "3-1", "-", '"', "\\", "/", "'", " ", "%s", "{1}", "null", "007", "1e3", "\x00",
    "\x7f", "\u2028", "\u00e9", "e\u0301", "Ёлка", "🎫nn", "\u202egnir", "x" * 255, "🎫" * 255,
]  # fmt: skip


async def test_odd_users_keep_their_bytes(desk: Desk) -> None:
    """Whatever a user's id is made of, Redis and the drain have the same."""
    await desk.put_on_sale(100)
    assert await desk.reserve(*ODD) == list(range(1, len(ODD) + 1))
    assert set(await desk.held()) == set(ODD)
    assert [item.user_id for item in await desk.items()] == ODD
    assert await desk.reserve(*ODD) == [f"already_booked 3-{i + 1}" for i in range(len(ODD))]


async def test_who_sends_no_key_pays_nothing(desk: Desk) -> None:
    """Records are asked for in one command a batch, if there is one to be asked for."""
    await desk.put_on_sale(5)
    asked = []
    for requests in ({}, {"cem": "r", "dan": "s"}):
        before = await _calls_of_mget(desk)
        await desk.reserve(*"abc", "cem", "dan", requests=requests)
        asked.append(await _calls_of_mget(desk) - before)
    assert asked == [0, 1]


async def _calls_of_mget(desk: Desk) -> int:
    """How often Redis was asked for several strings at once: nobody else here does."""
    stats = await desk.redis.info("commandstats")
    return int(stats.get("cmdstat_mget", {}).get("calls", 0))


async def test_other_events_are_not_touched(desk: Desk) -> None:
    """A partition's events share numbers, not seats."""
    await desk.put_on_sale(1)
    await desk.reserve("ann")
    other = desk.scripts.reserve(EVENT + 1, ["ann"], [""], bound=10)
    assert await desk.refused(other) == "cold"
