"""Roles and paths as a reader of the dashboard meets them: below a proxy's path, as a viewer, as an admin."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from dashboard_server import Watch, serving
from playwright.sync_api import Browser, Page, expect

SHARED = "the shared token of this test"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that asks for tokens and lives below a path, with a study."""
    folder = tmp_path_factory.mktemp("closed")
    with serving(folder, "--no-worker", TUNER_TOKEN=SHARED, TUNER_ROOT_PATH="/lab/tuner") as url:
        study = {"name": "mine", "workload": "digits-mlp", "optimizers": ["sgd"], "run_cap": 2}
        ask(f"{url}/api/v1/studies", study)
        yield f"{url}/lab/tuner"


def ask(url: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {SHARED}"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)


def opened(browser: Browser, address: str, secret: str) -> tuple[Page, Watch]:
    """Open an address in a browser of its own, and log in."""
    page, watch = browser.new_context().new_page(), Watch(allowed=["401"])
    watch.attach(page)
    page.goto(address)
    page.get_by_label("Token").fill(secret)
    page.get_by_role("button", name="Log in").click()
    return page, watch


def test_every_link_stays_below_the_path(browser: Browser, closed: str) -> None:
    page, watch = opened(browser, f"{closed}/", SHARED)
    page.get_by_role("link", name="mine").click()
    expect(page).to_have_url(f"{closed}/studies/mine")
    expect(page.get_by_role("heading", name="mine")).to_be_visible()
    page.get_by_role("link", name="Workers").click()
    expect(page).to_have_url(f"{closed}/workers")
    page.get_by_role("link", name="Studies").first.click()
    expect(page.get_by_role("link", name="mine")).to_be_visible()
    page.go_back()
    expect(page).to_have_url(f"{closed}/workers")
    page.reload()
    expect(page.get_by_role("link", name="Workers")).to_have_attribute("aria-current", "page")
    assert watch.faults == []
    page.context.close()


def test_a_viewer_is_offered_nothing_that_would_be_refused(browser: Browser, closed: str) -> None:
    viewer = ask(f"{closed}/api/v1/tokens", {"role": "viewer", "label": "guest"})
    page, watch = opened(browser, f"{closed}/studies/mine", viewer["token"])
    expect(page.get_by_role("heading", name="mine")).to_be_visible()
    expect(page.locator(".heading").get_by_role("button", name="Stop")).to_be_hidden()
    expect(page.locator(".heading").get_by_role("button", name="Delete")).to_be_hidden()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert watch.faults == []
    page.context.close()


def test_an_admin_has_the_buttons(browser: Browser, closed: str) -> None:
    page, watch = opened(browser, f"{closed}/studies/mine", SHARED)
    expect(page.locator(".heading").get_by_role("button", name="Stop")).to_be_visible()
    assert watch.faults == []
    page.context.close()
