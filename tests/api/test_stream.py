"""The stream of an event: what is told, how often, and that nobody who listens costs the sale."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
from uvicorn import Config, Server

from api import __main__ as program
from api import routes
from api.protocol import Protocol
from bench.caller import Caller
from engine import watch
from engine.engine import Engine
from engine.errors import Overloaded, RedisAway
from engine.settings import Settings
from tests import world
from tests.conftest import PARTITIONS
from tests.listening import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from httpx2 import AsyncClient

    OpenEvent = Callable[..., Awaitable[int]]

PROMPTLY_S = 5.0


@pytest.fixture
async def caller(live_api: str, stores: world.Stores) -> AsyncIterator[Caller]:
    """Somebody who books; the seats are counted afterwards."""
    async with Caller(live_api) as caller:
        yield caller
    await stores.count_seats()


class TestMessages:
    """What is told."""

    async def test_opening(self, live_api: str, open_event: OpenEvent) -> None:
        """The first message comes at once, and is whole; the browser is told when to come again."""
        event_id = await open_event(3, name="Чайка")
        async with listening(live_api, event_id) as ears:
            told = await ears.next()
        assert ears.status == 200
        assert "content-type: text/event-stream\r\n" in ears.head
        assert "cache-control: no-store" in ears.head
        assert 1000 <= ears.retry_ms <= 3000
        assert told.kind == "availability"
        assert told.data.pop("at").endswith("Z")
        assert told.data == {
            "event": {"id": event_id, "name": "Чайка", "total_seats": 3},
            "available_seats": 3,
            "source": "redis",
            "outbox_depth": 0,
            "confirm_ms": told.data["confirm_ms"],
            "refused": 0,
        }

    async def test_sale(self, live_api: str, open_event: OpenEvent, caller: Caller) -> None:
        """Seats go down, the last one makes it ``sold_out``, and one given back ends that."""
        event_id = await open_event(2)
        async with listening(live_api, event_id) as ears:
            await ears.until(lambda told: told.data["available_seats"] == 2)
            first = await caller.reserve(event_id, "ann")
            one_left = await ears.until(lambda told: told.data["available_seats"] == 1)
            await caller.reserve(event_id, "bob")
            none_left = await ears.until(lambda told: told.data["available_seats"] == 0)
            await caller.reserve(event_id, "cat")
            refused = await ears.until(lambda told: told.data["refused"] == 1)
            await caller.cancel(first.body["id"])
            again = await ears.until(lambda told: told.data["available_seats"] == 1)
        kinds = [each[-1].kind for each in (one_left, none_left, refused, again)]
        assert kinds == ["availability", "sold_out", "sold_out", "availability"]
        assert any(told.data["confirm_ms"] for told in [*one_left, *none_left, *refused])

    @pytest.mark.usefixtures("caller")
    async def test_only_news(self, live_api: str, open_event: OpenEvent) -> None:
        """Nothing is said twice, and never more than ten times a second, however fast it sells."""
        event_id = await open_event(1000)
        async with listening(live_api, event_id) as ears, AsyncExitStack() as hanging_up:
            begun_s = time.monotonic()
            callers = [await hanging_up.enter_async_context(Caller(live_api)) for _ in range(10)]

            async def door(caller: Caller, number: int) -> None:
                for place in range(100):
                    await caller.reserve(event_id, f"{number}-{place}")

            async with asyncio.TaskGroup() as group:
                for number, each in enumerate(callers):
                    group.create_task(door(each, number))
                heard = await ears.until(lambda told: told.kind == "sold_out")
            took_s = time.monotonic() - begun_s
        said = [{**told.data, "at": ""} for told in heard]
        assert all(one != next_ for one, next_ in pairwise(said))
        assert 2 < len(heard) <= 2 + took_s / watch.INTERVAL_S
        ids = [told.id for told in heard]
        assert all(b - a >= 90 for a, b in pairwise(ids)), ids

    async def test_resume(self, live_api: str, open_event: OpenEvent, caller: Caller) -> None:
        """Who comes again gets what he has missed, in order, and the present; never nothing."""
        event_id = await open_event(5)
        async with listening(live_api, event_id) as stays:
            async with listening(live_api, event_id) as ears:
                had = await ears.next()
            for place, user in enumerate(("ann", "bob"), start=1):
                await caller.reserve(event_id, user)
                heard = await stays.until(
                    lambda t, left=5 - place: t.data["available_seats"] == left
                )
            async with listening(live_api, event_id, after=had.id) as ears:
                missed = await ears.until(lambda told: told.id >= heard[-1].id)
            async with listening(live_api, event_id, after=2**50) as ears:
                latest = await ears.next()
        seats = [told.data["available_seats"] for told in missed]
        assert 4 in seats
        assert seats == sorted(seats, reverse=True)
        assert [told.id for told in missed] == sorted({told.id for told in missed})
        assert latest.data["available_seats"] == 3

    async def test_sign_of_life(
        self, live_api: str, open_event: OpenEvent, monkeypatch: pytest.MonkeyPatch, caller: Caller
    ) -> None:
        """While nothing happens there is a comment now and then, and no message."""
        monkeypatch.setattr(watch, "BEAT_S", 0.0)
        event_id = await open_event(5)
        async with listening(live_api, event_id) as ears:
            await ears.next()
            await caller.reserve(event_id, "ann")
            await ears.until(lambda told: told.data["confirm_ms"] is None)
            await world.until(lambda: _hears_a_beat(ears))


async def _hears_a_beat(ears: Any) -> bool:
    before = ears.beats
    waiting = asyncio.create_task(ears.next())
    await asyncio.wait([waiting], timeout=0.3)
    waiting.cancel()
    await asyncio.wait([waiting])
    return ears.beats > before


class TestRefusals:
    """What is no stream."""

    async def test_unknown_event(self, client: AsyncClient) -> None:
        """No such event: 404, as a problem."""
        answer = await client.get(f"/api/events/{2**31 - 1}/stream")
        assert (answer.status_code, answer.json()["code"]) == (404, "event_not_found")

    @pytest.mark.parametrize("written", ["0", "x", "1.0", "01", str(2**31)])
    async def test_malformed_id(self, client: AsyncClient, written: str) -> None:
        """No id: 400, as a problem."""
        answer = await client.get(f"/api/events/{written}/stream")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_id")

    async def test_head(self, client: AsyncClient, open_event: OpenEvent) -> None:
        """HEAD sees whether there is a stream, and ends."""
        answer = await client.head(f"/api/events/{await open_event(1)}/stream")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == "text/event-stream"
        assert (await client.head(f"/api/events/{2**31 - 1}/stream")).status_code == 404

    async def test_too_many(
        self, live_api: str, client: AsyncClient, open_event: OpenEvent, monkeypatch: Any
    ) -> None:
        """Beyond the bound: 503, and when to come again."""
        monkeypatch.setattr(watch, "MAX_LISTENERS", 1)
        event_id = await open_event(1)
        async with listening(live_api, event_id):
            answer = await client.get(f"/api/events/{event_id}/stream")
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")

    @pytest.mark.parametrize("said", ["x", "-1", "1" * 16, "٣", ""])
    async def test_malformed_last_id(self, live_api: str, open_event: OpenEvent, said: str) -> None:
        """An id that is none of ours is as if it were not there."""
        async with listening(live_api, await open_event(1), after=cast("int", said)) as ears:
            assert (await ears.next()).data["available_seats"] == 1


class TestListeners:
    """Who listens costs little, and is let go."""

    async def test_one_look_for_all(
        self, live_api: str, open_event: OpenEvent, engine: Engine, caller: Caller, monkeypatch: Any
    ) -> None:
        """However many listen to an event, it is looked at once, and they are told the same."""
        event_id = await open_event(3)
        looks = list[int]()
        look = engine.watches.look

        async def counted(seen: int) -> Any:
            looks.append(seen)
            return await look(seen)

        monkeypatch.setattr(engine.watches, "look", counted)
        async with AsyncExitStack() as stack:
            ears = [
                await stack.enter_async_context(listening(live_api, event_id)) for _ in range(40)
            ]
            begun_s = time.monotonic()
            await caller.reserve(event_id, "ann")
            heard = await asyncio.gather(
                *(each.until(lambda told: told.data["available_seats"] == 2) for each in ears)
            )
            took_s = time.monotonic() - begun_s
        assert len({each[-1].id for each in heard}) == 1
        assert looks.count(event_id) <= 20 + took_s / watch.INTERVAL_S

    async def test_leaving(self, live_api: str, open_event: OpenEvent, engine: Engine) -> None:
        """Who hangs up is forgotten, and an event that nobody listens to is not looked at."""
        event_id = await open_event(3)
        async with listening(live_api, event_id) as ears:
            await ears.next()
            assert engine.watches.listeners == 1

        async def is_forgotten() -> bool:
            return not engine.watches.listeners and not engine.watches.events

        await world.until(is_forgotten)
        assert all(not lane.refused for lane in engine._lanes)  # noqa: SLF001

    async def test_who_could_not_be_let_in(
        self, engine: Engine, open_event: OpenEvent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is counted for a stream that could not begin."""
        event_id = await open_event(3)
        lane = engine._lanes[event_id % PARTITIONS]  # noqa: SLF001

        async def away() -> int:
            raise RedisAway("away")

        monkeypatch.setattr(lane, "depth", away)
        with pytest.raises(RedisAway):
            await engine.watch(event_id)
        assert event_id not in lane.refused

    async def test_who_does_not_read(
        self, engine: Engine, open_event: OpenEvent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who does not read is kept no messages for, and is dropped; the others are told."""
        monkeypatch.setattr(program, "DROPPED_AFTER_MS", 500)
        monkeypatch.setattr(watch, "BEAT_S", 0.0)
        event_id = await open_event(3)
        with program.listen(Settings(_env_file=None, port=0)) as listener:
            program.drop_the_deaf(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            async with serving(engine, listener) as url:
                port = listener.getsockname()[1]
                with socket.socket() as deaf:
                    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                    deaf.connect(("127.0.0.1", port))
                    deaf.send(b"GET /api/events/%d/stream HTTP/1.1\r\nHost: a\r\n\r\n" % event_id)

                    async def is_heard() -> bool:
                        return engine.watches.listeners == 1

                    async def is_dropped() -> bool:
                        return engine.watches.listeners == 0

                    await world.until(is_heard)
                    await world.until(is_dropped)
                async with listening(url, event_id) as ears:
                    assert (await ears.next()).data["available_seats"] == 3


class serving:  # noqa: N801 - reads as a verb
    """A server on a socket."""

    def __init__(self, engine: Engine, listener: socket.socket) -> None:
        app = routes.build(engine, wait_ms=5000)
        config = Config(app, http=Protocol, ws="none", lifespan="off", log_config=None)
        self._server = Server(config)
        self._listener = listener

    async def __aenter__(self) -> str:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task


class TestEnd:
    """SIGTERM: the streams end at once."""

    async def test_shutdown(self, settings: Settings, open_event: OpenEvent) -> None:
        """The server does not wait for those who listen, and they are told that it ends."""
        event_id = await open_event(3)
        with api_process(settings) as (process, url):
            async with AsyncExitStack() as stack:
                ears = [
                    await stack.enter_async_context(listening(url, event_id)) for _ in range(20)
                ]
                for each in ears:
                    await each.next()
                begun_s = time.monotonic()
                process.send_signal(signal.SIGTERM)
                for each in ears:
                    with pytest.raises(EOFError):
                        await each.next()
                assert await asyncio.to_thread(process.wait, PROMPTLY_S) == 0
            assert time.monotonic() - begun_s < PROMPTLY_S

    async def test_no_stream_begins(self, settings: Settings, open_event: OpenEvent) -> None:
        """Who comes when the end has begun is told to come again."""
        engine = await Engine.open(settings)
        try:
            engine.release_waiters()
            with pytest.raises(Overloaded):
                await engine.watch(await open_event(1))
        finally:
            await engine.close()


@contextmanager
def api_process(settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An API process of its own, on the tests' stores."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        named = world.environment(
            DATABASE_URL=settings.postgres_dsn,
            REDIS_URL=settings.redis_dsn,
            PARTITIONS=str(settings.partitions),
            LISTEN_FD=str(listener.fileno()),
            LOG_LEVEL="error",
            RATE_LIMIT_MAX="0",
        )
        argv = [sys.executable, "-m", "api"]
        with subprocess.Popen(argv, env=named, pass_fds=[listener.fileno()]) as process:
            try:
                yield process, f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                process.kill()
