"""Commands that read: the tables and reports at 80 columns, and the API's JSON with --json."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import AT, FakeServer, answer, problem, study, study_view, trial
from rich.console import Console
from typer.testing import Result

from tuner.probe import lone_step
from tuner.terminal.tables import plain_table
from tuner.workloads import Task

Run = Callable[..., Result]

BEST = {
    **{"trial": trial(), "grade": "C", "interval": None, "evidence": "one seed; the next configuration is 2 % behind"},
    "snippet": "from tuner import optimizers\n\noptimizer = optimizers.build('muon', parameters, lr=0.0213456)\n",
}
BOARD = {
    **{"study": "demo", "metric": "valid_loss", "goal": "minimize", "grade": "C", "evidence": "one seed each"},
    "rows": [
        {
            "rank": 1,
            "optimizer": "muon",
            "best": trial(),
            "completed": 31,
            "infeasible": 0,
            "trials": 31,
            "median": 0.12,
        },
        {"rank": 2, "optimizer": "sgd", "best": None, "completed": 0, "infeasible": 3, "trials": 3, "median": None},
    ],
}
NOISE = {"value": 123.4567, "low": 98.7, "high": 150.1, "bounded": True, "steps": 20480}
ADVICE = {
    "study": "demo",
    "items": [
        {
            **{"study": "demo", "optimizer": "muon", "grade": "B", "grade_meaning": "from one well-measured run"},
            **{"trial": 7, "noise_scale": NOISE, "critical_batch": 118.2, "interval": [90.0, "Infinity"]},
            **{"cheapest": {"low": 8, "high": 16}, "balanced": {"low": 64, "high": 128}},
            **{"fastest": {"low": 256, "high": 256}, "lr": "scale lr by the square root of the batch"},
            **{"notes": ["BatchNorm is absent"], "next_experiment": "sweep B in {32, 128} for muon"},
        }
    ],
}
TRACEBACK = 'Traceback (most recent call last):\n  File "mine.py", line 3, in loss\n    x[\x1b[1m]\nKeyError: [b]\n'
LR = {
    **{"name": "lr", "default": 0.02, "description": "learning rate", "allowed": "a number in (0, inf)"},
    **{"search": "0.001 to 0.1, log", "swept": True, "source": "Jordan et al. 2024"},
}
CATALOGUE = {
    "optimizers": [
        {
            **{"name": "muon", "summary": "orthogonalised momentum", "formula": "M = mu M + G\nW = W - lr O(M)"},
            **{"reference": "Jordan et al. 2024", "state_per_parameter": 1.0, "hyperparameters": [LR]},
        }
    ],
    "schedules": [{"name": "cosine", "summary": "half a cosine", "formula": "cos", "parameters": []}],
    "methods": [{"name": "tpe", "description": "tree-structured Parzen estimator"}],
    "workloads": [{"name": "digits-mlp", "description": "handwritten digits"}],
}
WORKER = {
    **{"id": 3, "name": "box", "state": "busy", "devices": [{"device": "cuda:0", "width": 64}], "workloads": ["x"]},
    **{"held": 12, "version": "0.1.0", "first_seen": AT, "last_seen": AT},
}
READS: list[tuple[list[str], str, dict[str, Any]]] = [
    (["studies"], "/api/v1/studies", {"items": [study_view(slot_utilisation=0.957)], "next_cursor": None}),
    (["trial", "demo", "7"], "/api/v1/studies/demo/trials/7", trial(error=TRACEBACK, state="failed", value=None)),
    (["trials", "demo"], "/api/v1/studies/demo/trials", {"items": [trial(value="NaN")], "next_cursor": None}),
    (["best", "demo"], "/api/v1/studies/demo/best", BEST),
    (["leaderboard", "demo"], "/api/v1/studies/demo/leaderboard", BOARD),
    (["advice", "demo"], "/api/v1/studies/demo/batch-advice", ADVICE),
    (["catalogue"], "/api/v1/catalogue", CATALOGUE),
    (["workers"], "/api/v1/workers", {"items": [WORKER], "next_cursor": None}),
]


@pytest.fixture(autouse=True)
def api(server: FakeServer) -> FakeServer:
    for _, path, value in READS:
        server.set(path, answer(value))
    server.set("/api/v1/studies/demo", answer(study()))
    return server


def includes(whole: Any, part: Any) -> bool:
    """Whether JSON holds every key and value of `part`."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and includes(whole[key], v) for key, v in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(includes, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize(("command", "path", "value"), READS, ids=[r[0][0] for r in READS])
def test_json_is_what_the_api_sent(tuner: Run, command: list[str], path: str, value: dict[str, Any]) -> None:
    result = tuner(*command, "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert includes(printed, value)
    assert result.stderr == ""


@pytest.mark.parametrize("command", [r[0] for r in READS], ids=[r[0][0] for r in READS])
def test_output_fits_in_80_columns_and_holds_no_control_codes(
    tuner: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = tuner(*command)
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.output
    lines = result.stdout.splitlines()
    snippet = BEST["snippet"].splitlines()
    assert max(len(line.rstrip()) for line in lines if line not in snippet) <= 80


def test_studies_show_how_well_their_slots_were_used(tuner: Run) -> None:
    assert "95 %" in tuner("studies").stdout


def test_best_shows_evidence_and_ends_with_the_snippet(tuner: Run) -> None:
    output = tuner("best", "demo").stdout
    assert "muon reaches valid_loss 0.08123 (trial 7)" in output
    assert "none: one seed only" in output
    assert "C: one seed; the next configuration is 2 % behind" in output
    assert "0.02135" in output
    assert output.endswith(BEST["snippet"])


def test_leaderboard_shows_ranks_and_families_without_a_result(tuner: Run) -> None:
    lines = tuner("leaderboard", "demo").stdout.splitlines()
    first = next(line for line in lines if line.startswith("1"))
    assert first.split()[:5] == ["1", "muon", "0.08123", "0.12", "31/31"]
    assert "lr=0.0213 batch_size=32 schedule=cosine" in first
    assert "momentum=" not in first  # not searched
    second = next(line for line in lines if line.startswith("2"))
    assert second.split() == ["2", "sgd", "-", "-", "0/3", "(3", "infeasible)"]
    assert lines[-1] == "evidence C: one seed each"


def test_advice_shows_ranges_intervals_grade_and_the_next_experiment(tuner: Run) -> None:
    output = tuner("advice", "demo").stdout
    for words in (
        *("64 to 128", "8 to 16 (fewest examples)", "256 (fewest seconds)", "118 (at least 90)"),
        *("123, interval 98.7 to 150, over 20,480 steps", "B: from one well-measured run", "BatchNorm is absent"),
        "sweep B in {32, 128} for muon",
    ):
        assert words in output


def test_advice_says_why_there_is_none(tuner: Run, api: FakeServer) -> None:
    nothing = {
        "study": "demo",
        "optimizer": "muon",
        "grade": "none",
        "grade_meaning": "No grade",
        "headline": "Not measured",
    }
    api.set("/api/v1/studies/demo/batch-advice", answer({"study": "demo", "items": [nothing]}))
    assert "Not measured" in tuner("advice", "demo").stdout


def test_advice_sends_step_times_given_or_measured(
    tuner: Run, api: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(task: Task, optimizer: str, device: str) -> dict[int, float]:
        assert optimizer == "muon" and len(task.train) == 2
        return {16: 0.25, 64: 0.5, 256: 1.0}

    monkeypatch.setattr(lone_step, "time_steps", timed)
    api.set("/api/v1/studies/demo", answer(study(document={"workload": "digits-mlp"})))
    sent = "step_times=16%3D0.25%2C64%3D0.5%2C256%3D1.0"
    assert tuner("advice", "demo", "--step-times", "16=0.25,64=.5,256=1").exit_code == 0
    assert api.asked[-1][1].endswith(f"batch-advice?{sent}")
    result = tuner("advice", "demo", "--measure", "--device", "cpu")
    assert api.asked[-1][1].endswith(f"batch-advice?{sent}&optimizer=muon")
    assert "a step of muon on this machine, by batch size: 16: 250 ms" in result.stderr
    assert "expected BATCH=SECONDS" in tuner("advice", "demo", "--step-times", "16").stderr


def test_trials_asks_for_the_order_and_shows_reasons_in_brackets_as_text(tuner: Run, api: FakeServer) -> None:
    odd = trial(8, value=None, state="infeasible", reason="[red]diverged", worker=None)
    api.set("/api/v1/studies/demo/trials", answer({"items": [trial(), odd], "next_cursor": None}))
    result = tuner("trials", "demo", "--sort", "-value", "--state", "completed", "--limit", "2")
    assert "infeasible: [red]diverged" in result.stdout
    assert "2 of 62 trials" in result.stdout
    query = next(path for _, path, _, _ in api.asked if "/trials?" in path)
    assert {"sort=-value", "state=completed", "limit=2"} <= set(query.partition("?")[2].split("&"))


def test_catalogue_of_one_rule_shows_formula_range_and_source(tuner: Run) -> None:
    output = tuner("catalogue", "muon").stdout
    for words in ("orthogonalised momentum", "W = W - lr O(M)", "0.001 to 0.1, log", "Jordan et al. 2024", "(0, inf)"):
        assert words in output
    missing = tuner("catalogue", "moun")
    assert missing.exit_code == 1
    assert "the catalogue has no 'moun'" in missing.stderr


def test_empty_lists_say_what_to_do(tuner: Run, api: FakeServer) -> None:
    for command, path, words in (
        ("studies", "/api/v1/studies", "tuner submit FILE"),
        ("workers", "/api/v1/workers", "tuner worker"),
    ):
        api.set(path, answer({"items": [], "next_cursor": None}))
        assert words in tuner(command).stdout


def test_no_winner_yet_is_a_failure_of_one_line(tuner: Run, api: FakeServer) -> None:
    api.set("/api/v1/studies/demo/best", problem(404, "tuner:not-found", "no trial of demo is completed yet"))
    result = tuner("best", "demo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: no trial of demo is completed yet\n"


def test_a_failed_trial_shows_the_end_of_its_traceback_in_the_list_and_all_of_it_alone(
    tuner: Run, api: FakeServer
) -> None:
    failed = trial(8, value=None, state="failed", reason="error 1 times; retry.max is 0", error=TRACEBACK)
    api.set("/api/v1/studies/demo/trials", answer({"items": [failed], "next_cursor": None}))
    assert "failed: KeyError: [b]" in tuner("trials", "demo").stdout
    alone = tuner("trial", "demo", "7").stdout
    assert alone.startswith("trial 7 of demo: muon failed: KeyError: [b]\n")
    assert alone.endswith(
        '\n\nTraceback (most recent call last):\n  File "mine.py", line 3, in loss\n    x[?[1m]\nKeyError: [b]\n'
    )
    assert tuner("trial", "demo", "-1").exit_code == 2


def test_a_narrow_terminal_shows_every_range_whole(tuner: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = tuner("advice", "demo").stdout.splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("muon "))
    words = " ".join(lines[row : row + 2]).split()
    assert sorted(words) == sorted("muon 64 to 128 8 to 16 256 118 (at least 90) B".split())


def test_a_narrow_terminal_shows_names_in_words(tuner: Run, api: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not letter by letter below each other; what is cut instead ends in a mark."""
    monkeypatch.setenv("COLUMNS", "60")
    view = study_view(name="demo-22", slot_utilisation=0.957)
    api.set("/api/v1/studies", answer({"items": [view], "next_cursor": None}))
    lines = tuner("studies").stdout.splitlines()
    assert len(lines) == 3 and lines[2].startswith("demo-22 ") and max(map(len, lines)) <= 60
    measured = {**WORKER, "devices": [{"device": "cpu#1"}, {"device": "cpu#2", "width": 8}]}
    api.set("/api/v1/workers", answer({"items": [measured], "next_cursor": None}))
    monkeypatch.setenv("COLUMNS", "120")
    assert "cpu#1, cpu#2 x 8" in tuner("workers").stdout


@pytest.mark.parametrize("width", range(6, 20))
def test_what_a_narrow_terminal_cuts_ends_in_a_mark(width: int) -> None:
    table = plain_table("a", "b", right=("b",))
    table.add_row("8-to-256", "0.08123")
    out = Console(file=io.StringIO(), width=width)
    out.print(table)
    first, second = out.file.getvalue().splitlines()[-1].split()  # type: ignore[attr-defined]
    assert first == "8-to-256" or first.endswith("\u2026")
    assert second == "0.08123" or second.endswith("\u2026")


def test_the_catalogue_needs_no_server(tuner: Run, monkeypatch: pytest.MonkeyPatch, api: FakeServer) -> None:
    monkeypatch.delenv("TUNER_SERVER")
    names = {item["name"] for item in json.loads(tuner("catalogue", "--json").stdout)["optimizers"]}
    assert {"sgd", "adamw", "lbfgs"} <= names
    assert api.asked == []
