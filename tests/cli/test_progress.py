"""Live progress: pace, what is drawn at 80 columns, and the plain lines where there is no terminal."""

import io

import pytest
from fake_server import study_view, trial
from rich.console import Console

from tuner.terminal import progress as progress_module
from tuner.terminal.progress import Pace, Progress
from tuner.wire.views import StudyView


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def view(completed: int, examples: int = 0, running: int = 4, state: str = "running", **more: object) -> StudyView:
    counts = {"completed": completed, "running": running}
    values = study_view(counts=counts, examples_done=examples, run_cap=10, examples_per_trial=1000, state=state, **more)
    return StudyView.model_validate(values)


def test_share_counts_ended_trials_and_examples() -> None:
    assert Pace.share(view(0)) == 0.0
    assert Pace.share(view(0, examples=2500)) == 0.25
    assert Pace.share(view(5, examples=2500)) == 0.5
    assert Pace.share(view(10, examples=99_000)) == 1.0


def test_pace_does_not_count_the_wait_for_a_worker() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.note(view(0, running=0))
    assert (pace.trials_per_second(), pace.remaining_s()) == (None, None)
    clock.now += 60  # a worker starts
    pace.note(view(0))
    clock.now += 10
    pace.note(view(2, examples=2000))
    assert pace.trials_per_second() == pytest.approx(0.2)
    assert pace.remaining_s() == pytest.approx(40.0)
    clock.now += 15
    assert pace.remaining_s() == pytest.approx(25.0)


def test_what_is_left_is_judged_by_the_last_seconds() -> None:
    clock = Clock()
    pace = Pace(clock)
    for share in (0, 1000, 2000, 3000, 3500, 4000, 4500):  # 10 % per 10 s, then 5 % per 10 s
        pace.note(view(0, examples=share))
        clock.now += 10
    clock.now -= 10
    assert pace.remaining_s() == pytest.approx(110.0, rel=0.1)


def test_what_a_study_needs_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY_S", 0.0)
    needs = "waiting for a worker that runs program abc; b: width 8"
    waiting = view(2, running=0, slot_utilisation=0.949, notice=needs)
    out = Console(file=io.StringIO(), width=80)
    with Progress(out, "http://x") as progress:
        progress.follow([view(2), waiting, waiting])
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [("waiting for a worker that runs program abc" in line) for line in lines] == [False, True]
    assert "94 % of the slots used" in lines[1]
    on_screen = Progress(terminal(), "http://x")
    with on_screen:
        on_screen.follow([waiting])
        text = drawn(on_screen)
    assert (
        text.count("waiting for a worker that runs program abc; b: width 8") == 1 and "94 % of the slots used" in text
    )


def test_the_speed_and_the_program_have_their_own_line() -> None:
    programs = [
        {"fingerprint": "f" * 12, "words": "compiled, width 64, 1 thread", "trials": 90, "devices": 2},
        {"fingerprint": "e" * 12, "words": "eager, width 8, 1 thread", "trials": 3, "devices": 1},
    ]
    speed = "123,457 examples/s, 2 x compiled, width 64, 1 thread, and 1 other program"
    now = view(2, examples_per_second=123456.7, running_programs=programs)
    on_screen = Progress(terminal(), "http://x")
    with on_screen:
        on_screen.follow([now])
        assert drawn(on_screen).splitlines()[2].rstrip() == speed
        on_screen.follow([view(2)])
        assert "examples/s" not in drawn(on_screen)
    out = Console(file=io.StringIO(), width=80)
    with Progress(out, "http://x") as progress:
        progress.follow([now])
    assert f"; {speed}" in out.file.getvalue()  # type: ignore[attr-defined]


def drawn(progress: Progress, width: int = 80) -> str:
    out = Console(file=io.StringIO(), width=width, legacy_windows=False)
    out.print(progress.render())
    return out.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, _environ={})


def test_a_terminal_shows_the_bar_the_pace_the_best_and_the_dashboard() -> None:
    clock = Clock()
    progress = Progress(terminal(), "http://127.0.0.1:8700/studies/demo", Pace(clock))
    assert drawn(progress) == "waiting for the server\n"

    def views() -> list[StudyView]:
        yield view(0)
        clock.now += 10
        yield view(2, examples=2000, best=trial())

    with progress:
        progress.follow(views())
        lines = drawn(progress).splitlines()
        assert lines[0].startswith("demo running ━")
        assert lines[1].rstrip() == "2/10 trials, 4 running, 0.2 trials/s, 40 s left"
        assert "best valid_loss 0.08123 by trial 7: muon lr=0.0213 batch_size=32" in lines[2]
        assert lines[-1].rstrip() == "http://127.0.0.1:8700/studies/demo"
        progress.away("no server at http://x: connection refused")
        assert "connection refused (retrying)" in drawn(progress)
        progress.away(None)
        assert "connection refused" not in drawn(progress)


def test_a_pipe_gets_plain_lines_when_trials_end_and_a_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY_S", 0.0)
    out = Console(file=io.StringIO(), width=80)
    with Progress(out, "http://x") as progress:
        progress.follow([view(0), view(0, examples=10), view(1, 1000), view(10, 10_000, 0, "completed", best=trial())])
        progress.away("no server at http://x")
        progress.away("no server at http://x")
        progress.away(None)
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(",")[0] for line in lines] == [
        *("demo running: 0/10 trials", "demo running: 1/10 trials", "demo completed: 10/10 trials"),
        *("no server at http://x (retrying)", "the server is back"),
    ]
    assert "best valid_loss 0.08123 by trial 7" in lines[2]
    assert not any("\x1b" in line for line in lines)


def test_lines_in_a_pipe_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY_S", 3600.0)
    out = Console(file=io.StringIO(), width=80)
    with Progress(out, "http://x") as progress:
        progress.follow([view(n) for n in range(10)] + [view(10, state="stopped", reason="by hand")])
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert lines[1].startswith("demo stopped: 10/10 trials")
    assert lines[1].split(";")[0].endswith(", by hand")
