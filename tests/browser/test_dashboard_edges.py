"""The dashboard with odd addresses and titles, a keyboard, and many tabs: on a server without a worker."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from dashboard_server import Watch, serving
from playwright.sync_api import BrowserContext, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
TITLES = {"long": "w" * 200, "turned": "\u202egnp.exe", "words": "one two " * 25}


def post(url: str, path: str, body: Any) -> Any:
    content = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/api/v1{path}", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def study(name: str, **changes: Any) -> dict[str, Any]:
    document = {"name": name, "workload": "digits-mlp", "optimizers": ["sgd"], "run_cap": 30, "parallel": 30}
    return {**document, "method": "random", "metric": {"name": "valid_loss", "target": 0.25}, **changes}


NO_FIGURES = "globalThis.Plotly = {react: (node) => (node.on = () => {}), purge() {}, Plots: {resize() {}}};"


def without_figures(page: Page) -> Page:
    """Spare the page the drawing of figures, which these tests do not look at."""
    page.route("**/plotly-*", lambda route: route.fulfill(body=NO_FIGURES, content_type="text/javascript"))
    return page


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server without a worker of its own, with studies of odd titles."""
    with serving(tmp_path_factory.mktemp("edges"), "--no-worker") as url:
        for name, title in TITLES.items():
            post(url, "/studies", study(name, title=title, run_cap=1))
        yield url


NAMED = ("trial", "attempt", "token")


class HandWorker:
    """Speaks the sync protocol, one message at a time."""

    def __init__(self, url: str) -> None:
        self.url, self.seq = url, 0
        offers = {"devices": [{"device": "cpu", "width": 30}], "workloads": [{"name": "digits-mlp"}]}
        self.id = post(url, "/workers", {"session": "hand-worker-0001", "name": "hand", **offers})["worker"]

    def sync(self, held: list[Any], free: int, **more: Any) -> list[Any]:
        self.seq += 1
        keys = [{name: a[name] for name in NAMED} for a in held]
        capacity = [{"device": "cpu", "stack": held[0]["stack"] if held else None, "free": free}]
        body = {"session": "hand-worker-0001", "seq": self.seq, "capacity": capacity, "held": keys, "wait_s": 5, **more}
        assigned: list[Any] = post(self.url, f"/workers/{self.id}/sync", body)["assign"]
        return assigned

    def finish(self, held: list[Any], value: float) -> None:
        ended = held.pop(0)
        word = {**{name: ended[name] for name in NAMED}, "outcome": "finished", "value": value}
        self.sync(held, 0, finished=[{**word, "step": 1, "examples": 32}], wait_s=0)


def test_no_title_breaks_a_page(page: Page, idle: str) -> None:
    without_figures(page)
    for address in (*(f"{idle}/studies/{name}" for name in TITLES), idle):
        page.goto(address)
        expect(page.get_by_text("digits-mlp").first).to_be_visible()
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (address, width)
    row = page.locator("table.studies tbody tr", has=page.get_by_role("link", name="turned"))
    expect(row.locator("bdi")).to_have_text(TITLES["turned"])  # what it turns round ends with it
    expect(row).to_contain_text("0 of 1 trial")


def test_addresses_that_are_no_page_say_so(page: Page, idle: str, watch: Watch) -> None:
    watch.allowed += ["404"]
    for path in ("/studies/%E0%A4%A", "/nope", "/studies/long/nope"):
        page.goto(idle + path)
        expect(page.locator("h1")).to_have_text("Not found")
        page.get_by_role("link", name="All studies").click()
        expect(page.locator("h1")).to_have_text("Studies")


def test_a_running_study_keeps_the_focus_shows_its_target_and_its_latest_trials(page: Page, idle: str) -> None:
    worker = HandWorker(idle)
    post(idle, "/studies", study("focus"))
    others = ("long", "turned", "words")
    held: list[Any] = []
    while len([a for a in held if a["study"] == "focus"]) < 2:
        held += worker.sync(held, 1)
    held = sorted((a for a in held if a["study"] not in others), key=lambda a: a["number"])
    without_figures(page).goto(f"{idle}/studies/focus")
    rows = page.locator("table.trials tbody tr")
    expect(rows.first.locator(".badge")).to_have_text("running")
    expect(page.locator(".heading")).to_contain_text("target 0.25")
    link = rows.nth(1).locator("a")
    name = link.inner_text()
    link.focus()
    row = page.locator("table.trials tbody tr", has_text="completed")
    for value in (0.5, 0.2):
        done = row.count()
        worker.finish(held, value)
        expect(row).to_have_count(done + 1)
        assert page.evaluate("document.activeElement.textContent") == name
    expect(rows.first.locator(".badge")).to_have_text("completed")  # not the 25 that wait
    expect(page.locator(".target")).to_have_text("Target 0.25: reached.")


def test_seven_tabs_share_one_event_stream_and_all_follow(context: BrowserContext, idle: str) -> None:
    post(idle, "/studies", study("tabs", run_cap=2))
    pages = [without_figures(context.new_page()) for _ in range(7)]  # all visible; six connections would be taken
    for page in pages:
        page.goto(f"{idle}/studies/tabs")
        expect(page.locator("h1 .badge")).to_have_text("running")
    pages[0].wait_for_function(
        "async () => (await (await fetch('/metrics')).text()).includes('tuner_event_streams 1.0')"
    )
    post(idle, "/studies/tabs/stop", {})
    for page in pages:
        expect(page.locator("h1 .badge")).to_have_text("stopped")
        page.close()
