"""A real browser against a real server: Debian's Chromium, `tuner serve` as a child process, a real worker.

Every page is watched: a console error, a failed request, an answer of 400 or more, or a violation of the content
security policy fails the test that caused it. Without Chromium the tests are skipped, except in CI, which
must have it.
"""

import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dashboard_server import Watch, serving
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

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


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, headless."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium found; CI installs it (apt-get install chromium)")
        pytest.skip("no Chromium found")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with one local worker."""
    with serving(tmp_path_factory.mktemp("dashboard"), "--width", "16") as address:
        yield address


Submit = Callable[..., str]


@pytest.fixture(scope="package")
def submit(url: str) -> Submit:
    """A function that submits a small study under a name and returns the address of its page."""

    def send(name: str, **changes: Any) -> str:
        document = {
            "name": name,
            "workload": "digits-mlp",
            "metric": {"name": "valid_loss", "goal": "minimize"},
            "optimizers": ["sgd", "adamw", "muon"],
            "parameters": {"batch_size": {"values": [16, 32]}},
            "method": "random",
            "run_cap": 8,
            "parallel": 4,
            "budget": {"examples_per_trial": 2000},
            **changes,
        }
        request = urllib.request.Request(
            f"{url}/api/v1/studies", json.dumps(document).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 201
        return f"{url}/studies/{name}"

    return send


@pytest.fixture(scope="package")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One profile for all pages: Plotly's bundle is fetched once."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def watch() -> Watch:
    """What the test's page does wrong."""
    return Watch()


@pytest.fixture
def page(context: BrowserContext, watch: Watch) -> Iterator[Page]:
    """A watched page."""
    page = context.new_page()
    watch.attach(page)
    yield page
    page.close()
    assert watch.faults == []
