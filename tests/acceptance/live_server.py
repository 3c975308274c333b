"""A real server with a real worker, as processes that a test may kill."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 120.0) -> Any:
    """Wait until a condition holds and return its value."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}")


class LiveServer:
    """`tuner serve` on one data folder and one port, started and killed at will."""

    def __init__(self, data_dir: Path, *flags: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._flags = flags
        self._environment = environment
        self.client = httpx2.Client(base_url=self.url)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNER_")}
        environment["CXX"] = "none"  # compiling beside these short studies would only take the machine from others
        command = [sys.executable, "-P", "-m", "tuner", "serve", "--port", str(self.port)]
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with open(self.data_dir / "serve.log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir), *self._flags],
                stdout=log,
                stderr=log,
                env={**environment, **self._environment},
            )
        wait_for(self.answers, f"{self.url} to answer", 60)

    def answers(self) -> bool:
        """Whether it is up."""
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            return self.client.get("/healthz", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def get(self, path: str) -> Any:
        """Ask the API, patiently: the server may be starting again."""

        def answer() -> Any:
            try:
                return self.client.get(f"/api/v1{path}", timeout=10)
            except httpx2.HTTPError:
                return None

        found = wait_for(answer, path, 60)
        assert found.status_code == 200, found.text
        return found.json()

    def submit(self, document: dict[str, Any]) -> None:
        """Submit a study."""
        answer = self.client.post("/api/v1/studies", json=document, timeout=30)
        assert answer.status_code == 201, answer.text

    def log(self) -> str:
        """What it has said so far."""
        return (self.data_dir / "serve.log").read_text()

    def worker_log(self) -> str:
        """What its workers have said so far."""
        return "".join(path.read_text() for path in sorted((self.data_dir / "logs").iterdir()))

    def await_worker(self) -> None:
        """Wait until a worker has said what it can train."""
        wait_for(lambda: self.get("/workers")["items"], "a worker to register")

    def children(self) -> list[psutil.Process]:
        """All processes that it started."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """Its worker agents."""
        return [child for child in self.children() if "worker" in child.cmdline()]

    def kill(self) -> list[psutil.Process]:
        """Kill -9 the server alone; return what it had started."""
        assert self.process is not None
        orphans = self.children()
        self.process.kill()
        self.process.wait()
        return orphans

    def stop(self) -> None:
        """End it in order."""
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            finally:
                self.process.kill()
                self.process.wait()
