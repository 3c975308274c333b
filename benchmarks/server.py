"""The server under load: no-op trials, report rows, idle workers and memory, on SQLite and on PostgreSQL.

    python benchmarks/server.py [--quick] [--database sqlite|postgresql] [--trials N]

A real server (`tuner serve --no-worker`, over the loopback) is driven by workers that speak the sync protocol and train
nothing: what they hold ends at once, with 20 report rows (metrics and noise sums) per trial. The configurations are
drawn by the real conductor. The workers are one process of their own (`_server_load.py`); where cores are shared,
trials per second of the server's own CPU time say more than those per second of wall-clock, so both are given, and the
CPU that the workers took beside them. The peer, Optuna, runs `study.optimize` of an objective that reports 20 times.
Prints one table, writes results/server.json, and ends with a line per promised figure.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
ROWS = 20
"""Report rows per trial."""
WORKERS, WIDTH = 8, 64
"""Workers, and trials that each holds at a time."""
IDLE = 1000


@dataclass
class Load:
    """What one kind of load cost. CPU in seconds: of the server with its sampler, of its database, of the workers."""

    what: str
    count: int
    wall_s: float
    server_s: float
    database_s: float
    workers_s: float

    @property
    def rate(self) -> float:
        """Per second of wall-clock."""
        return self.count / self.wall_s

    @property
    def per_cpu(self) -> float:
        """Per second of the server's CPU."""
        return self.count / max(self.server_s, 1e-9)


class Served:
    """A running server and what it takes."""

    def __init__(self, process: psutil.Popen, url: str, postgresql: int | None) -> None:
        """`postgresql` is the id of the database server's first process."""
        self.url = url
        self._process = process
        self._postgresql = None if postgresql is None else psutil.Process(postgresql)

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds until now: the server with its sampler process, and its database's processes."""
        return _cpu_s(self._process), 0.0 if self._postgresql is None else _cpu_s(self._postgresql)

    def memory_mb(self) -> float:
        """Resident memory of the server process, without its sampler."""
        return float(self._process.memory_info().rss) / 2**20

    def load(self, what: str, *options: str) -> Load:
        """Run the workers in a process of their own."""
        command = [sys.executable, str(ROOT / "benchmarks" / "_server_load.py"), self.url, what, *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as run:
            assert run.stdout is not None
            run.stdout.readline()  # all is prepared
            server, database = self.cpu_s()
            found = json.loads(run.stdout.readline())
            ended = self.cpu_s()
        return Load(what, found["count"], found["wall_s"], ended[0] - server, ended[1] - database, found["cpu_s"])


def _cpu_s(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def served(database: str | None, postgresql: int | None = None) -> Iterator[Served]:
    """Serve a fresh database: SQLite without a URL."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-P", "-m", "tuner", "serve", "--no-worker", "--port", "0", "--data-dir", place]
        environment = {**_environment(), **({"TUNER_DATABASE_URL": database} if database else {})}
        said = Path(place) / "said.txt"
        with said.open("w") as out:
            process = psutil.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            while "http://" not in said.read_text() and process.poll() is None:
                time.sleep(0.05)
            url = "http://" + said.read_text().partition("http://")[2].split()[0]
            yield Served(process, url, postgresql)
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def postgresql() -> Iterator[tuple[str, str, int]]:
    """Run a PostgreSQL server of our own; yields the URLs of two empty databases, and the first process' id."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    import pgserver

    with tempfile.TemporaryDirectory(prefix="pg") as place:
        os.chmod(place, 0o755)  # its own user must reach its socket
        with pgserver.get_server(Path(place) / "data") as server:
            for name in ("tuner", "optuna"):
                server.psql(f"create database {name};")
            urls = [
                server.get_uri(name).replace("postgresql://", "postgresql+psycopg://") for name in ("tuner", "optuna")
            ]
            yield urls[0], urls[1], server.get_pid()


def optuna_rate(url: str, seconds: float) -> float:
    """Return the no-op trials per second that `study.optimize` completes: random sampling, 20 reports each."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        trial.suggest_categorical("batch_size", [16, 32])
        for step in range(ROWS):
            trial.report(lr / (step + 1), step)
        return lr

    study = optuna.create_study(storage=url, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=2)
    begun = time.perf_counter()
    study.optimize(objective, timeout=seconds)
    return (len(study.trials) - 2) / (time.perf_counter() - begun)


def measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything on one kind of database."""
    quick = options.quick
    trials = options.trials or (1_500 if quick else 50_000)
    with tempfile.TemporaryDirectory() as place:
        if kind == "sqlite":
            peer = optuna_rate(f"sqlite:///{place}/optuna.sqlite", 2 if quick else 20)
            with served(None) as server:
                return {"optuna": peer, **loads(server, trials, quick)}
    with postgresql() as (url, other, pid):
        peer = optuna_rate(other, 2 if quick else 20)
        with served(url, pid) as server:
            return {"optuna": peer, **loads(server, trials, quick)}


def loads(server: Served, trials: int, quick: bool) -> dict[str, Any]:
    """Put each kind of load on a server that has just started."""
    crew = ["--workers", str(WORKERS), "--width", str(WIDTH), "--rows", str(ROWS)]
    server.load("trials", *crew, "--trials", str(WORKERS * WIDTH))  # the first ones start the sampler, and warm caches
    empty = server.memory_mb()
    busy = server.load("trials", *crew, "--trials", str(trials))
    full = server.memory_mb()
    narrow = server.load(
        "trials", "--workers", str(WORKERS), "--width", "8", "--rows", str(ROWS), "--trials", str(trials // 5)
    )
    rows = server.load("rows", *crew, "--seconds", "2" if quick else "10")
    idle = server.load("idle", "--workers", str(IDLE), "--seconds", "4" if quick else "50")
    return {
        "trials": busy,
        "narrow": narrow,
        "rows": rows,
        "idle": idle,
        "memory_mb": {"empty": empty, "full": full, "trials": trials},
    }


def show(kind: str, found: dict[str, Any]) -> None:
    """Print the rows of one database."""
    for key, label in (("trials", f"trials, {WIDTH} per worker"), ("narrow", "trials, 8 per worker"), ("rows", "rows")):
        load: Load = found[key]
        print(
            f"{kind:<12}{label:<26}{load.count:>9}{load.wall_s:>8.1f}{load.rate:>10.0f}{load.per_cpu:>12.0f}"
            f"{load.server_s:>9.1f}{load.database_s:>10.1f}{load.workers_s:>9.1f}"
        )
    idle: Load = found["idle"]
    print(
        f"{kind:<12}{f'{IDLE} idle workers':<26}{idle.count:>9}{idle.wall_s:>8.1f}{idle.rate:>10.1f}"
        f"{idle.per_cpu:>12.0f}{idle.server_s:>9.2f}{idle.database_s:>10.2f}{idle.workers_s:>9.2f}"
    )
    memory = found["memory_mb"]
    print(
        f"{kind:<12}server's memory: {memory['empty']:.0f} MB at first, {memory['full']:.0f} MB after "
        f"{memory['trials']} trials; Optuna: {found['optuna']:.0f} no-op trials/s"
    )


def bars(kind: str, found: dict[str, Any]) -> Iterator[tuple[str, float, str, float]]:
    """Yield name, value, direction and bound of each promise."""
    yield f"no-op-trials-per-s-{kind}", found["trials"].rate, ">=", 500 if kind == "sqlite" else 300
    yield f"no-op-trials-{kind}-over-optuna", found["trials"].rate / found["optuna"], ">=", 1
    yield f"report-rows-per-s-{kind}", found["rows"].rate, ">=", 10_000
    yield f"idle-workers-core-share-{kind}", found["idle"].server_s / found["idle"].wall_s, "<=", 0.10
    memory = found["memory_mb"]
    per_trial = max(0.0, memory["full"] - memory["empty"]) / memory["trials"]
    yield f"memory-mb-at-50000-trials-{kind}", memory["empty"] + 50_000 * per_trial, "<=", 600


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less than 50 s")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="default: both")
    parser.add_argument("--trials", type=int, help="no-op trials per database")
    options = parser.parse_args()
    kinds = [options.database] if options.database else ["sqlite", "postgresql"]
    print(
        f"{'database':<12}{'load':<26}{'count':>9}{'wall s':>8}{'per s':>10}{'per CPU s':>12}"
        f"{'server s':>9}{'database s':>11}{'workers s':>9}"
    )
    found = {}
    for kind in kinds:
        found[kind] = measure(kind, options)
        show(kind, found[kind])
    record = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()},
        "quick": options.quick,
        **{
            kind: {key: asdict(value) if isinstance(value, Load) else value for key, value in one.items()}
            for kind, one in found.items()
        },
    }
    path = Path(__file__).parent / "results" / "server.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    for kind, one in found.items():
        for name, value, direction, bound in bars(kind, one):
            kept = value >= bound if direction == ">=" else value <= bound
            print(f"bar {name} {value:.3g} {direction} {bound} {'ok' if kept else 'short'}")


if __name__ == "__main__":
    main()
