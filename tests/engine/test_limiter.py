"""The rate limit: so many calls in a window, evenly, in all processes together."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest
from httpx2 import ASGITransport, AsyncClient

from api import routes
from api.auth import Caller
from engine import limiter as limiter_module
from engine.engine import Engine
from engine.errors import RedisAway
from engine.limiter import AHEAD, Allowance, Limiter
from engine.permissions import Permission
from engine.recovery import redis_client
from engine.road import Road
from engine.settings import Settings
from tests.api.conformance import Described

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from redis.asyncio import Redis

    from api.auth import Verifier
    from tests.engine.house import House

HOUR_MS = 3_600_000


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the Redis that is there."""
    async with redis_client(settings) as redis:
        yield redis


@pytest.fixture
async def nowhere() -> AsyncIterator[Redis]:
    """A client of a Redis that is away."""
    away = Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0")
    async with redis_client(away) as redis:
        yield redis


@asynccontextmanager
async def _limiter(
    redis: Redis, *, max_calls: int, window_ms: int = HOUR_MS
) -> AsyncIterator[Limiter]:
    road = Road(redis.connection_pool)
    yield Limiter(road, max_calls=max_calls, window_ms=window_ms)
    await road.close()


@asynccontextmanager
async def _two(
    settings: Settings, redis: Redis, *, max_calls: int
) -> AsyncIterator[tuple[Limiter, Limiter]]:
    """Those of two processes."""
    async with (
        redis_client(settings) as other,
        _limiter(redis, max_calls=max_calls) as mine,
        _limiter(other, max_calls=max_calls) as theirs,
    ):
        yield mine, theirs


async def _passed(limiter: Limiter, calls: int) -> int:
    caller = uuid4().hex
    made = await asyncio.gather(*[limiter.admit(caller) for _ in range(calls)])
    return [allowance.wait_ms for allowance in made].count(0)


async def test_so_many_pass_and_no_more(redis: Redis) -> None:
    """Of any number of calls at once, as many pass as the window holds."""
    async with _limiter(redis, max_calls=100) as limiter:
        assert await _passed(limiter, 250) == 100


async def test_without_redis_the_limit_holds_in_this_process(nowhere: Redis) -> None:
    """A Redis that is away neither stops the calls nor lifts the limit."""
    async with _limiter(nowhere, max_calls=100) as limiter:
        assert await _passed(limiter, 250) == 100


async def test_two_processes_share_one_limit(settings: Settings, redis: Redis) -> None:
    """A caller has one limit, whichever process he reaches."""
    caller = uuid4().hex
    async with _two(settings, redis, max_calls=10) as (mine, theirs):
        waits = [(await each.admit(caller)).wait_ms for _ in range(8) for each in (mine, theirs)]
    assert waits[:10] == [0] * 10
    assert all(0 < wait <= HOUR_MS / 10 for wait in waits[10:])


async def test_the_window_moves_on(redis: Redis) -> None:
    """Who waits as long as he was told passes."""
    caller = uuid4().hex
    async with _limiter(redis, max_calls=2, window_ms=200) as limiter:
        while not (wait_ms := (await limiter.admit(caller)).wait_ms):
            pass
        await asyncio.sleep(wait_ms / 1000)
        assert (await limiter.admit(caller)).wait_ms == 0


async def test_a_redis_that_forgot_the_script_is_given_it(own_house: House) -> None:
    """Nobody is let in for that, and nobody is counted twice."""
    caller = uuid4().hex
    async with _limiter(own_house.redis, max_calls=5) as limiter:
        for expected in (4, 3, 2):
            assert (await limiter.admit(caller)).remaining == expected
            await own_house.redis.script_flush()


async def test_each_is_told_what_is_left(redis: Redis) -> None:
    """Calls of one batch count down to none; each hears when his limit is whole again."""
    caller = uuid4().hex
    async with _limiter(redis, max_calls=5) as limiter:
        made = await asyncio.gather(*[limiter.admit(caller) for _ in range(6)])
    assert [allowance.remaining for allowance in made] == [4, 3, 2, 1, 0, 0]
    assert {allowance.reset_ms for allowance in made} == {HOUR_MS}
    assert [allowance.wait_ms > 0 for allowance in made] == [False] * 5 + [True]


async def test_who_is_no_task_is_told_as_a_task_is(redis: Redis) -> None:
    """In the same batch, in the order in which they came."""
    caller, told = uuid4().hex, list[Allowance]()
    async with _limiter(redis, max_calls=2) as limiter:
        limiter.ask(caller, told.append)
        second = asyncio.create_task(limiter.admit(caller))
        await asyncio.sleep(0)
        limiter.ask(caller, told.append)
        assert told == []
        assert (await second).remaining == 0
    assert [(each.wait_ms > 0, each.remaining) for each in told] == [(False, 1), (True, 0)]
    assert limiter.queued == 0


async def test_who_is_no_task_is_told_without_redis(nowhere: Redis) -> None:
    """By this process alone."""
    caller, told = uuid4().hex, list[Allowance]()
    async with _limiter(nowhere, max_calls=2) as limiter:
        for _ in range(3):
            limiter.ask(caller, told.append)
        await limiter.admit(uuid4().hex)
    assert [(each.wait_ms > 0, each.remaining) for each in told] == [
        (False, 1),
        (False, 0),
        (True, 0),
    ]


async def test_who_leaves_before_his_answer_harms_nobody(redis: Redis) -> None:
    """A task that is cancelled is counted, and the others of its batch are told."""
    caller = uuid4().hex
    async with _limiter(redis, max_calls=5) as limiter:
        gone, stays = (asyncio.create_task(limiter.admit(caller)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).remaining == 3
    assert gone.cancelled()


@pytest.mark.parametrize("more", [[], [1, 0, 7, 1000]])
async def test_a_reply_that_is_not_understood_counts_nobody_twice(more: list[int]) -> None:
    """Each is told once: by this process alone, as without Redis."""
    told = list[Allowance]()

    class Nowhere:
        def arrive(self, _lane: Limiter) -> None:
            """See ``Road``."""

    limiter = Limiter(cast("Road", Nowhere()), max_calls=5, window_ms=HOUR_MS)
    for caller in ("ann", "ben", "eve"):
        limiter.ask(caller, told.append)
    (call,) = limiter.take()
    with pytest.raises(ValueError, match="zip"):
        call.resolve([1, 0, 9, 1000, 1, 0, 8, 1000, *more * 2])
    (unanswered,) = call.answers
    unanswered.set_exception(RedisAway("the answer of Redis was not understood"))
    assert [each.remaining for each in told] == [4, 4, 4]


async def _told(limiter: Limiter, caller: str, calls: int) -> list[Allowance]:
    """What so many calls of a caller hear before anything is sent."""
    told = list[Allowance]()
    for _ in range(calls):
        limiter.ask(caller, told.append)
    return told


async def test_who_has_plenty_left_is_let_in_ahead(redis: Redis) -> None:
    """A sixteenth of what he had left; each is counted with the next write, and once."""
    caller = uuid4().hex
    async with _limiter(redis, max_calls=33) as limiter:
        assert await _told(limiter, caller, 3) == []  # nothing is known of him
        assert (await limiter.admit(caller)).remaining == 29
        told = await _told(limiter, caller, 10)
        assert [(each.wait_ms, each.remaining) for each in told] == [(0, 28)]
        assert (await limiter.admit(caller)).remaining == 18


async def test_who_is_let_in_ahead_is_counted_though_nobody_follows(
    settings: Settings, redis: Redis
) -> None:
    """Other processes learn of him."""
    caller = uuid4().hex
    async with _two(settings, redis, max_calls=33) as (mine, theirs):
        await mine.admit(caller)
        assert len(await _told(mine, caller, 1)) == 1
        async with asyncio.timeout(10):
            while mine.queued:  # noqa: ASYNC110 - a timer
                await asyncio.sleep(0)
        await mine.admit(uuid4().hex)  # after it, on the same road
        assert (await theirs.admit(caller)).remaining == 30


async def test_who_was_heard_of_long_ago_waits(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have called under his name since."""
    caller = uuid4().hex
    async with _limiter(redis, max_calls=1000) as limiter:
        await limiter.admit(caller)
        monkeypatch.setattr(limiter_module, "MOMENT_S", -1.0)
        assert await _told(limiter, caller, 1) == []


async def test_what_is_on_its_way_is_ahead_too(redis: Redis) -> None:
    """What was sent and not answered counts against the sixteenth."""
    caller = uuid4().hex
    async with _limiter(redis, max_calls=33) as limiter:
        await limiter.admit(caller)
        assert len(await _told(limiter, caller, 5)) == 2
        sent = limiter.take()
        assert len(sent) == 1
        assert await _told(limiter, caller, 1) == []


@pytest.mark.parametrize("used_by_others", [0, 1000])
async def test_more_pass_than_may_only_as_many_as_are_ahead(
    settings: Settings, redis: Redis, used_by_others: int
) -> None:
    """If others use up all the rest in that moment; whoever comes after that is refused."""
    caller = uuid4().hex
    async with _two(settings, redis, max_calls=1000) as (mine, theirs):
        await mine.admit(caller)
        await asyncio.gather(*(theirs.admit(caller) for _ in range(used_by_others)))
        made = await asyncio.gather(*(mine.admit(caller) for _ in range(1000)))
    passed = [allowance.wait_ms for allowance in made].count(0)
    assert passed <= 999 - min(999, used_by_others) + 999 // AHEAD
    assert passed >= 999 - used_by_others
    assert made[-1].wait_ms > 0


async def test_who_is_ahead_when_redis_goes_is_counted_alone(nowhere: Redis) -> None:
    """This process remembers him."""
    caller = uuid4().hex
    async with _limiter(nowhere, max_calls=100) as limiter:
        limiter._tab(caller).hear(99, 1000, asyncio.get_running_loop().time())  # noqa: SLF001
        assert len(await _told(limiter, caller, 10)) == 6
        assert (await limiter.admit(caller)).remaining == 89


async def test_without_redis_each_is_told_as_well(nowhere: Redis) -> None:
    """What this process alone knows."""
    caller = uuid4().hex
    async with _limiter(nowhere, max_calls=5) as limiter:
        made = [await limiter.admit(caller) for _ in range(6)]
    assert [allowance.remaining for allowance in made] == [4, 3, 2, 1, 0, 0]
    assert 0 < made[0].reset_ms <= HOUR_MS / 5 + 1
    assert [allowance.wait_ms > 0 for allowance in made] == [False] * 5 + [True]


class Named:
    """A verifier that knows a caller by the name that he says."""

    def caller(self, token: bytes) -> Caller:
        """See ``Verifier``."""
        return Caller(token.decode(), frozenset(Permission))


@asynccontextmanager
async def _limited(settings: Settings, max_calls: int) -> AsyncIterator[Callable[..., AsyncClient]]:
    """Clients of an API with a limit, each from an address of his own."""
    limited = settings.model_copy(
        update={"rate_limit_max": max_calls, "rate_limit_time_window": HOUR_MS}
    )
    engine = await Engine.open(limited)

    def client(verifier: Verifier | None = None, **more: Any) -> AsyncClient:
        app = routes.build(engine, wait_ms=0, rate_limit=max_calls, verifier=verifier)
        transport = ASGITransport(app=Described(app), client=(uuid4().hex, 1))
        return AsyncClient(transport=transport, base_url="http://onsale", **more)

    try:
        yield client
    finally:
        await engine.close()


async def test_http_says_when_to_come_again(settings: Settings) -> None:
    """The call after the last one is a 429 with Retry-After; other paths are not counted."""
    async with _limited(settings, 2) as client_of, client_of() as client:
        answers = [await client.get("/api/bookings/1") for _ in range(3)]
        other = await client.get("/health")
    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert answers[2].json()["code"] == "rate_limited"
    assert answers[2].headers.get_list("retry-after") == ["1800"]
    assert [answer.headers["x-ratelimit-limit"] for answer in answers] == ["2"] * 3
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert [answer.headers["x-ratelimit-reset"] for answer in answers] == ["1800", "3600", "3600"]
    assert other.status_code == 200
    assert not [name for name in other.headers if name.startswith("x-ratelimit")]


async def test_every_answer_below_api_says_what_is_left(settings: Settings) -> None:
    """Whatever it is; and what is shared by all answers is not marked with one caller's."""
    asked = [
        ("GET", "/api/events/2147483647", 404),
        ("GET", "/api/events/0", 400),
        ("GET", "/api/nothing", 404),
        ("PUT", "/api/events/1", 405),
        ("OPTIONS", "/api/events/1", 204),
        ("POST", "/api/bookings/reserve", 415),
    ]
    async with _limited(settings, 100) as client_of, client_of() as client, client_of() as other:
        for method, path, status in asked:
            assert (await other.request(method, path)).status_code == status
        for used, (method, path, status) in enumerate(asked, 1):
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert answer.headers.get_list("x-ratelimit-remaining") == [str(100 - used)]


async def test_a_caller_is_who_he_says(settings: Settings) -> None:
    """A key or a user has one limit from wherever he calls; a stranger that of his address."""
    name = uuid4().hex
    async with _limited(settings, 2) as client_of:
        statuses = []
        for who in (name, name, name, f"other {name}"):
            headers = {"authorization": f"Bearer {who.replace(' ', '-')}"}
            async with client_of(Named(), headers=headers) as client:
                statuses.append((await client.get("/api/bookings/1")).status_code)
        async with client_of(Named()) as stranger:
            strange = [(await stranger.get("/api/bookings/1")).status_code for _ in range(3)]
    assert statuses == [404, 404, 429, 404]
    assert strange == [401, 401, 429]
