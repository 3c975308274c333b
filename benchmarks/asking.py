"""What a TPE proposal takes when a study has 10,000 finished trials, and how soon a restarted server is ready.

    python benchmarks/asking.py [--quick] [--trials N]

Ours: the server's conductor on SQLite with 64 trials in flight. One of them ends, and the time runs from the look into
the database, over the sampler process, to the stored trial that takes its place. The same after 500 trials shows that
it does not grow. Peer: Optuna's own `study.ask` of a TPE with the same options, hyperparameters and trials in flight,
with its storages in memory, in a journal file and in SQLite (the latter two take minutes to fill, and only the first is
asked with --quick). Both sides ask alternately, so that other load affects both; first asks, which import optuna, are
left out. The restart is of `tuner serve`, killed before, until `/readyz` answers, and until a trial that a freed place
was waiting for is stored. Prints one table, writes results/asking.json, and ends with a line per promised figure.
"""

import argparse
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import optuna
import psutil
from finished_trials import finish_trials
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState as OptunaState
from sqlalchemy import select, update

from api.app import open_database
from api.conductor.asker import Asker
from api.conductor.commands import Commands
from api.conductor.proposing import Proposing
from api.conductor.retention import Retention
from api.hub import Hub
from api.plans import Plans
from api.servers.ownership import Alone
from api.settings import Settings
from storage import events, studies
from storage import tables as t
from storage.database import Database
from storage.events import Change
from tuner.search.axis import Axis
from tuner.store import open_store
from tuner.study.states import TrialState

ROOT = Path(__file__).resolve().parent.parent
IN_FLIGHT = 64
FEW = 500
Times = dict[str, list[float]]


def document(trials: int) -> dict[str, Any]:
    """One family with seven hyperparameters that are searched."""
    return {
        "name": "asking",
        "workload": "digits-mlp",
        "optimizers": ["adamw"],
        "parameters": {
            "batch_size": {"values": [16, 32, 64, 128, 256]},
            "schedule": {"values": ["constant", "cosine", "wsd"]},
        },
        "method": "tpe",
        "run_cap": trials + 100_000,
        "parallel": IN_FLIGHT,
        "budget": {"examples_per_trial": 20_000},
    }


def end(database: Database, count: int, draw: random.Random) -> None:
    """Let trials in flight end, each with some value."""
    with database.write() as session:
        in_flight = select(t.Trial.id, t.Trial.number, t.Trial.study_id).where(t.Trial.state == TrialState.QUEUED)
        for trial_id, number, study_id in draw.sample(list(session.execute(in_flight)), count):
            values = {"state": TrialState.COMPLETED, "value": draw.random()}
            session.execute(update(t.Trial).where(t.Trial.id == trial_id).values(values))
            changes = [Change(study_id, "trial.completed", number)]
            events.append(session, changes=changes, now=database.now(session))


class Ours:
    """The conductor's proposals for one study, in this process and its sampler's."""

    def __init__(self, data_dir: Path, trials: int) -> None:
        self.database: Database = open_database(Settings(data_dir=data_dir))
        plans, hub = Plans(), Hub()
        self.answers: list[float] = []
        """Seconds that the sampler process took to answer."""
        self._asker = Asker(60.0, lambda _, seconds: self.answers.append(seconds))
        self._proposing = Proposing(self.database, plans, hub, self._asker, Alone())
        retention = Retention(self.database, plans, open_store(str(data_dir / "store")))
        self.study = Commands(self.database, plans, hub, retention).submit(document(trials), idempotency_key=None).id
        finish_trials(self.database, plans, self.study, trials)
        with self.database.read() as session:
            (self.family,) = plans.of(studies.get(session, self.study)).families
        self.cpu_s = 0.0
        """CPU seconds of this process in its asks."""
        self._draw = random.Random(1)
        others = set(psutil.Process().children())
        self.fill()
        assert self.created() == trials + IN_FLIGHT
        (self._sampler,) = set(psutil.Process().children()) - others

    def created(self) -> int:
        """Count the study's trials."""
        with self.database.read() as session:
            return studies.get(session, self.study).trials_created

    def fill(self) -> None:
        """Propose until nothing is missing."""
        before = -1
        while before != (before := self.created()):
            self._proposing.fill(self.study)

    def ask(self) -> float:
        """End one trial and return the seconds that its successor took."""
        end(self.database, 1, self._draw)
        begin, cpu_s = time.perf_counter(), time.process_time()
        self._proposing.fill(self.study)
        self.cpu_s += time.process_time() - cpu_s
        return time.perf_counter() - begin

    def sampler_cpu_s(self) -> float:
        """CPU seconds that the sampler process has used so far."""
        spent = self._sampler.cpu_times()
        return float(spent.user + spent.system)

    def ask_for_all(self) -> float:
        """End all trials in flight and return the seconds per successor."""
        end(self.database, IN_FLIGHT, self._draw)
        begin = time.perf_counter()
        self.fill()
        return (time.perf_counter() - begin) / IN_FLIGHT

    def close(self) -> None:
        """End the sampler process and let go of the database."""
        self._asker.close()
        self.database.close()


class Peer:
    """Optuna's own study with as many trials as ours, told and asked as its guide says."""

    def __init__(self, storage: BaseStorage, ours: Ours) -> None:
        axes = {name: Axis(domain) for name, domain in ours.family.swept.items()}
        self._distributions: dict[str, BaseDistribution] = {name: axis.distribution() for name, axis in axes.items()}
        sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True)
        self._study = optuna.create_study(storage=storage, sampler=sampler)
        self._draw = random.Random(1)
        with ours.database.read() as session:
            columns = (t.Trial.params, t.Trial.value, t.Trial.state)
            rows = session.execute(select(*columns).order_by(t.Trial.number)).all()
        for params, value, state in rows:
            told = {name: axis.told(params[name]) for name, axis in axes.items()}
            # An infeasible trial is told as the worst: Optuna would not see a failed one.
            as_state, worst = OptunaState.RUNNING if state == TrialState.QUEUED else OptunaState.COMPLETE, 1.0
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=as_state,
                    value=None if as_state == OptunaState.RUNNING else (worst if value is None else value),
                    params=told,
                    distributions=self._distributions,
                )
            )
        self._open = [number for number, (_, _, state) in enumerate(rows) if state == TrialState.QUEUED]
        self.ask()

    def ask(self) -> float:
        """Tell one trial's value and return the seconds that its successor took."""
        self._study.tell(self._open.pop(self._draw.randrange(len(self._open))), self._draw.random())
        begin = time.perf_counter()
        self._open.append(self._study.ask(self._distributions).number)
        return time.perf_counter() - begin


def storages(folder: Path, quick: bool) -> dict[str, Callable[[], BaseStorage]]:
    """Return Optuna's storages by name."""
    found: dict[str, Callable[[], BaseStorage]] = {"in memory": InMemoryStorage}
    if not quick:
        found["journal file"] = lambda: JournalStorage(JournalFileBackend(str(folder / "journal.log")))
        found["SQLite"] = lambda: RDBStorage(f"sqlite:///{folder / 'peer.sqlite'}")
    return found


def restart(data_dir: Path) -> dict[str, float]:
    """Let a trial end and start `tuner serve`: seconds until ready, of CPU until then, and until the next is stored."""
    database = Database(Settings(data_dir=data_dir).url)
    end(database, 1, random.Random(2))
    with database.read() as session:
        before = studies.get(session, "asking").trials_created
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-P", "-m", "tuner", "serve", "--no-worker", "--port", port, "--data-dir", str(data_dir)]
    environment, begin = {**os.environ, "PYTHONPATH": str(ROOT)}, time.perf_counter()
    found: dict[str, float] = {}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        while True:
            if not found and answers(f"http://127.0.0.1:{port}/readyz"):
                spent = psutil.Process(process.pid).cpu_times()
                found = {"ready": time.perf_counter() - begin, "cpu": spent.user + spent.system}
            with database.read() as session:
                proposed = studies.get(session, "asking").trials_created > before
            if found and proposed:
                return {**found, "next": time.perf_counter() - begin}
            if process.poll() is not None:
                raise SystemExit(f"tuner serve ended with status {process.returncode}")
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
        database.close()


def answers(url: str) -> bool:
    """Whether a server answers there that all is well."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def milliseconds(times: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile in ms."""
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return 1e3 * statistics.median(times), 1e3 * cuts[-1]


def race(many: Ours, few: Ours, peers: dict[str, Peer], turns: int, trials: int) -> tuple[Times, dict[str, float]]:
    """Ask all sides in turns; peers a tenth as often, and those that take long a tenth of that.

    Returns the seconds of each ask, and the CPU seconds per ask of ours, by process.
    """
    times: Times = {f"ours after {trials:,} trials": [], f"ours after {FEW:,} trials": []}
    ours = dict(zip(times, (many, few), strict=True))
    for side in ours.values():
        side.ask()
        side.answers.clear()
    many.cpu_s, sampler_s = 0.0, many.sampler_cpu_s()
    for turn in range(turns):
        for name, side in ours.items():
            times[name].append(side.ask())
        for name, peer in peers.items():
            if turn % (10 if name == "in memory" else 100) == 0:
                times.setdefault(f"Optuna's study.ask, {name}", []).append(peer.ask())
    times["ours: the sampler's answer"] = list(many.answers)
    cpu = {"server": many.cpu_s / turns, "sampler": (many.sampler_cpu_s() - sampler_s) / turns}
    times[f"ours: {IN_FLIGHT} freed at once, per trial"] = [many.ask_for_all() for _ in range(3)]
    return times, cpu


def main() -> None:
    """Measure, print the table, write the JSON file, and compare with the bars."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trials", type=int, default=10_000)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    turns, restarts = (100, 2) if options.quick else (600, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many, few = Ours(folder / "many", options.trials), Ours(folder / "few", FEW)
        peers = {name: Peer(make(), many) for name, make in storages(folder, options.quick).items()}
        times, cpu = race(many, few, peers, turns, options.trials)
        for ours in (many, few):
            ours.close()
        starts = [restart(folder / "many") for _ in range(restarts)]
    print(f"{'ms':<44}{'p50':>9}{'p95':>9}{'asks':>7}")
    for name, seconds in times.items():
        middle, high = milliseconds(seconds)
        print(f"{name:<44}{middle:>9.1f}{high:>9.1f}{len(seconds):>7}")
    start = {name: statistics.median(each[name] for each in starts) for name in starts[0]}
    told = " + ".join(f"{1e3 * seconds:.1f} ({name})" for name, seconds in cpu.items())
    print(f"\nCPU of an ask of ours: {told} ms")
    print(
        f"restarted with {options.trials:,} trials: ready in {start['ready']:.2f} s ({start['cpu']:.2f} s of CPU), "
        f"the next trial stored in {start['next']:.2f} s"
    )
    machine = {"optuna": optuna.__version__, "python": platform.python_version(), "cores": os.cpu_count(),
               "load": os.getloadavg(), "device": platform.machine()}  # fmt: skip
    record = {"machine": machine, "trials": options.trials, "in_flight": IN_FLIGHT, "seconds": times,
              "cpu_seconds": cpu, "restart_seconds": starts}  # fmt: skip
    (Path(__file__).parent / "results" / "asking.json").write_text(json.dumps(record, indent=1) + "\n")
    p50, p95 = milliseconds(times[f"ours after {options.trials:,} trials"])
    for label, value, bound in (("ask-p50-ms", p50, 30), ("ask-p95-ms", p95, 150), ("restart-s", start["ready"], 3)):
        print(f"bar {label} {value:.2f} < {bound} {'ok' if value < bound else 'short'}")


if __name__ == "__main__":
    main()
