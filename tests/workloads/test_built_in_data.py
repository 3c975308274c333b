"""What the built-in workloads train on: fixed splits, a recorded digest, parameters that are checked."""

import hashlib
import subprocess
import sys

import pytest
import torch

from tuner import workloads
from tuner.engine import Stack
from tuner.errors import InvalidInput
from tuner.workloads.python_sources import TRAIN_FILES, VALID_FILES, python_sources
from tuner.workloads.task import Task
from tuner.workloads.text_gpt import per_byte, windows


def test_the_text_is_this_interpreters_library() -> None:
    sources = python_sources()
    assert b"class ArgumentParser" in sources.train and b"class ZipFile" in sources.valid
    assert b"class ZipFile" not in sources.train and not set(TRAIN_FILES) & set(VALID_FILES)
    assert sources.digest == hashlib.sha256(sources.train + b"\0" + sources.valid).hexdigest()
    assert len(sources.train) > 1 << 20


def test_the_digest_of_the_text_is_part_of_the_program() -> None:
    task = workloads.load("text-gpt", {"layers": 1, "width": 8, "context": 16})
    assert Stack(task, width=1, micro_batch=2).program["data"] == python_sources().digest
    assert "data" not in Stack(workloads.load("digits-mlp", {}), width=1, micro_batch=2).program


def test_windows_and_their_targets() -> None:
    inputs, targets = windows(b"abcdefgh", 3)
    assert [bytes(row) for row in inputs.tolist()] == [b"abc", b"def"]
    assert [bytes(row) for row in targets.tolist()] == [b"bcd", b"efg"]


def test_the_language_model_is_causal_and_starts_near_uniform() -> None:
    task = workloads.load("text-gpt", {"width": 16, "context": 12})
    model = task.build_model(1).eval()
    tokens = task.train[0][:1].clone()
    with torch.no_grad():
        before = model(tokens)
        tokens[0, 7] += 1
        after = model(tokens)
        loss = per_byte(model(task.valid[0]), task.valid[1])
    assert torch.equal(before[0, :7], after[0, :7]) and not torch.equal(before[0, 7], after[0, 7])
    assert loss.item() == pytest.approx(torch.tensor(256.0).log().item(), rel=0.02)
    assert task.metrics is not None
    bits = task.metrics["bits_per_byte"](torch.zeros(4, 12, 256), task.valid[1][:4])
    assert float(bits) == pytest.approx(8.0)


def test_cancer_cases_are_split_and_standardised() -> None:
    task = workloads.load("logistic-regression", {})
    assert [tuple(item.shape) for item in (*task.train, *task.valid)] == [(455, 30), (455,), (114, 30), (114,)]
    assert task.train[0].double().mean(0).abs().max() < 1e-6
    assert (task.train[0].double().std(0, correction=0) - 1).abs().max() < 1e-6
    assert sum(float(item[1].sum()) for item in (task.train, task.valid)) == 357  # benign cases, by the data's own page
    assert task.metrics is not None
    assert float(task.metrics["accuracy"](torch.tensor([1.0, -1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0]))) * 3 == 1


def test_digits_are_those_of_scikit_learn_which_is_not_loaded_to_read_them() -> None:
    code = (
        "import sys, torch; from tuner.workloads.digits import digits; train, valid = digits();"
        "assert 'sklearn' not in sys.modules;"
        "from sklearn.datasets import load_digits; images, labels = load_digits(return_X_y=True);"
        "ours = [[*map(int, 16 * x), int(y)] for part in (train, valid) for x, y in zip(*part, strict=True)];"
        "print(sorted(ours) == sorted([*map(int, x), int(y)] for x, y in zip(images, labels)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


def test_options_of_the_networks_on_digits() -> None:
    def kinds(task: Task) -> list[str]:
        return [type(part).__name__ for part in task.build_model(0).modules()]

    assert "BatchNorm2d" in kinds(workloads.load("digits-cnn", {}))
    assert "BatchNorm2d" not in kinds(workloads.load("digits-cnn", {"batch_norm": False}))
    autoencoder = workloads.load("digits-autoencoder", {"code": 3})
    assert torch.equal(autoencoder.train[0], autoencoder.train[1])
    assert (3, 32) in [tuple(p.shape) for p in autoencoder.build_model(0).parameters()]


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("digits-cnn", {"channels": 0}, "channels"),
        ("digits-cnn", {"batch_norm": 1}, "batch_norm"),
        ("text-gpt", {"width": 10, "heads": 4}, "width"),
        ("text-gpt", {"dropout": "0.5"}, "dropout"),
        ("linear-regression", {"noise": float("nan")}, "noise"),
        ("linear-regression", {"noise": -1.0}, "noise"),
        ("noisy-quadratic", {"examples": 2.5}, "examples"),
        ("rosenbrock", {"dimensions": 1}, "dimensions"),
        ("mlp-images", {}, "directory"),
    ],
)
def test_parameters_are_checked(name: str, params: dict[str, float | str], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        workloads.load(name, params)
    assert [fault.field for fault in caught.value.faults] == [f"workload.params.{field}"]
