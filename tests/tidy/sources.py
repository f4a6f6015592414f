"""The project's files as the rules see them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LUA = sorted((ROOT / "lua").glob("*.lua"))
PYTHON = sorted(
    path for folder in ("engine", "api", "worker") for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    """``engine/keys.py``."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """A module, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def strings(path: Path) -> Iterator[str]:
    """The strings of a module, also the fixed parts of f-strings; without docstrings."""
    docs = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and id(node) not in docs:
            if isinstance(node.value, str):
                yield node.value
            elif isinstance(node.value, bytes):
                yield node.value.decode("latin-1")


def where(pattern: str, files: list[Path]) -> set[tuple[str, str]]:
    """Each string that a pattern is found in, with its file."""
    found = re.compile(pattern)
    return {(name_of(path), text) for path in files for text in strings(path) if found.search(text)}


class Script:
    """A Lua script in its parts: header and code."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.lines = path.read_text(encoding="utf-8").splitlines()
        end = next(i for i, line in enumerate(self.lines[1:], 1) if not line.startswith("--"))
        self.header = "\n".join(line[3:] for line in self.lines[1:end])
        self.code = "\n".join(line.partition("--")[0].rstrip() for line in self.lines[end:])
        self.paragraphs = re.findall(r"^-- (\w+)", "\n".join(self.lines[end:]), re.MULTILINE)

    @property
    def answers(self) -> str:
        """What the header says of answers."""
        return self.header[self.header.index("Answers") : self.header.index("EVALSHA")]

    @property
    def worked_call(self) -> str:
        """The call at the header's end, in one line."""
        return " ".join(self.header[self.header.index("EVALSHA") :].split())
