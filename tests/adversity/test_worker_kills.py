"""Workers die at any moment, and nothing that was promised dies with them."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from tests import world
from tests.adversity.customers import Customer, balance
from tests.world import LONG

if TYPE_CHECKING:
    from pathlib import Path

    from tests.world import Sale

SALE_S = 20.0 if LONG else 6.0
PACE_S = 2.0 if LONG else 1.0
CLIENTS = 64
USERS_A_CLIENT = 4
EVENTS = 3
SEATS = 50
"""Of each event: fewer than want one, so that seats change hands."""


async def client(sale: Sale, number: int, events: list[int], until_s: float) -> list[Customer]:
    """Book, cancel and book again for some users, at random but the same in each run."""
    dice = random.Random(number)
    loop = asyncio.get_running_loop()
    async with sale.caller() as caller:
        customers = [
            Customer(caller, dice.choice(events), f"user-{number}-{user}")
            for user in range(USERS_A_CLIENT)
        ]
        while loop.time() < until_s:
            customer = dice.choice(customers)
            headers = {"prefer": "respond-async"} if dice.random() < 0.5 else {}
            if customer.held and dice.random() < 0.8:
                await customer.cancel(**headers)
            else:
                await customer.reserve(**headers)
            if dice.random() < 0.2:
                await customer.look_back()
    return customers


async def kill_workers(sale: Sale, until_s: float) -> int:
    """Kill one worker at each beat, whatever it is doing; how many died."""
    dice, deaths = random.Random(0), 0
    loop = asyncio.get_running_loop()
    while loop.time() + PACE_S < until_s:
        await asyncio.sleep(PACE_S)
        with suppress(ProcessLookupError):  # not started again yet
            sale.kill("worker", dice.randrange(2))
            deaths += 1
    return deaths


async def test_killed_workers_lose_nothing_and_invent_nothing(tmp_path: Path) -> None:
    """The ledger has exactly what its users were told, and Redis says the same."""
    with world.sale(tmp_path) as sale:
        events = [await sale.open_event(SEATS) for _ in range(EVENTS)]
        until_s = asyncio.get_running_loop().time() + SALE_S
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(kill_workers(sale, until_s))
            clients = [
                group.create_task(client(sale, number, events, until_s))
                for number in range(CLIENTS)
            ]
        assert killing.result() >= 2
        customers = [customer for task in clients for customer in task.result()]
        assert sum(len(customer.cancelled) for customer in customers) > CLIENTS
        await balance(sale, customers)
