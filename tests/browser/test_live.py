"""The page that shows an event while it sells, in a browser, beside a real sale."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from tests import world
from tests.browser.conftest import crowd, reader

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page

    from tests.world import Sale

PLOTS = ("left", "sales", "confirm", "depth", "refused")
PHONE = {"viewport": {"width": 360, "height": 720}, "is_mobile": True, "has_touch": True}
BOUND_MS = 30_000

expect.set_options(timeout=BOUND_MS)


async def drawn(page: Page) -> dict[str, str]:
    """The plots as they are drawn now."""
    script = "(names) => names.map((each) => document.getElementById(`plot-${each}`).toDataURL())"
    return dict(zip(PLOTS, await page.evaluate(script, PLOTS), strict=True))


async def number_in(place: Locator) -> float:
    """The number that is shown there; nan for none."""
    text = re.sub(r"[^\d.]", "", await place.inner_text())
    return float(text) if text else float("nan")


async def test_sale(chromium: Browser, sale: Sale) -> None:
    """Seats go down, every figure and every plot moves; then it is sold out."""
    event_id = await sale.open_event(100_000, name="Чайка")
    async with reader(chromium, sale) as someone:
        page = await someone.open(f"/live?event={event_id}")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Чайка")
        await expect(page.locator("#left")).to_have_text("100,000")
        await expect(page.locator("#state-text")).to_have_text("Live")
        before = await drawn(page)
        async with crowd(sale, event_id):
            for figure in ("sales", "confirm", "refused"):

                async def moves(figure: str = figure) -> bool:
                    return await number_in(page.locator(f"#{figure}")) > 0

                await world.until(moves)
            assert await number_in(page.locator("#left")) < 100_000
            after = await drawn(page)
            assert [name for name in PLOTS if after[name] == before[name]] == []
        await sale.count_seats()
        statement = "UPDATE events SET total_seats = booked WHERE id = $1 RETURNING booked"
        ((booked,),) = await sale.sql(statement, event_id)
        await expect(page.locator("#state-text")).to_have_text("Sold out")
        await expect(page.locator("#left")).to_have_text("0")
        await expect(page.locator("#sold-text")).to_have_text(f"{booked:,} sold, 100%")
        await expect(page.locator("#said")).to_have_text("Sold out")
        await someone.is_content()
    await sale.count_seats()


async def test_keyboard_alone(chromium: Browser, sale: Sale) -> None:
    """Who has no mouse picks an event, books, is refused a second seat, and cancels."""
    event_id = await sale.open_event(3)
    async with reader(chromium, sale) as someone:
        page = await someone.open("/live")
        keys = page.keyboard

        async def tab_to(name: str) -> None:
            for _ in range(12):
                await keys.press("Tab")
                focused = page.locator(":focus")
                if name in (await focused.get_attribute("id"), await focused.inner_text()):
                    return
            pytest.fail(f"the tabulator does not come to {name}")

        await tab_to("event")
        await keys.type(str(event_id))
        await keys.press("Enter")
        await expect(page.locator("#left")).to_have_text("3")
        await tab_to("user")
        await keys.type("Ann")
        await keys.press("Enter")
        answer = page.locator("#answer")
        await expect(answer).to_have_text(re.compile(r"^Booked: number \d+, in Postgres after"))
        await expect(page.locator("#left")).to_have_text("2")
        (row,) = await sale.sql("SELECT id, user_id FROM bookings WHERE event_id = $1", event_id)
        assert row["user_id"] == "Ann"
        await tab_to("Book a seat")
        await keys.press("Enter")
        await expect(answer).to_have_text(f"This name has a seat already: booking {row['id']}.")
        await tab_to("Cancel it")
        await keys.press("Enter")
        await expect(answer).to_have_text(f"Booking {row['id']} is cancelled; the seat is free.")
        await expect(page.locator("#left")).to_have_text("3")
        errors = [each for each in someone.errors if "409" not in each]  # the browser's own
        assert errors == []
    await sale.count_seats()


async def test_what_is_missing_is_said(chromium: Browser, sale: Sale) -> None:
    """A field that is not filled in gets the focus, and a sentence says what it takes."""
    event_id = await sale.open_event(3)
    async with reader(chromium, sale) as someone:
        page = await someone.open(f"/live?event={event_id}")
        await page.get_by_role("button", name="Book a seat").click()
        await expect(page.locator("#answer")).to_have_text("Enter a name to book for.")
        await expect(page.get_by_label("Your name")).to_be_focused()
        await page.get_by_role("button", name="Cancel it").click()
        await expect(page.locator("#answer")).to_have_text("Enter the number of a booking.")
        await page.get_by_label("Event number").fill("none")
        await page.get_by_role("button", name="Watch").click()
        await expect(page.get_by_label("Event number")).to_be_focused()
        await expect(page.locator("#said")).to_have_text(re.compile("whole number"))
        await someone.is_content()


async def test_no_such_event(chromium: Browser, sale: Sale) -> None:
    """An event that does not exist is said not to."""
    async with reader(chromium, sale) as someone:
        page = await someone.open(f"/live?event={2**31 - 1}")
        await expect(page.locator("#state-text")).to_have_text("There is no such event.")


@pytest.mark.parametrize(
    ("locale", "language", "title"),
    [("en-GB", "en", "Box office"), ("ru-RU", "ru", "Касса"), ("de-DE", "en", "Box office")],
)
async def test_language_of_the_browser(
    chromium: Browser, sale: Sale, locale: str, language: str, title: str
) -> None:
    """The page speaks the browser's language if it can, else English."""
    async with reader(chromium, sale, locale=locale) as someone:
        page = await someone.open("/live")
        await expect(page.locator("html")).to_have_attribute("lang", language)
        await expect(page.get_by_role("heading", name=title)).to_be_visible()


async def test_switch_of_the_language(chromium: Browser, sale: Sale) -> None:
    """Every word follows the switch, also what was said already; the choice is kept."""
    event_id = await sale.open_event(1234)
    async with reader(chromium, sale) as someone:
        page = await someone.open(f"/live?event={event_id}")
        await page.get_by_label("Your name").fill("Ann")
        await page.get_by_role("button", name="Book a seat").click()
        await expect(page.locator("#answer")).to_contain_text("Booked")
        english = await page.locator("main").inner_text()
        await page.get_by_role("button", name="Русский").click()
        await expect(page.locator("#answer")).to_contain_text("Забронировано")
        await expect(page.locator("#left")).to_have_text(re.compile(r"^1\s233$"))
        russian = await page.locator("main").inner_text()
        same = {line.strip() for line in english.splitlines()}
        same &= {line.strip() for line in russian.splitlines()}
        latin = {line for line in same if re.search("[a-z]{3}", line)}
        assert latin == set()
        await page.reload()
        await expect(page.get_by_role("heading", name="Касса")).to_be_visible()
        await someone.is_content()
    await sale.count_seats()


async def test_phone(chromium: Browser, sale: Sale) -> None:
    """Nothing is wider than a phone, in either language, and every button can be hit."""
    event_id = await sale.open_event(2_000_000_000, name="Очень" + "длинное" * 20)
    for locale in ("en-US", "ru-RU"):
        async with reader(chromium, sale, **PHONE, locale=locale) as someone:
            page = await someone.open(f"/live?event={event_id}")
            await expect(page.locator("#left")).to_have_text(re.compile(r"2.000.000.000"))
            sizes: dict[str, Any] = await page.evaluate(
                "({wide: document.scrollingElement.scrollWidth, window: innerWidth,"
                " low: [...document.querySelectorAll('button, input')]"
                " .filter((each) => each.offsetHeight < 32).length})"
            )
            assert sizes["wide"] <= sizes["window"] == 360
            assert sizes["low"] == 0
            await someone.is_content()


async def test_server_restarts(chromium: Browser, sale: Sale) -> None:
    """The API ends and another begins: the page says so, and goes on by itself."""
    event_id = await sale.open_event(100)
    async with reader(chromium, sale) as someone:
        page = await someone.open(f"/live?event={event_id}")
        await expect(page.locator("#left")).to_have_text("100")
        (api,) = sale.pids("api")
        os.kill(api, signal.SIGTERM)
        await expect(page.locator("#state-text")).to_have_text("Connection lost, trying again…")
        await expect(page.locator("#state-text")).to_have_text("Live")
        async with sale.caller() as caller:
            await caller.reserve(event_id, "after")
        await expect(page.locator("#left")).to_have_text("99")
    await sale.count_seats()


async def test_redis_restarts(chromium: Browser, sale: Sale) -> None:
    """While Redis is away the page says whose numbers it shows, and then goes on by itself."""
    event_id = await sale.open_event(100)
    async with reader(chromium, sale) as someone:
        page = await someone.open(f"/live?event={event_id}")
        await expect(page.locator("#state-text")).to_have_text("Live")
        with sale.stopped("redis"):
            await expect(page.locator("#state-text")).to_have_text("Redis is away: as of Postgres")
            await expect(page.locator("#left")).to_have_text("100")
        await expect(page.locator("#state-text")).to_have_text("Live")
        await someone.is_content()
    await sale.count_seats()


async def test_policy(chromium: Browser, sale: Sale) -> None:
    """A script that somebody gets into the page is not run, and no outside host is asked."""
    async with reader(chromium, sale) as someone:
        answer = await someone.page.goto(f"{sale.api}/live")
        assert answer is not None
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        await someone.page.evaluate(
            "() => { const one = document.createElement('script');"
            " one.textContent = 'window.ran = true'; document.body.append(one); }"
        )
        assert await someone.page.evaluate("window.ran") is None
        (violation,) = await someone.page.evaluate("window.violations")
        assert violation.startswith("script-src")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{}, PHONE], ids=["desktop", "phone"])
async def test_accessibility(
    chromium: Browser, sale: Sale, scheme: str, size: dict[str, Any]
) -> None:
    """Axe finds nothing: names, roles, contrast, structure."""
    event_id = await sale.open_event(100)
    async with reader(chromium, sale, color_scheme=scheme, **size) as someone:
        page = await someone.open(f"/live?event={event_id}")
        await page.get_by_label("Your name").fill("Ann")
        await page.get_by_role("button", name="Book a seat").click()
        await expect(page.locator("#answer")).to_contain_text("Booked")
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    await sale.count_seats()


async def test_less_motion(chromium: Browser, sale: Sale) -> None:
    """Who wants less motion has no animation, and plots that are drawn once a second at most."""
    event_id = await sale.open_event(100)
    async with reader(chromium, sale, reduced_motion="reduce") as someone:
        page = await someone.open(f"/live?event={event_id}")
        await expect(page.locator("#state-text")).to_have_text("Live")
        drawings = await page.evaluate(
            """() => new Promise((done) => {
                const clear = CanvasRenderingContext2D.prototype.clearRect;
                let drawings = 0;
                CanvasRenderingContext2D.prototype.clearRect = function (...area) {
                    if (this.canvas.id === "plot-left") drawings += 1;
                    return clear.apply(this, area);
                };
                setTimeout(() => done(drawings), 2500);
            })"""
        )
        assert 1 <= drawings <= 3
        assert await page.evaluate("document.getAnimations().length") == 0
