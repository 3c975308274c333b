"""What an open study page costs the server: CPU per refresh of one tab and of ten, and of quiet event streams.

    python benchmarks/page.py [--quick] [--trials N]

A real server (SQLite, no worker of its own) has a running study of 10,000 finished trials with 20 rows each, written
straight into its database by the storage functions. A tab is the requests that the page makes, with the ETags that it
has. CPU is that of the server's process alone, from the kernel's scheduler. Prints one table, writes results/page.json,
and ends with a line per promised figure. There is no peer: optuna-dashboard is not among the project's dependencies.

The bar is the dear case: a trial has ended since the last refresh, and everything is asked for exactly. A page asks for
less: while a study runs it accepts results that are a few seconds behind.
"""

import argparse
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from _page_study import make  # noqa: E402

NAME = "page"
FIGURES = ("progress", "curves", "loss_vs_lr", "lr_batch", "noise", "batch_advice")
PARTS = ["", "/best", "/leaderboard", "/batch-advice", "/trials?sort=-finished_at&limit=25"]
PARTS += [f"/figures/{name}" for name in FIGURES]
STREAMS = 500
EXACT = {"Cache-Control": "no-cache"}
SETTLE_S = 0.4


class Server:
    """`tuner serve` in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-P", "-m", "tuner", "serve", "--port", str(self.port), "--no-worker"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TUNER_")} | {"PYTHONPATH": str(ROOT)}
        self.log = open(data_dir / "serve.log", "w")
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(data_dir)], env=environment, stdout=self.log, stderr=self.log
        )
        try:
            self._await_answer(time.monotonic() + 60)
        except OSError:
            self.stop()
            raise

    def _await_answer(self, deadline: float) -> None:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=60)
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def cpu_s(self) -> float:
        """CPU seconds of all threads so far."""
        spent = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9

    def memory_mb(self) -> float:
        """Memory that the process has now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.log.close()


class Tab:
    """The requests of one open page, over one kept connection."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self._tags: dict[str, str] = {}
        self.statuses: list[int] = []
        self.bytes = 0

    def refresh(self, headers: dict[str, str] | None = None) -> None:
        """Ask for everything that the page shows."""
        self.statuses, self.bytes = [], 0
        for part in PARTS:
            known = {"If-None-Match": self._tags[part]} if part in self._tags else {}
            sent = {"Accept-Encoding": "gzip", **known, **(headers or {})}
            self._connection.request("GET", f"/api/v1/studies/{NAME}{part}", headers=sent)
            answer = self._connection.getresponse()
            self.bytes += len(answer.read())
            self.statuses.append(answer.status)
            if answer.status == 200:
                self._tags[part] = answer.headers["ETag"]


class Worker:
    """A worker that ends one trial at a time, without training it."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self._session, self._seq = "benchmark-of-the-page", 0
        self._held: list[dict[str, Any]] = []
        device = {"device": "cpu", "width": 32}
        hello = {"session": self._session, "name": "benchmark", "devices": [device]}
        self._id = self._post("/workers", {**hello, "workloads": [{"name": "digits-mlp"}]})["worker"]

    def end_one(self, value: float) -> None:
        """Take trials if it has none, and finish one."""
        if not self._held:
            self._held = self._sync(free=32)["assign"]
        done = self._held.pop()
        word = {name: done[name] for name in ("trial", "attempt", "token")}
        steps = done["examples"] // int(done["params"]["batch_size"])
        report = {"trial": done["trial"], "attempt": done["attempt"], "step": steps, "examples": done["examples"]}
        self._sync(
            free=0,
            reports=[{**report, "elapsed_s": 1.0, "metrics": {"valid_loss": value}}],
            finished=[{**word, "outcome": "finished", "value": value, "step": steps, "examples": done["examples"]}],
        )

    def _sync(self, *, free: int, **more: Any) -> Any:
        self._seq += 1
        held = [{name: one[name] for name in ("trial", "attempt", "token")} for one in self._held]
        stack = self._held[0]["stack"] if self._held else None
        body = {"session": self._session, "seq": self._seq, "held": held, **more}
        return self._post(
            f"/workers/{self._id}/sync", {**body, "capacity": [{"device": "cpu", "stack": stack, "free": free}]}
        )

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        self._connection.request("POST", f"/api/v1{path}", json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        if answer.status >= 400:
            raise SystemExit(f"{path}: {content}")
        return content


def after_changes(server: Server, worker: Worker, tabs: int, rounds: int, headers: dict[str, str]) -> list[float]:
    """CPU seconds of all tabs' refresh, once a trial has ended and the server has settled."""
    opened = [Tab(server) for _ in range(tabs)]
    for tab in opened:
        tab.refresh(headers)
    spent = []
    for round_ in range(rounds):
        worker.end_one(0.2 + 1e-4 * round_)
        time.sleep(SETTLE_S)
        before = server.cpu_s()
        for tab in opened:
            tab.refresh(headers)
        spent.append(server.cpu_s() - before)
    return spent


def unchanged(server: Server, rounds: int) -> list[float]:
    """CPU seconds of a refresh when nothing has happened."""
    tab = Tab(server)
    tab.refresh(EXACT)
    spent = []
    for _ in range(rounds):
        before = server.cpu_s()
        tab.refresh()
        spent.append(server.cpu_s() - before)
        if set(tab.statuses) != {304}:
            raise SystemExit(f"unchanged, but answered {tab.statuses}")
    return spent


def quiet_streams(server: Server, seconds: float) -> tuple[float, float]:
    """Shares of a core: without any stream, and with `STREAMS` that hear nothing."""
    idle = _share(server, seconds)
    streams = []
    for _ in range(STREAMS):
        stream = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        stream.sendall(f"GET /api/v1/studies/{NAME}/events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        streams.append(stream)
    for stream in streams:
        if b"200 OK" not in stream.recv(65536):
            raise SystemExit("a stream was refused")
    time.sleep(2 * SETTLE_S)
    busy = _share(server, seconds)
    for stream in streams:
        stream.close()
    return idle, busy


def _share(server: Server, seconds: float) -> float:
    before, begun = server.cpu_s(), time.monotonic()
    time.sleep(seconds)
    return (server.cpu_s() - before) / (time.monotonic() - begun)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less than 50 s")
    parser.add_argument("--trials", type=int, default=10_000)
    options = parser.parse_args()
    rounds, seconds = (8, 4.0) if options.quick else (40, 20.0)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), NAME, finished=options.trials, queued=400)
        server = Server(Path(folder))
        try:
            first = Tab(server)
            before = server.cpu_s()
            first.refresh()
            figures["first refresh after the start"] = [server.cpu_s() - before]
            worker = Worker(server)
            figures["one tab, a trial has ended, exact"] = after_changes(server, worker, 1, rounds, EXACT)
            figures["one tab, a trial has ended, as the page asks"] = after_changes(server, worker, 1, rounds, {})
            figures["ten tabs, a trial has ended, exact"] = after_changes(server, worker, 10, rounds // 2, EXACT)
            figures["one tab, nothing has happened"] = unchanged(server, rounds)
            memory_mb = server.memory_mb()
            idle, busy = quiet_streams(server, seconds)
        finally:
            server.stop()
    print(f"{'CPU of the server, ms':<46}{'median':>9}{'lowest':>9}{'highest':>9}")
    for name, spent in figures.items():
        ms = [1e3 * one for one in spent]
        print(f"{name:<46}{statistics.median(ms):>9.1f}{min(ms):>9.1f}{max(ms):>9.1f}")
    print(f"\n{first.bytes / 1e3:.0f} kB compressed per page; {memory_mb:.0f} MB of memory")
    print(f"{STREAMS} quiet streams: {100 * busy:.1f} % of a core; without any {100 * idle:.1f} %")
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()}
    record = {"machine": machine, "trials": options.trials, "cpu_s": figures, "page_bytes": first.bytes,
              "memory_mb": memory_mb, "streams": {"count": STREAMS, "share": busy, "share_without": idle}}  # fmt: skip
    (ROOT / "benchmarks" / "results" / "page.json").write_text(json.dumps(record, indent=1) + "\n")
    refresh_ms = 1e3 * statistics.median(figures["one tab, a trial has ended, exact"])
    print(f"bar refresh-cpu-ms {refresh_ms:.1f} <= 200 {'ok' if refresh_ms <= 200 else 'short'}")
    print(f"bar quiet-streams-core-percent {100 * busy:.2f} <= 5 {'ok' if busy <= 0.05 else 'short'}")


if __name__ == "__main__":
    main()
