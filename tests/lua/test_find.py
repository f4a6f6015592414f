"""find.lua: the entry that holds a number; it never writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.model import Number

if TYPE_CHECKING:
    from tests.lua.desk import Desk


async def test_answers_the_entry_that_holds_a_number(desk: Desk) -> None:
    """The first entry at or after it; its id is that of its last item."""
    await desk.put_on_sale(9)
    await desk.reserve("ann", "bob")
    await desk.reserve("cem")
    seq, (entry, fields) = await desk.refused(desk.scripts.find(Number(3, 1)))
    assert (seq, entry) == (3, "3-2")
    assert '["ann","bob"]' in fields


async def test_beyond_the_end(desk: Desk) -> None:
    """With no such entry there is only the last number given out."""
    await desk.put_on_sale(9)
    await desk.reserve("ann")
    assert await desk.refused(desk.scripts.find(Number(3, 2))) == [1]


async def test_refuses(desk: Desk) -> None:
    """Without a log of this epoch there is no answer."""
    await desk.redis.hdel(desk.log, "seq")
    assert await desk.refused(desk.scripts.find(Number(3, 1))) == "fenced"
    await desk.redis.hset(desk.log, mapping={"epoch": 4, "seq": 0})
    assert await desk.refused(desk.scripts.find(Number(3, 1))) == "fenced"
