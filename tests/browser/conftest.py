"""A real browser against a real server: Debian's Chromium, `tuner serve` as a child process, a real worker.

Every page is watched: a console error, a failed request, an answer of 400 or more, or a violation of the content
security policy fails the test that caused it. Without Chromium the tests are skipped, except in CI, which
must have it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

ROOT = Path(__file__).parents[2]
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
REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP violated: ${event.violatedDirective} by ${event.blockedURI}`));
"""


@dataclass
class Watch:
    """What went wrong on a page; `allowed` holds texts of faults that a test provokes."""

    faults: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def attach(self, page: Page) -> None:
        page.add_init_script(REPORT_VIOLATIONS)
        page.on("pageerror", lambda error: self.note(f"exception: {error}"))
        page.on("console", self._console)
        # A page that is left aborts what it was still asking for, its event stream first of all.
        page.on(
            "requestfailed", lambda r: r.failure != "net::ERR_ABORTED" and self.note(f"failed: {r.url} {r.failure}")
        )
        page.on("response", lambda r: r.status >= 400 and self.note(f"{r.status}: {r.url}"))

    def note(self, text: str) -> None:
        if not any(part in text for part in self.allowed):
            self.faults.append(text)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "trace", "assert"):
            self.note(f"console {message.type}: {message.text}")


@pytest.fixture(scope="session")
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


@contextmanager
def serving(data_dir: Path, *flags: str, port: int | None = None) -> Iterator[str]:
    """Run `tuner serve` and give its URL once it answers; stop it in order afterwards."""
    port = port or free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNER_")}
    command = [sys.executable, "-P", "-m", "tuner", "serve", "--port", str(port), "--data-dir", str(data_dir), *flags]
    with open(data_dir / "serve.log", "a") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        await_answer(f"{url}/healthz", server, data_dir / "serve.log")
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(15)
        finally:
            server.kill()
            server.wait()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_answer(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers; fail with its log when it ends or takes a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"no answer from {url}:\n{log.read_text()}")


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with one local worker."""
    with serving(tmp_path_factory.mktemp("dashboard"), "--width", "16") as address:
        yield address


Submit = Callable[..., str]


@pytest.fixture(scope="session")
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
            "run_cap": 9,
            "parallel": 4,
            "budget": {"examples_per_trial": 3000},
            **changes,
        }
        request = urllib.request.Request(
            f"{url}/api/v1/studies", json.dumps(document).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 201
        return f"{url}/studies/{name}"

    return send


@pytest.fixture(scope="session")
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
    assert watch.faults == []
