"""``python -m bench.drill.mutants``: break the product on purpose, and see that the drill notices.

A mutant is one deliberate error: a patch in ``bench/drill/mutants/`` with a header that says what
it is and which faults are likeliest to bring it to light. Each is applied to a copy of the tree,
and the drill is run there until a promise is broken. A mutant that lives says that the drill is
blind to such an error, or that another mechanism makes it harmless: then its header says which, and
which test kills it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.drill.rounds import Result
from engine.embedded import find_redis_server

if TYPE_CHECKING:
    from bench.drill.record import Violation

ROOT: Final = Path(__file__).parents[2]
MUTANTS: Final = Path(__file__).parent / "mutants"
FOLDERS: Final = ("engine", "api", "worker", "lua", "bench")
FIELDS: Final = ("Name", "What", "Faults", "Needs", "Survives")
LIVES: Final = 1
WIDTH: Final = 120
LAST_WORDS: Final = 400

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class Mutant(NamedTuple):
    """A deliberate error.

    ``needs`` is the server that it takes ("redis 7.0", or "" for any); ``survives`` why it is
    harmless, or "" where the drill must notice it.
    """

    name: str
    patch: Path
    what: str
    faults: str
    needs: str
    survives: str


class Verdict(msgspec.Struct, frozen=True):
    """What the drill said of a mutant.

    ``rounds`` is how many were played, in the last of which, with this ``seed``, the ``violations``
    were found, if any were. ``trouble`` is why nothing can be said.
    """

    name: str
    what: str
    survives: str
    rounds: int = 0
    seed: int = 0
    faults: list[str] = []
    violations: list[Violation] = []
    trouble: str = ""

    @property
    def fate(self) -> str:
        """In a few words."""
        if self.trouble:
            return "not tried"
        if self.violations:
            return f"killed in round {self.rounds} (seed {self.seed})"
        return f"survived {self.rounds} rounds"

    @property
    def by(self) -> str:
        """The promises that were broken, each once."""
        return ", ".join(map(str, sorted({each.invariant for each in self.violations})))

    @property
    def reason(self) -> str:
        """How the first promise was broken, or why none was."""
        return self.violations[0].sentence if self.violations else self.trouble or self.survives

    @property
    def is_unexpected(self) -> bool:
        """Whether it lives, and nobody knows why."""
        return not self.violations and not self.trouble and not self.survives


@app.command()
def mutants(
    names: Annotated[list[str] | None, typer.Argument(help="Of mutants; all if none.")] = None,
    *,
    rounds: Annotated[int, typer.Option(min=1, help="For each mutant, at most.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the first round; each later one adds 1.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Mutants at a time.")] = 1,
    results: Annotated[Path | None, typer.Option(help="File for the results, as JSON.")] = None,
) -> None:
    """Run the drill on each mutant until it breaks a promise.

    Exits with 0: each was noticed, or is known to be harmless; 1: one lived.
    """
    all_of_them = {each.name: each for each in read_all()}
    if unknown := set(names or ()) - set(all_of_them):
        raise typer.BadParameter(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [all_of_them[name] for name in names or all_of_them]
    verdicts = []
    with ThreadPoolExecutor(jobs) as pool:
        for verdict in pool.map(partial(try_out, rounds=rounds, seed=seed), chosen):
            typer.echo(f"{verdict.name}: {verdict.fate} {verdict.by}", err=True)
            verdicts.append(verdict)
            if results:
                results.write_bytes(msgspec.json.format(msgspec.json.encode(verdicts)))
    show(verdicts)
    raise typer.Exit(LIVES if any(each.is_unexpected for each in verdicts) else 0)


def read_all() -> list[Mutant]:
    """Every mutant, by name."""
    return [read(path) for path in sorted(MUTANTS.glob("*.patch"))]


def read(path: Path) -> Mutant:
    """A mutant from its patch, whose header is what stands before the first ``diff``.

    Raises:
        ValueError, KeyError: the header is not whole.
    """
    header = path.read_text(encoding="utf-8").partition("\ndiff --git ")[0].strip()
    fields = dict(line.split(": ", 1) for line in header.splitlines())
    if unknown := set(fields) - set(FIELDS):
        raise ValueError(f"{path.name}: {', '.join(sorted(unknown))}")
    name, what, faults = (fields[field] for field in FIELDS[:3])
    return Mutant(name, path, what, faults, fields.get("Needs", ""), fields.get("Survives", ""))


def plant(mutant: Mutant, folder: Path) -> None:
    """Make a copy of the tree with the error in it.

    Raises:
        subprocess.CalledProcessError: the patch does not apply; stderr says where.
    """
    for name in FOLDERS:
        copytree(ROOT / name, folder / name, ignore=ignore_patterns("__pycache__"))
    copy(ROOT / "pyproject.toml", folder)
    # A repository around the folder would make git take the paths for its own.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    alone["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    argv = ["git", "apply", str(mutant.patch)]
    subprocess.run(argv, cwd=folder, env=alone, check=True, capture_output=True, text=True)  # noqa: S603 - our own arguments


def try_out(mutant: Mutant, *, rounds: int, seed: int) -> Verdict:
    """Run the drill on a mutant."""
    verdict = Verdict(mutant.name, mutant.what, mutant.survives)
    if mutant.needs and mutant.needs not in redis_version():
        return msgspec.structs.replace(verdict, trouble=f"needs {mutant.needs}")
    with tempfile.TemporaryDirectory(prefix="onsale-mutant-") as name:
        folder = Path(name)
        try:
            plant(mutant, folder)
        except subprocess.CalledProcessError as error:
            return msgspec.structs.replace(verdict, trouble=f"does not apply: {error.stderr}")
        results = folder / "results.json"
        argv = [sys.executable, "-m", "bench.drill", "--until-broken", f"--rounds={rounds}"]
        argv += [f"--seed={seed}", f"--faults={mutant.faults}", f"--results={results}"]
        here = os.environ | {"PYTHONPATH": name}
        ran = subprocess.run(argv, cwd=folder, env=here, check=False, capture_output=True)  # noqa: S603 - our own arguments
        if not results.exists():
            last_words = ran.stderr.decode(errors="replace")[-LAST_WORDS:]
            return msgspec.structs.replace(verdict, trouble=f"the drill failed: {last_words}")
        played = msgspec.json.decode(results.read_bytes(), type=list[Result])
    last = played[-1]
    return msgspec.structs.replace(
        verdict, rounds=len(played), seed=last.seed, faults=last.faults, violations=last.violations
    )


def redis_version() -> str:
    """``redis 7.0.15``, or another server by its name."""
    server = find_redis_server()
    argv = [str(server), "--version"]
    answer = subprocess.run(argv, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own arguments
    number = answer.partition("v=")[2].partition(" ")[0]
    return f"{server.name.removesuffix('-server')} {number}"


def show(verdicts: list[Verdict]) -> None:
    """Print a table: what became of each mutant, and why."""
    table = Table("mutant", "fate", "by", "reason")
    for each in verdicts:
        table.add_row(each.name, each.fate, each.by, each.reason)
    Console(width=max(Console().width, WIDTH)).print(table, markup=False)
    killed = sum(bool(each.violations) for each in verdicts)
    living = [each.name for each in verdicts if each.is_unexpected]
    typer.echo(f"{killed} of {len(verdicts)} killed; nobody knows why these live: {living}")


if __name__ == "__main__":
    app()
