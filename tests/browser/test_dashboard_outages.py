"""The dashboard without a server, without studies, and without a token."""

import re
from pathlib import Path

import pytest
from dashboard_server import Watch, serving
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
TOKEN = "a-token-of-enough-length"


def test_an_outage_and_a_login(page: Page, watch: Watch, tmp_path: Path) -> None:
    watch.allowed += ["net::ERR_CONNECTION", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_EMPTY_RESPONSE"]
    watch.allowed += ["401", "403"]
    banner = page.locator("#banner")
    with serving(tmp_path, "--no-worker") as url:
        page.goto(url)
        expect(page.locator("h2")).to_have_text("No studies yet")
        expect(page.locator("pre").last).to_contain_text(url)
        page.get_by_role("link", name="Workers").click()
        expect(page.locator("h2")).to_have_text("No workers")
        expect(banner).to_be_hidden()
    expect(banner).to_have_text(re.compile("Connection lost"))

    with serving(tmp_path, "--no-worker", port=int(url.rsplit(":", 1)[1]), TUNER_TOKEN=TOKEN):
        expect(page.locator("h1")).to_have_text("Log in")
        expect(banner).to_be_hidden()
        page.get_by_label("Token").fill("not-the-token-of-it")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("not")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("h2")).to_have_text("No workers")
        assert page.evaluate("document.cookie") == ""  # scripts cannot read it
        assert TOKEN not in page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        page.reload()
        expect(page.locator("h1")).to_have_text("Workers")
        page.get_by_role("button", name="Log out").click()
        expect(page.locator("h1")).to_have_text("Log in")
        expect(page.locator("#logout")).to_be_hidden()
