"""The clients of a drill: seeded, forgetful, impatient; they write down all that they are told.

Users are shared: several clients act for the same user at once. What a client is told of a booking
all of them know, so that one cancels what another has just made.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from bench.drill.record import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.caller import Answer, Caller

COUNT: Final = 64
PATIENCE_S: Final = 15.0
BREATH_S: Final = 0.03
USERS_A_SEAT: Final = 1.5
FEWEST_USERS: Final = 24
MOST_USERS: Final = 600
MANY: Final = 10

# Method, path, body; each must be answered with a 4xx.
NONSENSE: Final[tuple[tuple[str, str, object], ...]] = (
    ("POST", "/api/bookings/reserve", b"{"),
    ("POST", "/api/bookings/reserve", {"event_id": 1}),
    ("POST", "/api/bookings/reserve", {"event_id": "1", "user_id": "ann"}),
    ("POST", "/api/bookings/reserve", {"event_id": 2**31, "user_id": "ann"}),
    ("POST", "/api/bookings/reserve", {"event_id": 1, "user_id": "a\0b"}),
    ("POST", "/api/bookings/reserve", {"event_id": 1, "user_id": "x" * 256}),
    ("POST", "/api/bookings/reserve", b'{"event_id":1,"user_id":"\\ud800"}'),
    ("POST", "/api/bookings/reserve", b'{"event_id":1,"user_id":"\xff"}'),
    ("POST", "/api/bookings/reserve", {"event_id": 1, "user_id": "x" * 5000}),
    ("GET", "/api/bookings/0", None),
    ("GET", "/api/bookings/abc", None),
    ("DELETE", "/api/bookings/-1", None),
    ("DELETE", f"/api/bookings/{2**53}", None),
    ("GET", "/api/events/0", None),
    ("PATCH", "/api/bookings/1", None),
    ("GET", "/nowhere", None),
)


class Place(NamedTuple):
    """One user at one event, and the bookings that anybody was told he has, the latest last."""

    seed: int
    event: int
    user: str
    bookings: list[int]


class Crowd:
    """All clients of a round, and the history that they write."""

    def __init__(self, seed: int, events: dict[int, int], caller: Callable[[int], Caller]) -> None:
        """Make a crowd.

        Args:
            seed: of every choice that is made here.
            events: how many seats by event id.
            caller: a client of one of the two API processes.
        """
        self.calls: list[Call] = []
        self._seed = seed
        self._caller = caller
        self._places = {
            event: [Place(seed, event, f"{seed}-user-{n}", []) for n in range(_users(seats))]
            for event, seats in events.items()
        }
        self._done = asyncio.Event()

    def bookings(self) -> list[int]:
        """Every booking that a client was told of."""
        places = [place for places in self._places.values() for place in places]
        return sorted({booking for place in places for booking in place.bookings})

    async def run(self) -> None:
        """Act until told to stop."""
        async with asyncio.TaskGroup() as group:
            for number in range(COUNT):
                group.create_task(self._act(number))

    def stop(self) -> None:
        """Let everyone finish the call he is making."""
        self._done.set()

    async def read_all(self) -> None:
        """When all is over: read every booking that anybody was told of, until it is told."""
        bookings = self.bookings()

        async def read_some(number: int) -> None:
            async with self._caller(number % 2) as caller:
                for booking in bookings[number::COUNT]:
                    await self._read_until_told(caller, number, booking)

        async with asyncio.TaskGroup() as group:
            for number in range(COUNT):
                group.create_task(read_some(number))

    async def _act(self, number: int) -> None:
        dice = random.Random(f"{self._seed}-{number}")  # noqa: S311 - it is to be repeatable
        async with self._caller(number % 2) as caller:
            client = Client(number, caller, dice, self.calls)
            events = list(self._places.values())
            while not self._done.is_set():
                (places,) = dice.choices(events, weights=[len(each) ** 0.5 for each in events])
                await client.act(dice.choice(places))

    async def _read_until_told(self, caller: Caller, number: int, booking: int) -> None:
        while True:
            client = Client(number, caller, random.Random(booking), self.calls)  # noqa: S311
            call = await client.read(booking, after=True)
            if call.end is not None and call.status != 503:  # noqa: PLR2004
                return
            await asyncio.sleep(BREATH_S)


class Client:
    """One who calls."""

    def __init__(self, number: int, caller: Caller, dice: random.Random, calls: list[Call]) -> None:
        self._number = number
        self._caller = caller
        self._dice = dice
        self._calls = calls

    async def act(self, place: Place) -> None:
        """Do one thing for a user."""
        dice, known = self._dice, place.bookings
        chance = dice.random()
        if known and chance < 0.3:  # noqa: PLR2004 - the mix
            await self.cancel(known[-1] if dice.random() < 0.8 else dice.choice(known))  # noqa: PLR2004
        elif known and chance < 0.45:  # noqa: PLR2004
            await self.read(dice.choice(known[-2:]))
        elif chance < 0.5:  # noqa: PLR2004
            await self.available(place.event)
        elif chance < 0.53:  # noqa: PLR2004
            await self.say_nonsense()
        else:
            await self.reserve(place)

    async def reserve(self, place: Place) -> None:
        """Ask for a seat, with or without a key; if the answer is lost, perhaps once more."""
        dice = self._dice
        key = self._key(place) if dice.random() < 0.4 else ""  # noqa: PLR2004
        for _ in range(3):
            call = await self._reserve_once(place, key)
            if call.end is not None and call.status != 503:  # noqa: PLR2004
                return
            await asyncio.sleep(BREATH_S)
            if dice.random() < 0.3:  # noqa: PLR2004
                key = ""

    def _key(self, place: Place) -> str:
        """A new key mostly; one of before, whose booking may be cancelled; one that others have."""
        dice, known = self._dice, len(place.bookings)
        chance = dice.random()
        if chance < 0.03:  # noqa: PLR2004
            return f"{place.seed}-everybody-{dice.randrange(MANY)}"
        number = dice.randint(0, known) if chance < 0.3 else known  # noqa: PLR2004
        return f"{place.event}-{place.user}-{number}"

    async def _reserve_once(self, place: Place, key: str) -> Call:
        chance = self._dice.random()
        headers = {"idempotency_key": key} if key else {}
        if chance < 0.4:  # noqa: PLR2004
            headers["prefer"] = "respond-async"
        elif chance < 0.5:  # noqa: PLR2004
            headers["prefer"] = "wait=1"
        body = {"event_id": place.event, "user_id": place.user}
        about = Call(client=0, kind="reserve", begin=0, event=place.event, user=place.user, key=key)
        call = await self._call(about, "POST", "/api/bookings/reserve", body, **headers)
        if call.answered and call.answered not in place.bookings:
            place.bookings.append(call.answered)
        return call

    async def cancel(self, booking: int) -> Call:
        """Give a seat back."""
        headers = {"prefer": "respond-async"} if self._dice.random() < 0.5 else {}  # noqa: PLR2004
        path = f"/api/bookings/{booking}"
        about = Call(client=0, kind="cancel", begin=0, booking=booking)
        return await self._call(about, "DELETE", path, **headers)

    async def read(self, booking: int, *, after: bool = False) -> Call:
        """Read a booking."""
        about = Call(client=0, kind="read", begin=0, booking=booking, after=after)
        return await self._call(about, "GET", f"/api/bookings/{booking}")

    async def available(self, event: int) -> Call:
        """Ask how many seats are left."""
        about = Call(client=0, kind="available", begin=0, event=event)
        return await self._call(about, "GET", f"/api/events/{event}")

    async def say_nonsense(self) -> Call:
        """Send what no client should."""
        method, path, body = self._dice.choice(NONSENSE)
        about = Call(client=0, kind="malformed", begin=0)
        return await self._call(about, method, path, body)

    async def _call(
        self, about: Call, method: str, path: str, body: object = None, **headers: str
    ) -> Call:
        """Make a call and write it down; if no answer comes, hang up and take a breath."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._caller.call(method, path, body, **headers)
        except (OSError, EOFError, TimeoutError):
            call = replace(about, client=self._number, begin=begin)
            await asyncio.sleep(BREATH_S)
        else:
            call = _told(about, self._number, begin, loop.time(), answer)
        self._calls.append(call)
        return call


def _users(seats: int) -> int:
    return max(FEWEST_USERS, min(MOST_USERS, int(seats * USERS_A_SEAT)))


def _told(about: Call, client: int, begin: float, end: float, answer: Answer) -> Call:
    body = answer.body if isinstance(answer.body, dict) else {}
    return replace(
        about, client=client, begin=begin, end=end, status=answer.status,
        code=str(body.get("code", "")), answered=body.get("id") or body.get("booking_id") or 0,
        state=str(body.get("status", "")) if answer.status < 300 else "",  # noqa: PLR2004
        seats=body.get("available_seats"),
    )  # fmt: skip
