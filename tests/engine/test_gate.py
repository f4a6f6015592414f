"""The gate: few drains are in the ledger at a time, and what comes meanwhile goes together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine import gate as gate_module
from engine.drain import Drain
from engine.gate import PLACES, Gate

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import pytest

    from tests.engine.house import Shop

BOUND_S = 10


class Seen(Gate):
    """A gate that says when somebody comes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()

    def passed(self) -> AbstractAsyncContextManager[bool]:
        """As ever."""
        self.came.set()
        return super().passed()


async def _stay(gate: Gate, leave: asyncio.Event) -> bool:
    async with gate.passed() as waited:
        await leave.wait()
    return waited


async def _turn() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def _full(gate: Gate) -> tuple[asyncio.Event, list[asyncio.Task[bool]]]:
    """Have every place taken; gives what makes all of them leave."""
    leave = asyncio.Event()
    stays = [asyncio.create_task(_stay(gate, leave)) for _ in range(PLACES)]
    await _turn()
    return leave, stays


async def test_so_many_are_in_and_no_more() -> None:
    """Who comes next waits until one leaves, and is told that he has waited."""
    gate, now = Gate(), asyncio.Event()
    leave, stays = await _full(gate)
    now.set()
    late = asyncio.create_task(_stay(gate, now))
    await _turn()
    assert not late.done()
    leave.set()
    assert await asyncio.wait_for(late, BOUND_S)
    assert await asyncio.gather(*stays) == [False] * PLACES


async def test_who_is_held_up_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """His place is another's after a while, and is given back once only."""
    gate, now = Gate(), asyncio.Event()
    now.set()
    monkeypatch.setattr(gate_module, "STAY_S", 0.01)
    leave, stays = await _full(gate)
    assert await asyncio.wait_for(_stay(gate, now), BOUND_S)
    leave.set()
    await asyncio.gather(*stays)
    monkeypatch.undo()
    leave, stays = await _full(gate)
    late = asyncio.create_task(_stay(gate, now))
    await _turn()
    assert not late.done()
    leave.set()
    assert await late
    await asyncio.gather(*stays)


async def test_what_comes_while_a_drain_waits_goes_with_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One drain takes what was read before the wait and what came in it."""
    monkeypatch.setattr(gate_module, "STAY_S", BOUND_S)
    event_id, gate = await shop.open_event(10), Seen()
    drain = Drain(shop.partition, ledger=shop.ledger, redis=shop.redis, gate=gate)
    shop.house.drains.append(drain)
    mark = await shop.mark()
    leave, stays = await _full(gate)
    gate.came.clear()
    await shop.reserve(event_id, "ann")
    draining = asyncio.create_task(drain.once(shop.scripts, mark, shift=shop.shift, block_ms=1000))
    await asyncio.wait_for(gate.came.wait(), BOUND_S)
    await shop.reserve(event_id, "bob")
    leave.set()
    assert await draining == mark._replace(seq=mark.seq + 2)
    assert await shop.mark() == mark._replace(seq=mark.seq + 2)
    await asyncio.gather(*stays)
