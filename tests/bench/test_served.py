"""Contenders are served as our own API is: the same server with the same settings."""

from __future__ import annotations

import ast
from inspect import signature

from api.protocol import Protocol
from bench.contenders.serve import serve
from bench.speed.contender import CONTENDERS, ONSALE
from tests.tidy.sources import ROOT, tree

ASKED_FOR = {"factory"}  # our API is built by the server; a contender is handed to it


def settings_of(path: str) -> dict[str, str]:
    """The keywords with which a module configures uvicorn, as they are written."""
    for node in ast.walk(tree(ROOT / path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Config":
            return {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
    raise AssertionError(f"{path} does not configure uvicorn")


def test_uvicorn_has_the_same_settings() -> None:
    """But for the number of processes, which is one for everybody."""
    ours, theirs = settings_of("api/__main__.py"), settings_of("bench/contenders/serve.py")
    assert theirs["workers"] == "1"
    assert theirs["http"] == "protocol"
    assert signature(serve).parameters["protocol"].default is Protocol
    assert {**theirs, "workers": ours["workers"], "http": ours["http"]} == {
        name: value for name, value in ours.items() if name not in ASKED_FOR
    }


def test_the_garbage_collector_is_calmed_for_all() -> None:
    """Every contender that serves does what our API does after its start."""
    for contender in CONTENDERS:
        if contender is not ONSALE:
            text = (ROOT / f"{contender.api.replace('.', '/')}.py").read_text(encoding="utf-8")
            assert "Face(" in text or "calm_the_garbage_collector()" in text
    face = (ROOT / "bench/contenders/face.py").read_text(encoding="utf-8")
    assert "calm_the_garbage_collector()" in face
