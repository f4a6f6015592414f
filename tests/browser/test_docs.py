"""Swagger UI on our own files: it is there, it calls, and it asks nobody else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from playwright.async_api import expect

from tests.browser.conftest import reader

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.world import Sale


async def test_try_it_out(chromium: Browser, sale: Sale) -> None:
    """What is tried out books a seat; the policy allows no script and no style in the page."""
    event_id = await sale.open_event(1)
    async with reader(chromium, sale) as someone:
        answer = await someone.page.goto(f"{sale.api}/docs")
        assert answer is not None
        assert "unsafe" not in answer.headers["content-security-policy"]
        page = someone.page
        await expect(page.get_by_role("heading", name="onsale")).to_be_visible()
        call = page.locator("#operations-bookings-reserve")
        await call.get_by_role("button").first.click()
        await call.get_by_role("button", name="Try it out").click()
        body = json.dumps({"event_id": event_id, "user_id": "ann"})
        await call.locator("textarea").fill(body)
        await call.get_by_role("button", name="Execute").click()
        await expect(call.locator(".live-responses-table .response-col_status").last).to_have_text(
            "201"
        )
        (row,) = await sale.sql("SELECT user_id FROM bookings WHERE event_id = $1", event_id)
        assert row["user_id"] == "ann"
        await someone.is_content()
    await sale.count_seats()
