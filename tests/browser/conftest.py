"""A browser, and a reader who looks at our pages with it while a real sale goes on."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import async_playwright

from tests import world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser, ConsoleMessage, Page

    from tests.world import Sale

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIOLATIONS = """
    window.violations = [];
    addEventListener("securitypolicyviolation", (each) =>
        window.violations.push(`${each.violatedDirective} ${each.blockedURI} ${each.sourceFile}`));
"""


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The system's Chromium, without a window."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"none of {', '.join(NAMES)} is on the PATH"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        await browser.close()


class Reader:
    """Somebody with a browser. What went wrong in it is remembered."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _console(self, message: ConsoleMessage) -> None:
        if "/api/events?" in message.location.get("url", ""):
            return  # the list of events is optional
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    async def open(self, path: str) -> Page:
        """Open one of our pages."""
        await self.page.goto(f"{self.url}{path}")
        return self.page

    async def is_content(self) -> None:
        """Nothing went wrong: no error, no outside host, nothing that the policy forbids."""
        assert self.errors == []
        assert {host for host in self.hosts if host} == {urlsplit(self.url).netloc}
        assert await self.page.evaluate("window.violations") == []


@asynccontextmanager
async def reader(chromium: Browser, sale: Sale, **how: Any) -> AsyncIterator[Reader]:
    """Sit down before a browser of one's own, with a window of some size and a language."""
    context = await chromium.new_context(**{"locale": "en-US", **how})
    await context.add_init_script(VIOLATIONS)
    try:
        yield Reader(await context.new_page(), sale.api)
    finally:
        await context.close()


@pytest.fixture(scope="module")
def sale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sale]:
    """A whole engine with one API process: what a page is told of it is then all there is."""
    with world.sale(tmp_path_factory.mktemp("sale"), api_workers=1) as running:
        yield running


@asynccontextmanager
async def crowd(sale: Sale, event_id: int, *, doors: int = 8) -> AsyncIterator[None]:
    """Let people book meanwhile; every fifth asks twice, and is refused."""
    closed = asyncio.Event()

    async def door(number: int) -> None:
        async with sale.caller() as caller:
            for place in itertools.count():
                if closed.is_set():
                    return
                user = f"crowd-{number}-{place}"
                await caller.reserve(event_id, user)
                if place % 5 == 0:
                    await caller.reserve(event_id, user)

    async with asyncio.TaskGroup() as group:
        for number in range(doors):
            group.create_task(door(number))
        try:
            yield
        finally:
            closed.set()
