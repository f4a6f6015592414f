"""The Lua scripts answer and leave what their headers say, in any order and under any hand.

A hypothesis machine calls the real scripts, of this epoch and of the one before, on a real Redis,
and after each call compares the answer and every key of the partition with ``oracle.py``.

The repair of an event whose seats do not add up is left to tests/lua.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import NoScriptError

from engine import keys, model
from engine.embedded import RedisServer
from engine.idempotency import DAY_S
from engine.model import ALWAYS, MAX_MS, Number, Window
from engine.scripts import Change, Scripts, source
from tests.model.oracle import Entry, Event, Grant, Oracle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.scripts import Command

PARTITION = 5
EVENTS = (17, 22)
PLENTY = 1_000_000
LEASE_MS = 3_600_000

events = st.sampled_from(EVENTS)
users = st.sampled_from(["ann", "bob", "cem", 'дан "/\\ 😀', "a|b"])
requests = st.sampled_from(["", "r", "r", "s"])
slack = st.sampled_from([PLENTY] * 4 + [0, 1])
"""How much more than it owes the outbox may owe."""
tokens = st.sampled_from(["t1", "t2"])
ages = st.sampled_from([0] * 7 + [1])
totals = st.integers(0, 4)
numbers = st.builds("{}-{}".format, st.integers(1, 2), st.integers(1, 6))
windows = st.sampled_from([ALWAYS, ALWAYS, Window(0, MAX_MS), Window(MAX_MS), Window(None, 1)])
names = st.sampled_from(["", "Дядя Ваня"])
changes = st.lists(
    st.builds(
        Change,
        users,
        st.sampled_from(["own", "own", None, "1-1"]),
        st.none() | numbers.map(Number.parse),
    ),
    max_size=3,
)
junk = st.sampled_from(["", "x", "2", "junk x", "1-1|g"])


class Sale(RuleBasedStateMachine):
    """One partition in Redis, and in the oracle."""

    redis: Any

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.redis.script_flush()
        master = self.redis.info("replication")["master_replid"]
        self.oracle = Oracle(master, events={event: Event() for event in EVENTS})
        self.epoch = 0
        self.loaded: dict[int, Scripts] = {}
        self.recover()
        self.hydrate(EVENTS[0], 3, {})

    # Calling

    def known(self, age: int) -> Scripts:
        """The scripts of the epoch that was begun last, or of the one before."""
        return Scripts(PARTITION, max(1, self.epoch - age))

    def play(
        self,
        scripts: Scripts,
        command: Command,
        oracle: Callable[[int], object],
        *,
        seen: Callable[[Any], object] = lambda answer: answer,
    ) -> object:
        """Call a script and the oracle, see that they say the same, and answer it.

        None if Redis does not have the script.
        """
        if scripts.epoch not in self.loaded:
            with pytest.raises(NoScriptError):
                self.redis.execute_command(*command)
            return None
        answer, expected = _text(self.redis.execute_command(*command)), oracle(scripts.epoch)
        assert (answer if isinstance(answer, str) else seen(answer)) == expected
        return expected

    def run(self, name: str, *args: str | int) -> Any:
        """Run a script that is not fenced."""
        log, outbox = keys.log(PARTITION), keys.outbox(PARTITION)
        named = (log,) if name == "advance" else (log, outbox)
        return _text(self.redis.eval(source(name), len(named), *named, *args))

    def adds_up(self, event: int) -> None:
        """After what was accepted: left + users = total."""
        total, left = self.redis.hmget(keys.event(PARTITION, event), "total", "left")
        held = self.redis.hlen(keys.users(PARTITION, event))
        assert int(left or 0) + held == int(total or 0)

    # Recovery

    def advance(self) -> None:
        """An epoch is fenced off."""
        self.epoch += 1
        assert self.run("advance", self.epoch) == self.oracle.advance(self.epoch)

    @rule()
    def recover(self) -> None:
        """A recovery, whole."""
        self.advance()
        assert self.run("open", self.epoch) == self.oracle.open(self.epoch)
        self.loaded[self.epoch] = Scripts(PARTITION, self.epoch)
        for text in self.loaded[self.epoch].texts.values():
            self.redis.script_load(text)

    def mend(self, event: int, answer: object) -> bool:
        """Do what the engine does before it asks again; whether there was anything to do."""
        if answer is None or answer == "fenced":
            self.recover()
        elif answer == "dirty":
            self.close(event, 0)
        elif answer == "cold":
            self.hydrate(event, 3, {"cem": "0-1"})
        else:
            return False
        return True

    # The sale

    @rule(
        event=events,
        asks=st.lists(st.builds(Grant, users, requests), min_size=1, max_size=4),
        slack=slack,
        age=ages,
    )
    def reserve(self, event: int, asks: list[Grant], slack: int, age: int) -> None:
        """A micro-batch; a user may be in it twice."""
        bound = self.oracle.owed + slack
        scripts, (names, under) = self.known(age), zip(*asks, strict=True)
        times = []

        def untimed(answer: list[Any]) -> list[Any]:
            times.append(answer[0])
            return answer[1:]

        answer = self.play(
            scripts,
            scripts.reserve(event, names, under, bound=bound),
            lambda epoch: self.oracle.reserve(epoch, event, asks, bound),
            seen=untimed,
        )
        if isinstance(answer, list) and any(isinstance(part, int) for part in answer):
            ((_, fields),) = self.redis.xrevrange(keys.outbox(PARTITION), count=1)
            assert [int(fields[b"at"])] == times
            self.adds_up(event)
        if not age and self.mend(event, answer):
            self.reserve(event, asks, slack, age)

    @rule(
        event=events,
        user=users,
        booking=st.sampled_from(["own"] * 3 + ["1-1"]),
        slack=slack,
        age=ages,
    )
    def cancel(self, event: int, user: str, booking: str, slack: int, age: int) -> None:
        """A booking that somebody holds, or another."""
        bound = self.oracle.owed + slack
        held = self.oracle.events[event].users
        if booking == "own":
            user = user if user in held else min(held, default=user)
            booking = str(Number.held(held.get(user, "")))
        scripts = self.known(age)
        command = scripts.cancel(event, user, Number.parse(booking), bound=bound)
        answer = self.play(
            scripts,
            command,
            lambda epoch: self.oracle.cancel(epoch, event, user, booking, bound),
        )
        if isinstance(answer, int):
            self.adds_up(event)
        if not age:
            self.mend(event, answer)

    @rule(event=events, user=users | st.just(""), age=ages)
    def look(self, event: int, user: str, age: int) -> None:
        """Seats, and what somebody holds."""
        scripts = self.known(age)
        command = scripts.look(event, user)
        self.play(scripts, command, lambda epoch: self.oracle.look(epoch, event, user))

    @rule(number=numbers, age=ages)
    def find(self, number: str, age: int) -> None:
        """An entry, by a number in it."""
        scripts, wanted = self.known(age), Number.parse(number)
        self.play(
            scripts,
            scripts.find(wanted),
            lambda epoch: self.oracle.find(epoch, wanted),
            seen=lambda answer: [answer[0], *(_flat(*entry) for entry in answer[1:])],
        )

    # Hydration

    @rule(event=events, age=ages)
    def close(self, event: int, age: int) -> None:
        """The event is cold."""
        scripts = self.known(age)
        command = scripts.close(event)
        self.play(scripts, command, lambda epoch: self.oracle.close(epoch, event))

    @rule(event=events, token=tokens, age=ages)
    def lease(self, event: int, token: str, age: int) -> None:
        """Somebody begins to load."""
        scripts = self.known(age)
        command = scripts.lease(event, token, lease_ms=LEASE_MS)
        self.play(scripts, command, lambda epoch: self.oracle.lease(epoch, event, token))

    @rule(
        event=events,
        token=tokens,
        rows=st.dictionaries(users, numbers, min_size=1, max_size=3),
        age=ages,
    )
    def stage(self, event: int, token: str, rows: dict[str, str], age: int) -> None:
        """A page of rows."""
        scripts = self.known(age)
        command = scripts.stage(event, token, rows.items(), lease_ms=LEASE_MS)
        self.play(scripts, command, lambda epoch: self.oracle.stage(epoch, event, token, rows))

    @rule(
        event=st.builds(model.Event, events, st.just("Чайка"), totals, windows),
        token=tokens,
        missing=st.sampled_from([0, 0, 0, 1]),
        age=ages,
    )
    def install(self, event: model.Event, token: str, missing: int, age: int) -> None:
        """The event is opened, unless the lease is gone or a page is missing."""
        scripts = self.known(age)
        staged = len(self.oracle.events[event.id].staging) + missing
        answer = self.play(
            scripts,
            scripts.install(event, token, staged=staged),
            lambda epoch: self.oracle.install(epoch, event, token, staged),
        )
        if answer == "installed":
            self.adds_up(event.id)

    @rule(event=events, total=totals, rows=st.dictionaries(users, numbers, max_size=3))
    def hydrate(self, event: int, total: int, rows: dict[str, str]) -> None:
        """A hydration, whole; at first it believes that there was one row more."""
        self.close(event, 0)
        self.lease(event, "t1", 0)
        if rows:
            self.stage(event, "t1", rows, 0)
        for missing in (1, 0):
            self.install(model.Event(event, "Чайка", total), "t1", missing, 0)

    @rule(event=events, rows=st.dictionaries(users, numbers, min_size=1, max_size=3))
    def hydration_dies(self, event: int, rows: dict[str, str]) -> None:
        """Its lease expires, what it staged is still there."""
        self.close(event, 0)
        self.lease(event, "t2", 0)
        self.stage(event, "t2", rows, 0)
        self.hand_deletes(event, "lease")

    # What follows the ledger

    @rule(
        event=events,
        changes=changes,
        total=st.none() | totals,
        name=names,
        window=st.none() | windows,
        age=ages,
    )
    def repair(
        self,
        event: int,
        changes: list[Change],
        total: int | None,
        name: str,
        window: Window | None,
        age: int,
    ) -> None:
        """Users by compare-and-set, total, name, window."""
        scripts, now = self.known(age), self.oracle.events[event]
        if not now.cold(scripts.epoch) and now.dirty:
            return
        changes = [
            change._replace(expected=now.users.get(change.user_id, ""))
            if change.expected == "own"
            else change
            for change in changes
        ]
        answer = self.play(
            scripts,
            scripts.repair(event, changes, total=total, name=name, window=window),
            lambda epoch: self.oracle.repair(epoch, event, changes, total, name, window),
        )
        if isinstance(answer, int):
            self.adds_up(event)

    @rule(seq=st.integers(0, 12), tail=st.sampled_from([0, 2, PLENTY]), age=ages)
    def acknowledge(self, seq: int, tail: int, age: int) -> None:
        """The ledger has a number."""
        scripts = self.known(age)
        command = scripts.acknowledge(seq, tail=tail)
        self.play(scripts, command, lambda epoch: self.oracle.acknowledge(epoch, seq, tail))

    # What goes wrong

    @rule(what=st.sampled_from(["epoch", "seq", "acked", "master"]))
    def hand_in_log(self, what: str) -> None:
        """HDEL a part of the log, or another master's name, as a resynchronisation leaves it."""
        if what == "master":
            self.redis.hset(keys.log(PARTITION), "master", "f" * 40)
            self.oracle.log["master"] = "f" * 40
        else:
            self.redis.hdel(keys.log(PARTITION), what)
            self.oracle.log.pop(what, None)

    @rule(kept=st.none() | st.integers(0, 3))
    def hand_in_outbox(self, kept: int | None) -> None:
        """XTRIM, or DEL."""
        if kept is None or self.oracle.outbox is None:
            self.redis.delete(keys.outbox(PARTITION))
            self.oracle.outbox, self.oracle.last = None, Number(0, 0)
        else:
            self.redis.xtrim(keys.outbox(PARTITION), maxlen=kept, approximate=False)
            outbox = self.oracle.outbox
            self.oracle.outbox = outbox[max(0, len(outbox) - kept) :]

    @rule(ahead=st.integers(0, 2))
    def hand_in_stream(self, ahead: int) -> None:
        """XADD under a number that is yet to come."""
        number = Number(self.epoch + ahead, 7)
        if number > self.oracle.last:
            self.redis.xadd(keys.outbox(PARTITION), {"kind": "open"}, str(number))
            entry = Entry(number, "open")
            self.oracle.outbox = [*(self.oracle.outbox or []), entry]
            self.oracle.last = number

    @rule(event=events, what=st.sampled_from(["event", "users", "lease", "staging"]))
    def hand_deletes(self, event: int, what: str) -> None:
        """DEL one key of an event."""
        self.redis.delete(getattr(keys, what)(PARTITION, event))
        held = self.oracle.events[event]
        if what == "event":
            held.fields = {}
        else:
            setattr(held, what, None if what == "lease" else {})

    @rule(event=events, user=users, junk=junk, part=st.sampled_from(["total", "left", "user"]))
    def hand_sets(self, event: int, user: str, junk: str, part: str) -> None:
        """HSET what no script writes; with a user, the seats add up."""
        held, key = self.oracle.events[event], keys.event(PARTITION, event)
        left = held.seats[1]
        if part != "user":
            self.redis.hset(key, part, junk)
            held.fields[part] = junk
        elif user not in held.users and left is not None:
            self.redis.hset(keys.users(PARTITION, event), user, junk)
            self.redis.hset(key, "left", left - 1)
            held.users[user] = junk
            held.fields["left"] = str(left - 1)

    @rule(request=st.sampled_from(["r", "s"]), junk=st.none() | junk)
    def hand_in_records(self, request: str, junk: str | None) -> None:
        """DEL, as when it expires, or SET what no script writes."""
        key = keys.record(PARTITION, request)
        if junk is None:
            self.redis.delete(key)
            self.oracle.records.pop(request, None)
        else:
            self.redis.set(key, junk, ex=DAY_S)
            self.oracle.records[request] = junk

    @rule(what=st.sampled_from(["restart", "advance", "straggle"]), behind=st.integers(0, 2))
    def recovery_fails(self, what: str, behind: int) -> None:
        """Redis has no scripts; or somebody dies in a recovery; or was overtaken, and goes on."""
        if what == "restart":
            self.redis.script_flush()
            self.loaded.clear()
        elif what == "advance":
            self.advance()
        elif epoch := max(0, self.epoch - behind):
            assert self.run("advance", epoch) == self.oracle.advance(epoch)
            if epoch < self.epoch:
                assert self.run("open", epoch) == self.oracle.open(epoch)

    # After every step

    @invariant()
    def every_key_is_the_oracles(self) -> None:
        """And there is no other."""
        assert self._kept() == self._expected()

    @invariant()
    def numbers_are_contiguous(self) -> None:
        """Within an epoch, each entry begins where the one before ended."""
        entries = self.oracle.outbox or []
        for before, entry in pairwise(entries):
            if before.id.epoch == entry.id.epoch and entry.users:
                assert entry.id.seq == before.id.seq + len(entry.users)

    def _expected(self) -> dict[str, object]:
        oracle = self.oracle
        kept: dict[str, object] = {keys.log(PARTITION): oracle.log}
        for number, event in oracle.events.items():
            kept[keys.event(PARTITION, number)] = event.fields
            kept[keys.users(PARTITION, number)] = event.users
            kept[keys.lease(PARTITION, number)] = event.lease
            kept[keys.staging(PARTITION, number)] = event.staging
        there = {key: value for key, value in kept.items() if value}
        for request, number in oracle.records.items():
            there[keys.record(PARTITION, request)] = number
        if oracle.outbox is not None:
            there[keys.outbox(PARTITION)] = oracle.outbox
        return there

    def _kept(self) -> dict[str, object]:
        kept: dict[str, object] = {}
        for key in map(_text, self.redis.keys()):
            if key == keys.outbox(PARTITION):
                found = self.redis.xrange(key)
                kept[key] = [_entry(_text(entry), _text(fields)) for entry, fields in found]
            elif key.endswith(":lease") or ":record:" in key:
                kept[key] = _text(self.redis.get(key))
            else:
                kept[key] = _text(self.redis.hgetall(key))
            lasts = self.redis.pttl(key) == -1
            assert lasts != (key.endswith((":lease", ":staging")) or ":record:" in key)
        return kept


def _entry(entry: str, fields: dict[str, str]) -> Entry:
    kind = fields["kind"]
    if kind == "open":
        return Entry(Number.parse(entry), kind)
    told = tuple(json.loads(fields["users"]))
    number, event = Number.parse(entry), int(fields["event"])
    return Entry(number, kind, event, told, fields.get("booking", ""))


def _flat(entry: str, fields: list[str]) -> Entry:
    """As a script passes an entry on."""
    return _entry(entry, dict(zip(fields[::2], fields[1::2], strict=True)))


def _text(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list | tuple):
        return [_text(part) for part in reply]
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    return reply


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A Redis of this file's own, whose streams are trimmed to the entry."""
    folder = tmp_path_factory.mktemp("redis")
    exact = {"stream-node-max-entries": "1"}
    with RedisServer(folder, settings=exact) as server, redis.Redis.from_url(server.url) as client:
        yield client


def test_scripts_do_what_the_oracle_does(client: redis.Redis) -> None:
    """Every answer, and every key after it."""
    run_state_machine_as_test(
        type("SaleHere", (Sale,), {"redis": client}),
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
