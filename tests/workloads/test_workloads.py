"""The contract of workloads, their registry, and the built-in one."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import tuner
from tuner import workloads
from tuner.errors import InvalidInput, NotFound
from tuner.workloads import Task

X, Y = torch.zeros(6, 2), torch.zeros(6, 1)


def weights(task: Task, seed: int) -> list[float]:
    return [float(value) for p in task.build_model(seed).parameters() for value in p.detach().flatten()]


@pytest.mark.parametrize(
    "model", [lambda: nn.Linear(2, 1), nn.Linear(2, 1), nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))]
)
def test_weights_depend_on_the_seed_alone(model: object) -> None:
    task = Task(model, mse_loss, (X, Y), (X, Y), fresh=isinstance(model, nn.Module))  # type: ignore[arg-type]
    state = torch.get_rng_state()
    assert weights(task, 5) == weights(task, 5) != weights(task, 6)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_with_weights_that_cannot_be_reset_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    task = Task(nn.Sequential(nn.Linear(2, 1), Scaled()), mse_loss, (X, Y), (X, Y), fresh=True)
    assert weights(task, 1)[:3] != weights(task, 2)[:3]
    assert "start the same for every seed" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": (X, Y[:5])}, "train: has tensors of \\[6, 5\\] examples"),
        ({"valid": ()}, "valid: is not a tuple of tensors"),
        ({"valid": [X, Y]}, "valid: is not a tuple of tensors"),
        ({"train": (X[:0], Y[:0])}, "train: is empty"),
        ({"train": (X, torch.tensor(1.0))}, "without dimensions"),
        ({"model": 3}, "model: is int"),
        ({"loss": "mse"}, "loss: is str"),
    ],
)
def test_malformed_tasks_are_refused(fields: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"model": nn.Flatten, "loss": mse_loss, "train": (X, Y), "valid": (X, Y)}
    with pytest.raises(InvalidInput, match=message):
        Task(**{**good, **fields})  # type: ignore[arg-type]


def test_a_model_factory_must_return_a_module() -> None:
    with pytest.raises(InvalidInput, match="model: returned int"):
        Task(lambda: 3, mse_loss, (X, Y), (X, Y)).build_model(0)  # type: ignore[arg-type, return-value]


def test_digits_are_what_scikit_learn_has() -> None:
    from sklearn.datasets import load_digits

    task = workloads.load("digits-mlp", {})
    x = torch.cat([task.train[0], task.valid[0]])
    y = torch.cat([task.train[1], task.valid[1]])
    assert (len(task.train[0]), len(task.valid[0]), x.shape[1]) == (1437, 360, 64)
    images, labels = load_digits(return_X_y=True)
    assert sorted(zip((x * 16).tolist(), y.tolist(), strict=True)) == sorted(
        zip(images.tolist(), labels.tolist(), strict=True)
    )
    assert float(x.max()) == 1.0 and x.dtype == torch.float32
    # The mark of this very split, so that nobody changes it by accident: results of old studies rest on it.
    assert task.valid[1][:10].tolist() == VALID_LABELS
    assert [tuple(p.shape) for p in task.build_model(0).parameters()] == [(32, 64), (32,), (10, 32), (10,)]
    assert task.loss is cross_entropy and task.metrics is not None
    output = torch.eye(10)[task.valid[1]]
    output[0] = -output[0]
    assert float(task.metrics["accuracy"](output, task.valid[1])) == pytest.approx(359 / 360)


VALID_LABELS = [0, 8, 8, 9, 8, 3, 7, 5, 0, 6]


def test_hidden_width_of_digits() -> None:
    task = workloads.load("digits-mlp", {"hidden": 5})
    assert next(task.build_model(0).parameters()).shape == (5, 64)
    for bad in (0, True, 2.5, "8"):
        with pytest.raises(InvalidInput, match="hidden"):
            workloads.load("digits-mlp", {"hidden": bad})


def test_the_registry_names_what_it_knows() -> None:
    @tuner.workload("registry-test")
    def factory(size: int, depth: int = 1) -> Task:
        """A thing to test with.

        More words.
        """
        return Task(nn.Flatten, mse_loss, (X, Y), (X, Y))

    assert {"digits-mlp", "registry-test"} <= set(workloads.names())
    assert workloads.describe("registry-test") == "A thing to test with."
    with pytest.raises(NotFound, match=r"no workload 'nope'; known are: .*digits-mlp, .*registry-test, "):
        workloads.load("nope", {})
    with pytest.raises(InvalidInput) as caught:
        workloads.load("registry-test", {"sise": 3})
    assert [fault.field for fault in caught.value.faults] == ["workload.params.sise", "workload.params.size"]
    assert isinstance(workloads.load("registry-test", {"size": 3}), Task)
    with pytest.raises(InvalidInput, match="already registered"):
        tuner.workload("registry-test")(lambda: Task(nn.Flatten, mse_loss, (X, Y), (X, Y)))
    tuner.workload("registry-bad")(lambda: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidInput, match="returned int"):
        workloads.load("registry-bad", {})


def test_user_modules_are_imported_by_file_or_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import tuner\n@tuner.workload('{}')\ndef f() -> tuner.Task:\n    raise RuntimeError\n"
    (tmp_path / "by_file_problem.py").write_text(text.format("by-file"))
    (tmp_path / "by_name_problem.py").write_text(text.format("by-name"))
    (tmp_path / "broken_problem.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    workloads.import_user_workloads(str(tmp_path / "by_file_problem.py"))
    workloads.import_user_workloads("by_name_problem")
    assert {"by-file", "by-name"} <= set(workloads.names())
    for missing in (str(tmp_path / "none.py"), "none_problem"):
        with pytest.raises(NotFound, match="none"):
            workloads.import_user_workloads(missing)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        workloads.import_user_workloads("broken_problem")
