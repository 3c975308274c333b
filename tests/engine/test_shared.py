"""What no trial changes is held once per stack, on every path, and nothing that a pass writes to is."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from adapters import INPUTS, adapted, base_of, lora_task, solo, task_with
from engine_cases import run_until_idle, spec
from model_kinds import KINDS, task_of
from torch import Tensor, nn

from tuner.engine import Stack, TrialSpec
from tuner.engine.checkpoint import decode, decode_tensors, encode
from tuner.engine.paths.forward import EagerForward
from tuner.engine.snapshot import Snapshot
from tuner.errors import InvalidInput
from tuner.workloads import Task

STEPS = 30
PATHS = [("loop", 1), ("eager", 1), ("eager", 2), ("loop", 2), ("compiled", 1), ("compiled", 2)]


def shared(stack: Stack) -> dict[str, Tensor]:
    return stack._architecture.shared.tensors


def trials(count: int, batch_size: int = 8) -> list[TrialSpec]:
    return [
        spec(key, "adamw", batch_size=batch_size, seed=key, examples=10**6, weight_decay=0.01, lr=3e-3 * (1 + key))
        for key in range(count)
    ]


@pytest.mark.parametrize(("path", "per_tick"), PATHS)
def test_a_frozen_base_with_adapters_trains_as_alone(path: str, per_tick: int) -> None:
    """In float64 to 1e-12: parameters, the validation loss, the downloaded weights; the base keeps its bits."""
    task = lora_task(6, 10)
    before = {name: tensor.double() for name, tensor in task.build_model(0).named_parameters() if "base" in name}
    stack = Stack(task, width=4, micro_batch=8 // per_tick, per_tick=per_tick, dtype=torch.float64, path=path)
    assert stack.path == path and set(shared(stack)) == set(before) and len(before) == 4
    for trial in trials(3):
        stack.admit(trial)
    for _ in range(STEPS):
        stack.tick()
    for slot, trial in enumerate(trials(3)):
        expected = solo(task, trial, STEPS)
        assert not stack.snapshot(slot).extras
        found = stack.weights(slot)
        assert found.keys() == expected.state_dict().keys()
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12, msg=f"{slot} {name}")
        expected.load_state_dict(found)
        x, y = task.valid
        with torch.no_grad():
            loss = float(task.loss_of(expected.eval()(x.double()), (y,)))
        assert stack.evaluate([slot])[0]["valid_loss"] == pytest.approx(loss, rel=1e-12)
    assert all(torch.equal(shared(stack)[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("path", ["eager", "compiled", "loop"])
@pytest.mark.parametrize("sizes", [(64, 64), (9, 33)])
def test_slot_and_neighbours_change_no_bit(path: str, sizes: tuple[int, ...]) -> None:
    """Also where one product for all slots would round the last of them otherwise, and beside one that is NaN."""
    stack = Stack(lora_task(*sizes), width=5, micro_batch=4, path=path)
    assert stack.path == path and len(shared(stack)) == 4
    watched = spec(100, "adamw", lr=1e-2, batch_size=8, examples=160, seed=3, report_every=8)
    others = [
        spec(1, "sgd", lr=1e39, batch_size=4, examples=400, seed=3, divergence_factor=1e30),
        spec(2, "muon", lr=1e-2, batch_size=4, examples=40, seed=1),
        spec(3, "gd_armijo", lr=0.1, batch_size=8, examples=400, seed=2),
        spec(4, "adamw", lr=1e-2, batch_size=12, examples=96, seed=7),
    ]

    def seen(queue: list[TrialSpec]) -> list[tuple[object, ...]]:
        rows = run_until_idle(stack, queue, until=100)[0][100]
        for key in stack.keys():
            stack.evict(stack.slot_of(key) or 0)
        stack.tick()
        return [(row.step, repr(row.metrics), row.noise) for row in rows]

    expected = seen([watched])
    assert len(expected) == 20
    for place in (1, 4):
        assert seen([*others[:place], watched, *others[place:]]) == expected


def test_a_product_that_tells_slots_apart_is_computed_slot_by_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    def repeats(task: Task) -> bool:
        forward = Stack(task, width=4, micro_batch=8)._forward
        assert isinstance(forward, EagerForward)
        return bool(forward._repeated)

    run = EagerForward.run

    def uneven(self: EagerForward, *args: object) -> Tensor:
        losses = run(self, *args)  # type: ignore[arg-type]
        if not self._repeated:
            losses[-1] *= 1 + 2.0**-20
        return losses

    task = lora_task(64, 64)
    monkeypatch.setattr(EagerForward, "run", uneven)
    assert repeats(task)
    monkeypatch.undo()
    pages = {tensor.data_ptr() for tensor in shared(Stack(task, width=4, micro_batch=8)).values()}
    assert len(pages) == 4


class Written(nn.Module):
    """Constants, and buffers that passes write to in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, 5)
        for name in ("mask", "assigned", "added", "data", "evaluated"):
            self.register_buffer(name, torch.ones(INPUTS) if name == "mask" else torch.zeros(INPUTS))
        self.scale = nn.Parameter(torch.ones(INPUTS), requires_grad=False)
        self.drawn = nn.Parameter(torch.rand(INPUTS), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.assigned = self.assigned * 1
            self.added += 0
            self.data.data += 1
        else:
            self.evaluated.zero_()
        return self.linear(x * self.mask * self.scale + self.drawn)  # type: ignore[no-any-return]


def test_only_what_is_the_same_for_every_seed_and_never_written_is_shared() -> None:
    """A write counts even where it leaves the value as it was."""
    assert set(shared(Stack(task_with(Written), width=2, micro_batch=4, path="loop"))) == {"mask", "scale"}


def test_models_without_constants_share_nothing() -> None:
    for kind in KINDS:
        found = set(shared(Stack(task_of(kind), width=2, micro_batch=4, path="loop")))
        assert not found, kind  # the frozen layer of this list is drawn by the seed


class LateWriter(nn.Module):
    """Leaves its buffer alone until told otherwise."""

    late = False

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, 5)
        self.register_buffer("offset", torch.ones(INPUTS))

    def change(self) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if LateWriter.late:
            self.change()
        return self.linear(x + self.offset)  # type: ignore[no-any-return]


class Assigns(LateWriter):
    def change(self) -> None:
        self.offset = self.offset + 1


class Adds(LateWriter):
    def change(self) -> None:
        self.offset += 1


@pytest.fixture
def late() -> Iterator[None]:
    LateWriter.late = False
    yield
    LateWriter.late = False


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("path", ["loop", "eager"])
@pytest.mark.parametrize("model", [Assigns, Adds])
def test_a_buffer_that_a_later_pass_writes_to_is_not_lost_in_silence(model: Callable[[], nn.Module], path: str) -> None:
    stack = Stack(task_with(model), width=2, micro_batch=4, path=path)
    assert set(shared(stack)) == {"offset"} and stack.path == path
    _, ends = run_until_idle(stack, [spec(0, "sgd", lr=0.1)])
    assert ends[0].outcome == "finished"
    LateWriter.late = True
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1)])
    assert ends[1].outcome == "error" and "offset" in str(ends[1].error)
    assert torch.equal(shared(stack)["offset"], torch.ones(INPUTS))
    LateWriter.late = False
    _, ends = run_until_idle(stack, [spec(2, "sgd", lr=0.1)])
    assert ends[2].outcome == "finished"


@pytest.mark.usefixtures("late")
def test_neither_is_one_that_a_later_evaluation_writes_to() -> None:
    stack = Stack(task_with(Adds), width=2, micro_batch=4)
    slot = stack.admit(spec(0, "sgd", lr=0.1))
    assert slot is not None
    expected = stack.evaluate([slot])
    LateWriter.late = True
    with pytest.raises(InvalidInput, match="offset"):
        stack.evaluate([slot])
    LateWriter.late = False
    assert stack.evaluate([slot]) == expected


def interrupted(task: Task, trial: TrialSpec, path: str) -> tuple[list[object], Snapshot]:
    stack = Stack(task, width=3, micro_batch=4, path=path)
    stack.admit(spec(1, "sgd", lr=0.1, examples=4000))
    slot = stack.admit(trial)
    assert slot is not None
    for _ in range(17):
        stack.tick()
    snapshot = stack.snapshot(slot)
    rows = run_until_idle(stack, [], until=trial.key)[0][trial.key]
    return [(row.step, repr(row.metrics)) for row in rows][-5:], snapshot


WATCHED = spec(7, "adamw", lr=1e-2, batch_size=8, examples=320, report_every=8)


@pytest.mark.parametrize("path", ["loop", "eager", "compiled"])
def test_a_checkpoint_has_no_frozen_base_and_resumes_bit_for_bit(path: str) -> None:
    task = lora_task(16, 16)
    expected, snapshot = interrupted(task, WATCHED, path)
    content = encode(snapshot)
    assert not [name for name in decode_tensors(content) if "base" in name]
    stack = Stack(task, width=3, micro_batch=4, path=path)
    stack.resume(decode(content, WATCHED))
    rows = run_until_idle(stack, [])[0][7]
    assert [(row.step, repr(row.metrics)) for row in rows][-5:] == expected


def test_another_base_is_refused_by_name_and_old_checkpoints_are_not() -> None:
    """Checkpoints from before had the base among their tensors."""
    expected, snapshot = interrupted(lora_task(16, 16), WATCHED, "eager")
    with pytest.raises(InvalidInput, match=r"the checkpoint was taken with another frozen '0\.base\.weight'"):
        Stack(lora_task(16, 16, seed=1), width=1, micro_batch=4).restore(0, snapshot)
    for seed in (0, 1):
        base = base_of(INPUTS, 16, 16, seed=seed)
        names = [f"{place}.base.{part}" for place in (0, 2) for part in ("weight", "bias")]
        tensors = [tensor.detach() for layer in base for tensor in layer.parameters()]
        fields = {**snapshot.__dict__, "shared": {}, "extras": dict(zip(names, tensors, strict=True))}
        stack = Stack(lora_task(16, 16), width=3, micro_batch=4)
        if seed:
            with pytest.raises(InvalidInput, match="another frozen"):
                stack.resume(Snapshot(**fields))
        else:
            stack.resume(decode(encode(Snapshot(**fields)), WATCHED))
            rows = run_until_idle(stack, [])[0][7]
            assert [(row.step, repr(row.metrics)) for row in rows][-5:] == expected


def test_initial_weights_do_not_copy_the_base() -> None:
    task = lora_task(16, 16)
    architecture = Stack(task, width=1, micro_batch=4)._architecture
    module = architecture.fresh(3)
    kept = {name: p.device.type for name, p in module.named_parameters()}
    assert {name for name, device in kept.items() if device == "meta"} == set(architecture.shared.tensors)
    built = architecture.build(3)
    for name, tensor in architecture.shared.tensors.items():
        assert built.get_parameter(name) is tensor
    for name, p in module.named_parameters():
        assert kept[name] == "meta" or torch.equal(p, built.get_parameter(name))


def test_a_model_of_the_users_is_never_written_to() -> None:
    """Trained in another type, with a module that is given as it is, frozen in part."""
    base = base_of(INPUTS, 16, 16)
    model = adapted(base, 2)
    before = copy.deepcopy(model.state_dict())
    stack = Stack(task_with(model), width=2, micro_batch=4, dtype=torch.float64)
    assert len(shared(stack)) == 4
    run_until_idle(stack, [spec(0, "adamw", lr=1e-2), spec(1, "sgd", lr=1e-2)])
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name])
