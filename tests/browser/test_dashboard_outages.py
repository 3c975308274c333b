"""The dashboard without a server, without studies, and without a token."""

import re

import pytest
from conftest import Watch, serving
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
TOKEN = "a-token-of-enough-length"


def test_it_recovers_when_the_server_comes_back(page: Page, watch: Watch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    watch.allowed += [
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
        "ERR_EMPTY_RESPONSE",
        "ERR_CONNECTION_RESET",
    ]
    banner = page.locator("#banner")
    with serving(tmp_path, "--no-worker") as url:
        page.goto(url)
        expect(page.locator("h2")).to_have_text("No study yet")
        expect(page.locator("pre").last).to_contain_text(url)
        expect(banner).to_be_hidden()
    expect(banner).to_have_text(re.compile("Connection lost"))
    with serving(tmp_path, "--no-worker", port=int(url.rsplit(":", 1)[1])):
        expect(banner).to_be_hidden()
        page.get_by_role("link", name="Workers").click()
        expect(page.locator("h2")).to_have_text("No worker")


def test_a_token_is_asked_for_and_kept_from_scripts(page: Page, watch: Watch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    watch.allowed += ["401", "403"]
    with serving(tmp_path, "--no-worker", "--token", TOKEN) as url:
        page.goto(f"{url}/workers")
        page.get_by_label("Token").fill("not-the-token-of-it")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text(re.compile("not"))
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("h2")).to_have_text("No worker")
        assert page.evaluate("document.cookie") == ""
        assert TOKEN not in page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        page.reload()
        expect(page.locator("h1")).to_have_text("Workers")
