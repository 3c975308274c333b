"""The check-up: one workload per warning, each with that warning alone; faults with the user's own frames."""

import math
import re
from pathlib import Path

import input_kinds
import numpy as np
import peculiar_workloads
import pytest
import torch
from peculiar_workloads import X, Y, plain, task

import tuner
from tuner import workloads
from tuner.optimizers.catalogue import catalogue, rule_class
from tuner.probe.checkup import Report, check_up, warnings
from tuner.probe.checkup.rules import family_of, representatives


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a few ticks only."""
    monkeypatch.setattr("tuner.probe.checkup.checkup.TIMED_S", 0.0)


def checked(name: str, **params: object) -> Report:
    return check_up(name, params)  # type: ignore[arg-type]


def test_a_sound_workload_is_told_in_full() -> None:
    report = checked("check-sound", hidden=5)
    assert (report.fault, report.warnings, report.why_not_stacked) == (None, [], None)
    assert (report.train_examples, report.valid_examples, report.micro_batch) == (40, 40, 8)
    assert report.parameters == 7 * 5 + 5 + 5 * 3 + 3
    assert report.roles == {
        "matrix": {"0.weight": [5, 7]},
        "vector": {"0.bias": [5], "3.bias": [3]},
        "head": {"3.weight": [3, 5]},
    }
    assert (report.path, report.whole_batches) == ("eager", False)
    assert 0.5 < report.metrics["valid_loss"] < 2
    assert {one.family: (one.optimizer, one.error) for one in report.rules} == {
        "elementwise": ("sgd", None),
        "matrix": ("muon", None),
        "averaging": ("schedule_free_sgd", None),
        "line search": ("gd_exact", None),
        "curvature": ("newton_cg", None),
    }
    assert report.alone_s is not None and report.alone_s > 0
    assert report.stacked_s is not None and report.stacked_s > 0
    assert list(report.memory) == [1, 8, 64]
    assert 8 * report.memory[8] > report.memory[64] > report.memory[8] > report.memory[1] > 0


def test_layers_and_what_patterns_match_are_told() -> None:
    report = check_up("check-sound", {"hidden": 5}, patterns=["3.*", "*.bias"])
    assert report.fault is None
    assert report.depths == {"0.weight": 1, "0.bias": 1, "3.weight": 0, "3.bias": 0}
    assert report.matches == {"3.*": ["3.weight", "3.bias"], "*.bias": ["0.bias", "3.bias"]}


def test_a_pattern_that_matches_nothing_is_a_fault() -> None:
    report = check_up("check-sound", {"hidden": 5}, patterns=["3.*", "hed.*"])
    told = "'hed.*' matches no parameter that is trained; those are 0.weight, 0.bias, 3.weight, 3.bias"
    assert report.fault is not None and told in report.fault
    assert report.matches["hed.*"] == [] and report.roles


def test_every_rule_of_the_catalogue_has_a_family_that_is_tried() -> None:
    assert {family_of(rule_class(name)) for name in catalogue()} == set(representatives())


WARNINGS = {
    "check-sum": ["The loss is a sum"],
    "check-foreign": [r"does not hold take part in the loss \((\[2, 3\], \[2\]|\[2\], \[2, 3\])\)"],
    "check-unused": [r"No gradient reaches spare:"],
    "check-random": [r"Random numbers drawn in the model itself \(FunctionalDropout\) force"],
    "check-random-loss": [r"Random numbers drawn in the loss force .* tuner.draws.normal_like\(x\) instead of"],
    "check-draws": [],
    "check-positions": [r'Only by their shape .* take positions .*Task\(roles=\{"positions": "embedding"\}\)'],
    "check-positions-told": [],
    "check-experts": [r'leave experts to AdamW.*Task\(roles=\{"experts": "matrix"\}\) makes each'],
    "check-experts-told": [],
    "check-head": [r'head.weight runs last.*Task\(roles=\{"head.weight": "head", "body.weight": "matrix"\}\)'],
    "check-infinite": ["initial weights is inf: every trial would end as diverged"],
    "check-batch-norm": [],
}


@pytest.mark.parametrize("name", WARNINGS)
def test_each_peculiarity_has_its_warning_and_no_other(name: str) -> None:
    report = checked(name)
    assert report.fault is None
    assert len(report.warnings) == len(WARNINGS[name]), report.warnings
    for pattern, warning in zip(WARNINGS[name], report.warnings, strict=True):
        assert re.search(pattern, warning), warning


def test_draws_of_the_trials_own_stack() -> None:
    report = checked("check-draws")
    assert report.path == "eager" and report.why_not_stacked is None and not report.whole_batches


def test_recurrent_weights_are_named_and_say_why_the_model_runs_as_a_loop() -> None:
    report = checked("check-recurrent")
    assert report.path == "loop" and report.why_not_stacked
    (told,) = [text for text in report.warnings if "recurrent weights" in text]
    assert "memory.weight_ih_l0, memory.weight_hh_l0" in told and '"vector"' in told


def test_a_family_that_cannot_train_the_model_is_a_warning() -> None:
    report = checked("check-first-order")
    assert report.fault is None
    failed = {one.family for one in report.rules if one.error}
    assert failed == {"curvature", "line search"}  # the exact line search asks for a second derivative too
    assert any(
        text.startswith(
            "newton_cg, which stands for the family 'curvature', cannot train this model: RuntimeError: no s"
        )
        for text in report.warnings
    )


def test_whole_batches_are_told() -> None:
    assert checked("check-batch-norm").whole_batches


def test_large_data_data_from_files_and_data_on_a_device(tmp_path: Path) -> None:
    small = task(plain)
    assert warnings.of_data(small, None) == warnings.of_data(small, 10**6) == []
    (told,) = warnings.of_data(small, X.nbytes + Y.nbytes)
    assert told.startswith("The data takes ") and "numpy.memmap" in told
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    (told,) = warnings.of_data(task(plain, train=(mapped, Y)), None)
    assert str(tmp_path / "x.npy") in told and "every worker" in told
    elsewhere = torch.zeros(40, 7, device="meta")
    (told,) = warnings.of_data(task(plain, train=(elsewhere, Y)), None)
    assert told.startswith("Data lies on meta already")


def test_a_fault_in_a_layer_names_the_layer() -> None:
    report = checked("check-shapes")
    assert report.fault is not None
    assert "mat1 and mat2 shapes cannot be multiplied" in report.fault
    assert report.fault.endswith("in the layer 2 (Linear)")
    assert "site-packages" not in report.fault and "checkup" not in report.fault
    assert report.parameters == 7 * 6 + 6 + 5 * 3 + 3


def test_a_fault_of_the_users_code_keeps_the_users_frames_alone() -> None:
    report = checked("check-metric")
    assert report.fault is not None
    own = Path(peculiar_workloads.__file__)
    frames = [line for line in report.fault.splitlines() if line.startswith("  File")]
    assert len(frames) == 2 and all(str(own) in frame for frame in frames)
    assert report.fault.endswith("KeyError: 'no such class'")


def test_a_fault_after_an_update_is_found_in_the_stack() -> None:
    report = checked("check-untrainable")
    assert report.fault is not None and report.fault.endswith("RuntimeError: it has learnt something")
    assert "peculiar_workloads.py" in report.fault and "site-packages" not in report.fault
    assert report.metrics and report.alone_s is None


def test_a_fault_while_loading_and_wrong_parameters() -> None:
    fault = checked("check-loading", directory="/nowhere").fault
    assert fault is not None and "FileNotFoundError" in fault and "peculiar_workloads.py" in fault
    fault = checked("check-sound", hiden=3).fault
    assert fault == "workload.params.hiden: is unknown; check-sound takes hidden"


def test_threads_and_random_numbers_are_left_as_they_were() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    checked("check-random")
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


def test_built_in_workloads_have_no_fault() -> None:
    for name in ("rosenbrock", "linear-regression", "digits-cnn"):
        report = checked(name)
        assert report.fault is None and math.isfinite(report.metrics["valid_loss"]), name


@tuner.workload("check-tiny")
def tiny() -> workloads.Task:
    return task(plain, train=(X[:3], Y[:3]))


def test_fewer_examples_than_a_micro_batch() -> None:
    report = checked("check-tiny")
    assert report.fault is None and report.micro_batch == 3


@pytest.mark.parametrize("kind", input_kinds.KINDS)
def test_a_batch_of_any_kind_is_checked(kind: str) -> None:
    name = f"check-{kind.replace(' ', '-')}"
    tuner.workload(name)(lambda: input_kinds.task_of(kind))
    report = checked(name)
    assert report.fault is None and report.metrics
    assert not any("sum" in text or "held" in text for text in report.warnings)
