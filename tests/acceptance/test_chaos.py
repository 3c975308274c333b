"""Whatever is killed, lost or full meanwhile: the finished study is the one that an undisturbed run gives.

Three workers, on SQLite one server, on PostgreSQL one and then two; kill -9 at random to servers, workers and device
processes; a tenth of the requests and of the replies is lost; once, nothing can be written; of two servers, one is
stopped for a while. `make chaos` is the long
form of it, with figures.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet import LEASE_S, TAKEOVER_S, WIDTH, WORKERS, Fleet
from live_server import wait_for
from postgresql import postgresql_server

from storage import attempts, reports, studies, trials

KILLS = int(os.environ.get("CHAOS_KILLS", "8"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
NOTICED_S = 3.0
"""Beyond a lease: rounds of the server, and a machine with other things to do."""
DOCUMENT: dict[str, Any] = {
    "workload": "paced",
    "optimizers": ["adamw", "sgd"],
    "parameters": {"batch_size": 32, "schedule": "cosine"},
    "method": "random",
    "micro_batch": 8,
    "reproducible": True,  # otherwise another process may have found another program
    "run_cap": max(18, 5 * KILLS - 20),
    "parallel": WORKERS * WIDTH,
    "budget": {"examples_per_trial": 3200},
    "retry": {"max": 100},
}


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with database_of(request.param) as url:
        found = Fleet(tmp_path, url, SEED)
        yield found
        found.close()


@contextmanager
def database_of(kind: str) -> Iterator[str | None]:
    if kind == "sqlite":
        yield None
        return
    with postgresql_server() as server:
        yield server.url


def order(fleet: Fleet) -> list[str]:
    """What to kill, at random: of every five two servers, two workers and a device process. The last is a worker."""
    found = [("server", "worker", "device", "worker", "server")[number % 5] for number in range(KILLS)]
    fleet.draw.shuffle(found)
    found.remove("worker")
    return [*found, "worker"]


@pytest.mark.timeout(60 * KILLS)
def test_chaos_only_delays_a_study(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    wait_for(lambda: len(fleet.servers[0].get("/workers")["items"]) == WORKERS, "the workers to register")
    begun = time.monotonic()
    fleet.servers[0].submit({**DOCUMENT, "name": "disturbed"})
    wait_for(lambda: len(attempts_of(fleet, "disturbed")) >= WORKERS * WIDTH, "the first trials to be under way")
    for number, what in enumerate(order(fleet)):
        if number == KILLS // 3:
            check_full_disk(fleet)
        if number == KILLS // 2 and not fleet.database.is_sqlite:
            fleet.add_server()
            fleet.stop_one()
        time.sleep(fleet.draw.uniform(0.3, 2.0))
        fleet.kill(what)
    assert fleet.state("disturbed") == "running", "it was over before the last kill"
    fleet.pace.lift()
    wait_for(lambda: fleet.zombies() == 0, "the leases of dead workers to end")
    zombies_s = time.monotonic() - fleet.worker_killed_at
    assert fleet.orphaned > 0, "the last worker held nothing"
    assert time.monotonic() <= max(fleet.worker_killed_at, fleet.server_up_at) + LEASE_S + NOTICED_S
    wait_for(lambda: fleet.state("disturbed") == "completed", "the study to complete", 40.0 * KILLS)
    disturbed_s = time.monotonic() - begun
    fleet.servers[0].submit({**DOCUMENT, "name": "calm"})
    wait_for(lambda: fleet.state("calm") == "completed", "the undisturbed study to complete", 40.0 * KILLS)
    compare(fleet)
    retried = attempts_of(fleet, "disturbed")
    assert sum(retried) > len(retried)
    assert all(seconds <= TAKEOVER_S for seconds in fleet.takeovers_s), fleet.takeovers_s
    for server in fleet.servers:
        assert "Traceback" not in server.log(), server.log()
    with capsys.disabled():
        sys.stdout.write(figures(fleet, retried, disturbed_s, zombies_s))


def check_full_disk(fleet: Fleet) -> None:
    """Nothing can be written for a while: who wants to is told so, and nothing else happens."""
    fleet.fill_disk()
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        answer = fleet.servers[0].client.post("/api/v1/studies", json={**DOCUMENT, "name": "unwritten"}, timeout=30)
        assert answer.status_code == 503, answer.text
    fleet.empty_disk()
    wait_for(lambda: fleet.servers[0].client.get("/readyz", timeout=10).status_code == 200, "it to be ready again")


def attempts_of(fleet: Fleet, study: str) -> list[int]:
    """How many attempts each trial has had that was leased at all."""
    with fleet.database.read() as session:
        found = trials.of_study(session, study_id=studies.get(session, study).id)
        return [trial.attempt for trial in found if trial.attempt]


def compare(fleet: Fleet) -> None:
    """Both studies have the same trials, with the same results and the same curves."""
    with fleet.database.read() as session:
        ids = [studies.get(session, name).id for name in ("disturbed", "calm")]
        disturbed, calm = (trials.of_study(session, study_id=study) for study in ids)
        curves = [reports.effective_rows(session, trial_ids=[x.id for x in found]) for found in (disturbed, calm)]
        held = attempts.leases(session, study_ids=ids)
    assert not held and [trial.number for trial in disturbed] == list(range(DOCUMENT["run_cap"]))
    result = lambda x: (x.number, x.params, x.seed, x.state, x.reason, x.value, x.step, x.examples)  # noqa: E731
    assert [result(trial) for trial in disturbed] == [result(trial) for trial in calm]
    assert sum(trial.state == "completed" for trial in calm) > len(calm) // 2
    for one, other in zip(disturbed, calm, strict=True):
        rows = [[(r.step, r.examples, r.metrics, r.noise) for r in curves[i][x.id]] for i, x in enumerate((one, other))]
        assert rows[0] == rows[1], f"trial {one.number}"


def figures(fleet: Fleet, retried: list[int], disturbed_s: float, zombies_s: float) -> str:
    kind = "sqlite" if fleet.database.is_sqlite else "postgresql"
    kills = ", ".join(f"{count} x {what}" for what, count in fleet.kills.items())
    takeovers = " ".join(f"{seconds:.1f}" for seconds in fleet.takeovers_s) or "-"
    lost = f"{sum(fleet.proxy.lost.values())} of {fleet.proxy.passed}"
    return (
        f"\n{kind}: {sum(fleet.kills.values())} kills ({kills}), {lost} messages lost, {len(retried)} trials with "
        f"{sum(retried) - len(retried)} retries, {disturbed_s:.0f} s; no zombie of {fleet.orphaned} "
        f"{zombies_s:.1f} s after the last kill (lease {LEASE_S:g} s); takeovers in s: {takeovers}\n"
    )
