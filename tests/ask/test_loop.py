"""A user's own loop against the real server: every way of leaving its body, and what becomes of the trial."""

import contextlib
import os
import pickle
import threading
from typing import Any

import pytest
from in_process import Forwarding
from over_http import wait_for
from own_studies import own_study

from tuner.ask.trial import Trial
from tuner.client import Client
from tuner.errors import Conflict, InvalidInput, NotFound, TunerError
from tuner.study.states import StudyState, TrialState

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def states(tuned: Client) -> list[TrialState]:
    return [trial.state for trial in tuned.trials("own")]


def test_a_loop_trains_a_study_to_its_end(tuned: Client) -> None:
    own_study(tuned, run_cap=3)
    seen = []
    for trial in tuned.ask("own"):
        assert 0 <= trial.params.x <= 1 and trial.params["kind"] in ("a", "b") and set(trial.params) == {"x", "kind"}
        assert trial.seed == 0 and not trial.should_stop and trial.stop_reason is None
        for step in range(5):
            trial.report(step=step, examples=10 * step, loss=trial.params.x / (step + 1))
        trial.finish()
        seen.append((trial.number, trial.params.x / 5))
    assert [number for number, _ in seen] == [0, 1, 2]
    found = list(tuned.trials("own"))
    assert [(trial.number, trial.value) for trial in found] == [(n, pytest.approx(v)) for n, v in seen]
    assert {trial.state for trial in found} == {TrialState.COMPLETED} and {trial.examples for trial in found} == {40}
    assert tuned.study("own").state == StudyState.COMPLETED
    curve = tuned.curve("own", 0)
    assert curve.step == [0, 1, 2, 3, 4] and curve.examples == [0, 10, 20, 30, 40]
    assert list(tuned.ask("own")) == [], "a study that has ended has nothing to ask for"


@SQLITE
def test_the_end_of_the_body_and_continue_finish_with_what_was_reported(tuned: Client) -> None:
    own_study(tuned, run_cap=2)
    for trial in tuned.ask("own"):
        trial.report(loss=0.5)
        trial.report(loss=0.25)
        if trial.number == 0:
            continue
    assert [trial.value for trial in tuned.trials("own")] == [0.25, 0.25]
    assert tuned.trial("own", 0).step == 2


@SQLITE
def test_a_value_given_at_the_end_counts_and_the_first_word_does(tuned: Client) -> None:
    own_study(tuned, run_cap=1)
    for trial in tuned.ask("own"):
        trial.finish(0.125)
        trial.finish(0.5)
        trial.fail("too late")
        with pytest.raises(Conflict, match="takes no more reports"):
            trial.report(loss=1)
    assert [trial.value for trial in tuned.trials("own")] == [0.125]


@SQLITE
def test_a_body_without_its_metric_fails_trial_and_loop(tuned: Client) -> None:
    own_study(tuned, run_cap=2)
    with pytest.raises(InvalidInput, match=r"loss: trial 0 has no value: it reported other; report it, or call finish"):
        for trial in tuned.ask("own"):
            trial.report(other=1)
    assert "it reported other" in str(tuned.trial("own", 0).error)
    assert tuned.trial("own", 0).state == TrialState.FAILED


def failing(trial: Trial) -> None:
    raise RuntimeError(f"boom in trial {trial.number}")


def around(tuned: Client) -> None:
    for trial in tuned.ask("own"):
        trial.report(loss=1)
        failing(trial)


@pytest.mark.parametrize("where", ["same frame", "calling frame", "held", "in a thread", "with"])
def test_an_exception_fails_the_trial_with_its_traceback_and_goes_on(tuned: Client, where: str) -> None:
    own_study(tuned, run_cap=2)
    if where == "same frame":
        with pytest.raises(RuntimeError, match="boom in trial 0"):
            for trial in tuned.ask("own"):
                failing(trial)
    elif where == "calling frame":
        with contextlib.suppress(RuntimeError):
            around(tuned)
    elif where == "held":
        loop = tuned.ask("own")
        try:
            for trial in loop:
                failing(trial)
        except RuntimeError:
            assert tuned.trial("own", 0).state == TrialState.FAILED, "it has failed before the handler runs"
    elif where == "in a thread":
        thread = threading.Thread(target=lambda: contextlib.suppress(RuntimeError)(around)(tuned))
        thread = threading.Thread(target=_suppressed, args=(tuned,))
        thread.start()
        thread.join()
    else:
        with contextlib.suppress(ZeroDivisionError):
            for trial in tuned.ask("own"):
                trial.report(loss=1 / 0)
    trial = tuned.trial("own", 0)
    assert trial.state == TrialState.FAILED, "its code raised: it is not tried again"
    error = trial.error or ""
    assert error.startswith("Traceback (most recent call last)")
    assert ("ZeroDivisionError: division by zero" if where == "with" else "RuntimeError: boom in trial 0") in error
    assert where == "with" or "in failing" in error
    assert trial.reason in ("RuntimeError: boom in trial 0", "ZeroDivisionError: division by zero")


def _suppressed(tuned: Client) -> None:
    with contextlib.suppress(RuntimeError):
        around(tuned)


@SQLITE
def test_an_exception_that_was_caught_before_is_not_the_reason_of_a_break(tuned: Client) -> None:
    own_study(tuned, run_cap=2)
    kept = []
    for trial in tuned.ask("own"):
        trial.report(loss=1)
        try:
            failing(trial)
        except RuntimeError as error:
            kept.append(error)
        break
    assert kept and tuned.trial("own", 0).state == TrialState.COMPLETED


@SQLITE
@pytest.mark.parametrize("leave", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_gives_the_trial_back_uncharged(tuned: Client, leave: type[BaseException]) -> None:
    own_study(tuned, run_cap=1)
    with pytest.raises(leave):
        for trial in tuned.ask("own"):
            trial.report(loss=1)
            raise leave
    assert states(tuned) == [TrialState.QUEUED]
    for trial in tuned.ask("own"):
        assert trial.number == 0 and trial.attempt == 2
        trial.finish(1)


@SQLITE
def test_a_break_without_a_result_gives_the_trial_back(tuned: Client) -> None:
    own_study(tuned, run_cap=1)
    for _ in tuned.ask("own"):
        break
    assert states(tuned) == [TrialState.QUEUED]


@SQLITE
def test_fail_says_why_and_is_final(tuned: Client) -> None:
    own_study(tuned, run_cap=1)
    for trial in tuned.ask("own"):
        trial.fail("the data is not there")
    found = tuned.trial("own", 0)
    assert found.state == TrialState.FAILED and found.reason == "the data is not there"


@SQLITE
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_infeasible(tuned: Client, value: float) -> None:
    own_study(tuned, run_cap=1)
    for trial in tuned.ask("own"):
        trial.report(loss=value)
        trial.finish(value)
    assert tuned.trial("own", 0).state == TrialState.INFEASIBLE
    assert tuned.trial("own", 0).reason == "diverged"


def test_a_stopped_trial_is_told_so_and_the_next_one_comes(tuned: Client) -> None:
    own_study(tuned, run_cap=2)
    for trial in tuned.ask("own"):
        trial.report(step=1, loss=1)
        if trial.number == 0:
            tuned.stop_trial("own", 0)
            wait_for(lambda trial=trial: trial.should_stop)
            assert trial.stop_reason is not None and trial.stop_reason.startswith("stop: ")
            trial.report(step=2, loss=0.5)
            continue
    assert states(tuned) == [TrialState.CANCELLED, TrialState.COMPLETED]
    assert tuned.curve("own", 0).step == [1, 2], "what was reported before it was left is kept"


@SQLITE
def test_a_result_beats_a_stop(tuned: Client) -> None:
    own_study(tuned, run_cap=1)
    for trial in tuned.ask("own"):
        tuned.stop_trial("own", 0)
        wait_for(lambda trial=trial: trial.should_stop)
        trial.finish(0.5)
    assert states(tuned) == [TrialState.COMPLETED]


def test_the_iteration_ends_with_the_study(tuned: Client) -> None:
    own_study(tuned, run_cap=10)
    for trial in tuned.ask("own"):
        tuned.stop("own")
        wait_for(lambda trial=trial: trial.should_stop)
    assert TrialState.COMPLETED not in states(tuned)
    with pytest.raises(NotFound, match="no study 'nothing'"):
        tuned.ask("nothing")


@SQLITE
def test_a_deleted_study_ends_the_loop_with_an_error(tuned: Client) -> None:
    own_study(tuned, run_cap=10)
    with pytest.raises(NotFound):
        for trial in tuned.ask("own"):
            tuned.delete("own")
            wait_for(lambda trial=trial: trial.should_stop)


@SQLITE
def test_next_works_as_well(tuned: Client) -> None:
    own_study(tuned, run_cap=2)
    loop = tuned.ask("own")
    first = next(loop)
    first.report(loss=0.5)
    second = next(loop)
    assert (first.number, second.number) == (0, 1) and first.ended
    second.finish(0.25)
    with pytest.raises(StopIteration):
        next(loop)
    alone = own_study(tuned, name="other", run_cap=1)
    trial = next(other := tuned.ask(alone.name))
    trial.report(loss=1.0)
    other.close()
    assert tuned.trial("other", 0).value == 1.0, "as if its loop had been left by a break"


def test_the_server_may_be_away_while_the_loop_goes_on(both: tuple[Client, Forwarding]) -> None:
    tuned, between = both
    own_study(tuned, run_cap=2)
    for trial in tuned.ask("own"):
        trial.report(step=1, loss=3)
        between.away = True
        for step in range(2, 50):
            trial.report(step=step, loss=3 / step)
        trial.finish()
        threading.Timer(0.5, lambda: setattr(between, "away", False)).start()
    assert states(tuned) == [TrialState.COMPLETED] * 2
    assert tuned.curve("own", 0).step == list(range(1, 50)), "nothing is lost"


@SQLITE
def test_many_reports_make_few_requests(both: tuple[Client, Forwarding]) -> None:
    tuned, between = both
    own_study(tuned, run_cap=1)
    for trial in tuned.ask("own"):
        before = between.requests
        for step in range(900):
            trial.report(step=step, loss=1.0)
    assert between.requests - before < 15
    assert len(tuned.curve("own", 0, points=1000).step) == 900


def test_eight_loops_never_get_the_same_trial(tuned: Client) -> None:
    own_study(tuned, run_cap=40)
    taken: list[int] = []

    def work() -> None:
        for trial in tuned.ask("own"):
            taken.append(trial.number)
            trial.finish(trial.params.x)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40)), "each trial once, and no more than the cap"


@SQLITE
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"loss": "high"}, "loss"),
        ({"loss": [1, 2]}, "loss"),
        ({"loss": 1, "step": -1}, "step"),
        ({"loss": 1, "examples": 1.5}, "examples"),
        ({}, "report"),
        ({"loss": 1, "step": "x"}, "step"),
    ],
)
def test_what_is_reported_wrongly_is_refused_by_name(tuned: Client, arguments: dict[str, Any], field: str) -> None:
    own_study(tuned, run_cap=1)
    for trial in tuned.ask("own"):
        with pytest.raises(InvalidInput) as caught:
            trial.report(**arguments)
        assert [fault.field for fault in caught.value.faults] == [field]
        trial.finish(1)


@SQLITE
def test_a_forked_process_and_a_pickle_are_told_clearly(tuned: Client) -> None:
    own_study(tuned, run_cap=1)
    for trial in tuned.ask("own"):
        with pytest.raises(TypeError, match=r"pass `dict\(trial.params\)`"):
            pickle.dumps(trial)
        assert pickle.loads(pickle.dumps(trial.params)) == trial.params
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                trial.report(loss=1)
            except TunerError as error:
                os.write(writing, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert "a forked process cannot report for it" in os.read(reading, 1000).decode()
        trial.finish(1)
    with pytest.raises(TypeError, match="each process asks for itself"):
        pickle.dumps(tuned.ask("own"))


@SQLITE
def test_the_checkpoint_folder_is_the_trials_own_and_stays(tuned: Client) -> None:
    own_study(tuned, run_cap=2)
    folders = []
    with pytest.raises(KeyboardInterrupt):
        for trial in tuned.ask("own"):
            (trial.checkpoint_dir / "state").write_text("17")
            folders.append(trial.checkpoint_dir)
            raise KeyboardInterrupt
    for trial in tuned.ask("own"):
        assert (trial.checkpoint_dir / "state").exists() == (trial.number == 0)
        folders.append(trial.checkpoint_dir)
        trial.finish(1)
    assert folders[0] == folders[1] != folders[2]


@SQLITE
def test_a_study_of_the_engine_can_be_trained_by_own_code(tuned: Client) -> None:
    tuned.submit(
        {"name": "built-in", "workload": "digits-mlp", "optimizers": ["sgd"], "run_cap": 2, "method": "random"}
    )
    for trial in tuned.ask("built-in"):
        assert trial.params.optimizer == "sgd" and trial.params.batch_size == 32
        trial.report(step=3, valid_loss=0.5)
    assert [trial.examples for trial in tuned.trials("built-in")] == [96, 96]


@SQLITE
def test_a_reproducible_study_is_not_for_own_code(tuned: Client) -> None:
    document = {"name": "r", "workload": "digits-mlp", "optimizers": ["sgd"], "run_cap": 2, "reproducible": True}
    tuned.submit(document)
    with pytest.raises(Conflict, match="is reproducible: one program"):
        tuned.ask("r")


def test_a_paused_study_pauses_the_loop_and_the_trial_comes_again(tuned: Client) -> None:
    own_study(tuned, run_cap=2)
    attempts = []
    for trial in tuned.ask("own"):
        attempts.append((trial.number, trial.attempt))
        if len(attempts) == 1:
            trial.report(step=1, loss=1)
            tuned.pause("own")
            wait_for(lambda trial=trial: trial.should_stop)
            assert trial.stop_reason is not None and trial.stop_reason.startswith("pause: ")
            threading.Timer(0.5, lambda: tuned.resume("own")).start()
            continue
        trial.finish(0.5)
    assert attempts == [(0, 1), (0, 2), (1, 1)]
    assert states(tuned) == [TrialState.COMPLETED] * 2


@SQLITE
def test_a_given_configuration_comes_first(tuned: Client) -> None:
    own_study(tuned, run_cap=2, enqueue=[{"x": 7.5, "kind": "a"}])
    seen = []
    for trial in tuned.ask("own"):
        seen.append(trial.params.x)
        trial.finish(1)
    assert seen[0] == 7.5 and seen[1] <= 1


@SQLITE
def test_a_last_word_and_the_next_question_are_one_request(both: tuple[Client, Forwarding]) -> None:
    tuned, between = both
    own_study(tuned, run_cap=12, method="random")
    before = None
    for trial in tuned.ask("own"):
        before = between.requests if before is None else before
        trial.report(loss=1.0)
        trial.finish()
    assert before is not None and between.requests - before <= 18, "12 of them, and a few under load"


@SQLITE
def test_a_thread_that_fails_ends_the_loop_and_not_in_silence(tuned: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    own_study(tuned, run_cap=2)
    with pytest.raises(TunerError, match="the thread of this loop failed: KeyError: 'odd'"):
        for trial in tuned.ask("own"):
            monkeypatch.setattr("tuner.ask.session.Session._apply", lambda *_: {}["odd"])
            wait_for(lambda trial=trial: trial.should_stop)
            monkeypatch.undo()


@SQLITE
def test_a_result_that_does_not_count_is_said(tuned: Client, caplog: pytest.LogCaptureFixture) -> None:
    own_study(tuned, run_cap=2)
    with pytest.raises(NotFound):
        for trial in tuned.ask("own"):
            tuned.delete("own")
            wait_for(lambda trial=trial: trial.should_stop)
            trial.finish(1)
    assert "the result of trial 0 does not count" in caplog.text


@SQLITE
def test_a_drained_loop_gives_its_trial_back_and_ends(tuned: Client) -> None:
    own_study(tuned, run_cap=5)
    seen = []
    for trial in tuned.ask("own"):
        seen.append(trial.number)
        (worker,) = tuned.workers()
        tuned.drain(worker.id)
        wait_for(lambda trial=trial: trial.should_stop)
        assert trial.stop_reason == "pause: this loop was told to leave"
    assert seen == [0] and tuned.trial("own", 0).state == TrialState.QUEUED
