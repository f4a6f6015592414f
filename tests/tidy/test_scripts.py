"""Every script's header says what its code does, and every script keeps to the same order."""

from __future__ import annotations

import re

import pytest

from engine import keys
from engine.scripts import FENCED
from tests.tidy.sources import LUA, ROOT, Script

SCRIPTS = [Script(path) for path in LUA]
WRITES = (
    "DEL HDEL HINCRBY HSET PERSIST PEXPIRE RENAME SET UNLINK XADD XTRIM".split()  # noqa: SIM905
)
READS = "EXISTS GET HGET HLEN HMGET INFO MGET TIME XRANGE".split()  # noqa: SIM905
TYPES = {"hash", "stream", "string"}

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)


def _count(script: Script, what: str) -> str:
    """What the code asserts of #KEYS or #ARGV."""
    (asserted,) = re.findall(r"^assert\((.*)\)$", script.code, re.MULTILINE)
    return next(part for part in asserted.split(" and ") if part.startswith(f"#{what} "))


def _commands(script: Script) -> list[str]:
    return re.findall(r"redis\.p?call\('(\w+)'", script.code)


@every_script
def test_header_begins_with_name_and_purpose(script: Script) -> None:
    """The shebang, then one sentence."""
    assert re.fullmatch(r"#!lua( flags=[a-z-]+(,[a-z-]+)*)?", script.lines[0])
    assert re.match(rf"{script.name}: [^\n]+(\n[^\n]+)?\.\n", script.header)


@every_script
def test_header_says_whether_it_is_fenced(script: Script) -> None:
    """A fenced script says what the loader puts in; another says why not."""
    fenced = "Fenced: the loader puts `local EPOCH = '…'` after the first line" in script.header
    assert fenced == (script.name in FENCED) == ("EPOCH" in script.code)
    assert fenced or "Not fenced" in script.header


@every_script
def test_fits_a_screen(script: Script) -> None:
    """At most 90 lines of 100 columns."""
    assert len(script.lines) <= 90
    assert max(map(len, script.lines)) <= 100


@every_script
def test_header_lists_the_keys(script: Script) -> None:
    """In order, with their types; the code gives them the same names and asserts their count."""
    listed = re.findall(r"^KEYS\[(\w+)\] (\w+) +(\w+) +\S", script.header, re.MULTILINE)
    assert {kind for _, _, kind in listed} <= TYPES
    named = [name for _, name, _ in listed]
    if listed[0][0] == "i":  # one key a caller
        assert _count(script, "KEYS") == "#KEYS >= 1"
        return
    more = re.findall(r"^KEYS\[(\d+) \.\.\] records +string +\S", script.header, re.MULTILINE)
    if more:  # one key a request
        assert more == [str(len(listed) + 1)]
        assert f"{{ unpack(KEYS, {more[0]}) }}" in script.code
    assert [int(place) for place, _, _ in listed] == list(range(1, len(listed) + 1))
    assert _count(script, "KEYS") == f"#KEYS {'>=' if more else '=='} {len(listed)}"
    unpacked = ", ".join(f"KEYS[{i}]" for i in range(1, len(listed) + 1))
    assert f"local {', '.join(named)} = {unpacked}\n" in script.code
    assert script.code.count("KEYS[") == len(listed)


@every_script
def test_header_lists_the_arguments(script: Script) -> None:
    """Up to the count that the code asserts; where it is open, the header says how it goes on."""
    listed = re.findall(r"^ARGV\[(\w+)([^\]]*)\]", script.header, re.MULTILINE)
    operator, count = re.fullmatch(r"#ARGV (==|>=) (.+)", _count(script, "ARGV")).groups()
    fixed = [int(place) for place, more in listed if not more]
    assert fixed == list(range(1, len(fixed) + 1))
    if count.isdigit() and operator == "==":
        assert len(fixed) == len(listed) == int(count)
    else:
        assert any(more for _, more in listed)
        assert max(int(place) for place in re.findall(r"ARGV\[(\d+)\]", script.code)) == len(fixed)


@every_script
def test_header_lists_the_answers(script: Script) -> None:
    """Every word in the header is answered, and every word that is answered is in the header."""
    said = set(re.findall(r'"([a-z_]+)(?: epoch-seq| ms)?"', script.answers))
    statements = re.findall(r"(?:return|answers\[.*?\] =) (.*)", script.code)
    answered = {word for text in statements for word in re.findall(r"'([a-z_]+) ?'", text)}
    assert said == answered


@every_script
def test_header_says_whether_an_answer_writes(script: Script) -> None:
    """Who reads the header knows what is left behind."""
    writes = any(command in WRITES for command in _commands(script))
    promised = "Never writes" if not writes else "rites"
    assert promised in script.header
    assert ("no-writes" in script.lines[0]) == (not writes)


@every_script
def test_worked_call(script: Script) -> None:
    """The example has as many keys as it says, spelled as the engine spells them, and an answer."""
    call, answer = (
        script.worked_call.split("   ->   ")
        if "   ->   " in script.worked_call
        else (script.worked_call.split(" -> "))
    )
    _, sha, count, *rest = call.split()
    assert sha == "sha"
    spelled = {
        keys.log(1), keys.outbox(1), keys.event(1, 17), keys.users(1, 17), keys.lease(1, 17),
        keys.staging(1, 17), keys.limit("10.0.0.7"),
    }  # fmt: skip
    assert set(rest[: int(count)]) <= spelled
    assert not any(word.startswith("onsale") for word in rest[int(count) :])
    assert int(count) == max(1, len(re.findall(r"^KEYS\[\d+\]", script.header, re.MULTILINE)))
    assert answer


@every_script
def test_builds_no_key(script: Script) -> None:
    """Every key comes from outside: nothing in the code spells one."""
    assert "onsale" not in script.code
    first_arguments = re.findall(r"redis\.p?call\(\s*'\w+', *([^,)]+)", script.code)
    named = {"log", "outbox", "event", "users", "lease", "staging", "caller"}
    named |= {"unpack(records", "record"}  # KEYS[5 ..], and each of them
    assert set(first_arguments) - {"'replication'"} <= named  # what INFO takes is no key


@every_script
def test_knows_its_commands(script: Script) -> None:
    """A command that is new here must be sorted into reads and writes."""
    assert set(_commands(script)) <= {*READS, *WRITES}


@every_script
def test_refuses_before_it_writes(script: Script) -> None:
    """Check all, then write; the one write that may still refuse is the first, and changes nothing.

    ``repair`` is the exception that its header names: a cold event loses its lease.
    """
    code = script.code
    if script.name == "repair":
        code = code.replace("redis.call('DEL', lease)", "")
    writes = [m.start() for m in re.finditer(rf"redis\.call\('({'|'.join(WRITES)})'", code)]
    returns = [m.start() for m in re.finditer(r"\breturn '", code)]
    final = code.rstrip().rindex("return ")
    refusals = [place for place in returns if place != final]
    assert not writes or not refusals or max(refusals) < min(writes)


@every_script
def test_paragraphs_in_order(script: Script) -> None:
    """Name, read, refuse, write, answer."""
    order = ["read", "refuse", "write", "answer"]
    assert [name for name in script.paragraphs if name in order] == [
        name for name in order if name in script.paragraphs
    ]
    assert script.paragraphs[-1] == "answer"


@every_script
def test_readme_has_it(script: Script) -> None:
    """The page beside the scripts has a line for each."""
    assert f"`{script.name}.lua`" in (ROOT / "lua" / "README.md").read_text(encoding="utf-8")
