"""A watched page and a real server, for the browser's tests.

`Watch` notes every console error, failed request, answer of 400 or more, and violation of the content security policy.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page

ROOT = Path(__file__).parents[2]
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


@contextmanager
def serving(data_dir: Path, *flags: str, port: int | None = None, **variables: str) -> Iterator[str]:
    """Run `tuner serve`, with variables such as TUNER_TOKEN; give its URL once it answers, and stop it afterwards."""
    port = port or free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNER_")} | variables
    environment["CXX"] = "none"  # compiling beside these short studies would only take the machine from others
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
