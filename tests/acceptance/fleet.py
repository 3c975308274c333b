"""Servers and workers as processes that are killed and started again, with a lossy network between them."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from live_server import LiveServer, wait_for
from lossy import LossyProxy
from paced import Pace
from sqlalchemy import select, text

from storage import tables as t
from storage.database import Database
from storage.line import HELD, KIND, SHARDS

WORKERS, WIDTH = 3, 3
LEASE_S = 2.0
LOST = 0.1
TICK_S = 0.05
TAKEOVER_S = 10.0
"""Promised for a study whose server died."""
TABLES = ("studies", "trials", "attempts", "reports", "events", "workers")
FULL = """
create or replace function disk_is_full() returns trigger language plpgsql as
$$ begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$
"""


class Worker:
    """`tuner worker`, restarted under another name each time."""

    def __init__(self, folder: Path, number: int, url: str, source: Path, store: Path) -> None:
        self._folder = folder
        self._number = number
        self._generation = 0
        self._command = [
            *(sys.executable, "-P", "-m", "tuner", "worker", "--server", url, "--workloads", str(source)),
            *("--device", "cpu", "--width", str(WIDTH), "--processes", "1", "--threads", "1"),
            *("--checkpoints", str(store), "--checkpoint-every-s", "0.5"),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def name(self) -> str:
        """That of the process that runs now."""
        return f"worker-{self._number}-{self._generation}"

    def start(self) -> None:
        """Start a process."""
        self._generation += 1
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNER_")}
        environment["CXX"] = "none"  # see `LiveServer`
        with open(self._folder / f"worker-{self._number}.log", "ab") as log:
            command = [*self._command, "--name", self.name]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        """Kill the agent; its device process finds its input closed."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_device(self) -> bool:
        """Kill the device process, if there is one; the agent starts another."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        for child in children:
            child.kill()
        return bool(children)


class Fleet:
    """`url`: a PostgreSQL database; None is SQLite."""

    def __init__(self, folder: Path, url: str | None, seed: int) -> None:
        self.draw = random.Random(seed)
        self.pace = Pace(folder, TICK_S)
        self._folder, self._store = folder, folder / "store"
        environment = {
            "TUNER_LEASE_S": str(LEASE_S),
            "TUNER_CHECKPOINTS": str(self._store),
            "TUNER_LOCAL_WORKERS": "false",
            "TUNER_DATABASE_CONNECTIONS": "20",
        }
        self._environment = {**environment, **({} if url is None else {"TUNER_DATABASE_URL": url})}
        self.proxy = LossyProxy(LOST, seed)
        self.servers: list[LiveServer] = []
        self.add_server()
        self.database = Database(url or f"sqlite:///{self.servers[0].data_dir / 'tuner.sqlite'}", readers=5)
        self.workers = [
            Worker(folder, number, self.proxy.url, self.pace.source, self._store) for number in range(WORKERS)
        ]
        self.kills = {"server": 0, "worker": 0, "device": 0}
        self.takeovers_s: list[float] = []
        self.server_up_at = 0.0
        self.worker_killed_at, self.orphaned = 0.0, 0
        """The last one: when, and how many leases it held."""

    def add_server(self) -> None:
        """Start one more server."""
        server = LiveServer(self._folder / f"server-{len(self.servers)}", **self._environment)
        server.start()
        self.servers.append(server)
        self.proxy.ports = [each.port for each in self.servers]

    def kill(self, what: str) -> None:
        """Kill a process of this kind at random, of a worker that holds trials, and start it again."""
        self.kills[what] += 1
        if what == "server":
            self._kill_server(self.draw.choice(self.servers))
            return
        worker = self.draw.choice(wait_for(self._busy, "a worker to hold trials"))
        if what == "device" and worker.kill_device():
            return
        worker.kill()
        self.worker_killed_at, self.orphaned = time.monotonic(), self._holders().count(worker.name)
        time.sleep(self.draw.uniform(0.0, 0.5))
        worker.start()

    def _busy(self) -> list[Worker]:
        holders = self._holders()
        return [worker for worker in self.workers if worker.name in holders]

    def _kill_server(self, server: LiveServer) -> None:
        server.kill()
        if len(self.servers) > 1:
            self._await_takeover()
        server.start()
        self.server_up_at = time.monotonic()

    def stop_one(self) -> None:
        """Stop a server's process for as long as another takes to drive its studies: it knows nothing of that then."""
        server = self.draw.choice(self.servers)
        wait_for(lambda: not self._one_drives_all(), "both to have their share")
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            self._await_takeover()
        finally:
            server.process.send_signal(signal.SIGCONT)

    def _await_takeover(self) -> None:
        begun = time.monotonic()
        wait_for(self._one_drives_all, "the other server to take over", 3 * TAKEOVER_S)
        self.takeovers_s.append(time.monotonic() - begun)

    def _one_drives_all(self) -> bool:
        """Whether the locks of all shards are with one server that lives."""
        with self.database.read() as session:
            held = [(int(key), pid) for key, pid in session.execute(HELD, {"kind": KIND})]
        servers = {pid for key, pid in held if key == SHARDS}
        return len(servers) == 1 and len(held) == SHARDS + 1

    def fill_disk(self) -> None:
        """Let nothing be written any more: by the server or its database, and by the workers."""
        if self.database.is_sqlite:
            limit_files(self._pids(), 1)
            return
        when = "before insert or update"
        for table in TABLES:  # each by itself: all their locks at once would wait for each other's holders
            with self.database.write() as session:
                session.execute(text(FULL))
                session.execute(text(f"create trigger full_disk {when} on {table} execute function disk_is_full()"))
        limit_files(self._pids()[len(self.servers) :], 1)

    def empty_disk(self) -> None:
        """Make room again."""
        limit_files(self._pids(), psutil.RLIM_INFINITY)
        if not self.database.is_sqlite:
            for table in TABLES:
                with self.database.write() as session:
                    session.execute(text(f"drop trigger full_disk on {table}"))

    def _pids(self) -> list[int]:
        """The servers', then the workers' with their device processes'."""
        found = [server.process.pid for server in self.servers if server.process is not None]
        for worker in self.workers:
            if worker.process is not None and worker.process.poll() is None:
                found.append(worker.process.pid)
                found += [child.pid for child in psutil.Process(worker.process.pid).children()]
        return found

    def zombies(self) -> int:
        """Count the leases of workers that are dead."""
        living = {worker.name for worker in self.workers}
        return sum(name not in living for name in self._holders())

    def _holders(self) -> list[str]:
        """Name the worker of each lease."""
        query = select(t.Worker.name).join(t.Attempt, t.Attempt.worker_id == t.Worker.id)
        with self.database.read() as session:
            return list(session.scalars(query.where(t.Attempt.outcome.is_(None))))

    def state(self, study: str) -> str:
        """Where a study is, in the database."""
        with self.database.read() as session:
            return session.execute(select(t.Study.state).where(t.Study.name == study)).scalar_one()

    def close(self) -> None:
        """End everything."""
        for worker in self.workers:
            worker.kill()
        for server in self.servers:
            server.stop()
        self.proxy.close()
        self.database.close()


def limit_files(pids: list[int], most_bytes: int) -> None:
    """Bound the files that processes may write, as a full disk does: each write beyond fails."""
    for pid in pids:
        try:
            process = psutil.Process(pid)
            process.rlimit(psutil.RLIMIT_FSIZE, (most_bytes, process.rlimit(psutil.RLIMIT_FSIZE)[1]))
        except psutil.NoSuchProcess:
            pass  # it was just replaced
