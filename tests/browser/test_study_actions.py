"""Pausing, resuming, cloning, stopping and retrying on the dashboard."""

import json
import re
import urllib.request
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
PATIENT_MS = 90_000
LONG: dict[str, Any] = {"run_cap": 50, "parallel": 2, "budget": {"examples_per_trial": 2_000_000}}


def ask(url: str, method: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def press(page: Page, name: str) -> None:
    page.locator(".heading").get_by_role("button", name=name, exact=True).click()


def test_a_study_is_paused_resumed_stopped_and_resumed_again(page: Page, submit, url: str) -> None:  # type: ignore[no-untyped-def]
    page.goto(submit("pausing", tags=["one", "two"], note="why\nthis", **LONG))
    badge, running = page.locator("h1 .badge"), page.locator('[data-fact="running"] dd')
    expect(page.locator(".tag")).to_have_text(["one", "two"])
    expect(page.locator(".note")).to_contain_text("this")
    expect(running).to_have_text(re.compile("[1-9]"), timeout=PATIENT_MS)
    press(page, "Pause")
    expect(badge).to_have_text("paused")
    expect(page.locator('[data-fact="paused"] dd')).to_have_text("2", timeout=PATIENT_MS)
    expect(running).to_have_text("0")
    expect(page.locator(".bar .seg.state-paused")).to_have_count(1)
    assert badge.evaluate("node => getComputedStyle(node).borderStyle") == "dashed"
    page.get_by_label("Show").select_option("paused")
    expect(page.locator("table.trials tbody .badge")).to_have_text(["paused", "paused"])
    page.get_by_label("Show").select_option("")
    press(page, "Resume")
    expect(badge).to_have_text("running")
    expect(running).to_have_text("2", timeout=PATIENT_MS)
    ask(f"{url}/api/v1/studies/pausing", "PATCH", {"title": "A new title"})
    expect(page.locator(".heading .title")).to_have_text("A new title")
    expect(page.locator("pre", has_text='"workload"')).to_contain_text('"title": "A new title"')
    press(page, "Stop")
    page.get_by_role("button", name="Stop study").click()
    expect(badge).to_have_text("stopped")
    press(page, "Resume")
    expect(badge).to_have_text("running")
    ask(f"{url}/api/v1/studies/pausing/stop", "POST")


def test_a_clone_opens_its_own_page(page: Page, submit, url: str) -> None:  # type: ignore[no-untyped-def]
    page.goto(submit("cloned", **LONG))
    press(page, "Clone")
    expect(page.locator("h1")).to_contain_text("cloned-2")
    assert page.url.endswith("/studies/cloned-2")
    for name in ("cloned", "cloned-2"):
        ask(f"{url}/api/v1/studies/{name}/stop", "POST")


def test_a_trial_is_stopped_and_tried_again_from_its_row_and_its_page(page: Page, submit, url: str) -> None:  # type: ignore[no-untyped-def]
    page.goto(submit("rows", enqueue=[{"optimizer": "sgd", "lr": 0.01}], **LONG))
    row = page.locator('table.trials tr[data-trial="0"]')
    expect(row.locator(".badge")).to_have_text("running", timeout=PATIENT_MS)
    row.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop trial").click()
    expect(row.locator(".badge")).to_have_text("cancelled", timeout=PATIENT_MS)
    row.get_by_role("button", name="Retry").click()
    expect(row.locator(".badge")).to_have_text(re.compile("queued|running"))
    expect(row.get_by_role("button", name="Stop")).to_have_count(1)
    page.goto(f"{url}/studies/rows/trials/0")
    expect(page.locator("dl.pairs div", has_text="origin").locator("dd")).to_have_text("given by a user")
    press(page, "Stop")
    page.get_by_role("button", name="Stop trial").click()
    expect(page.locator("h1 .badge")).to_have_text("cancelled", timeout=PATIENT_MS)
    press(page, "Retry")
    expect(page.locator("h1 .badge")).to_have_text(re.compile("queued|running"))
    ask(f"{url}/api/v1/studies/rows/stop", "POST")


def test_what_cannot_be_done_is_said_and_the_page_stays(page: Page, submit, url: str, watch) -> None:  # type: ignore[no-untyped-def]
    watch.allowed.append("409")
    page.goto(submit("refused", **LONG))
    expect(page.locator("h1 .badge")).to_have_text("running")
    page.route("**/api/v1/studies/refused/events", lambda route: route.abort())
    page.route("**/pause", lambda route: (ask(f"{url}/api/v1/studies/refused/stop", "POST"), route.continue_())[1])
    press(page, "Pause")
    expect(page.get_by_role("dialog")).to_contain_text("only a running one can be paused")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("h1 .badge")).to_have_text("stopped")
    expect(page.get_by_role("dialog")).to_have_count(0)
