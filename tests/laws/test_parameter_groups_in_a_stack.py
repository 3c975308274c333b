"""Trials with factors for some parameters share a stack with others: each is the same training alone.

The law is over all rules that honour factors. The oracle is `torch.optim` where torch has the rule, and `build` with
parameter groups by hand elsewhere, with lr · f and wd · g in each group.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, solo_model, spec
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from tuner.engine import Row, Stack, TrialSpec
from tuner.engine.checkpoint import decode, encode
from tuner.engine.data_order import DataOrder
from tuner.errors import InvalidInput
from tuner.handover.optimizer_code import TORCH
from tuner.optimizers import build, catalogue
from tuner.study.parameter_groups import refusal
from tuner.workloads import Task

HONOURING = [name for name, info in catalogue().items() if info.parameter_groups]
EXAMPLES, BATCH, STEPS = 96, 16, 12
ORDINARY = {"lr": 0.01, "weight_decay": 0.05}
SMALLER = {"scion": 2e-4}
LOOSE = {"shampoo": 3e-11, "steepest": 3e-11}
"""Roots of matrices amplify the last bits of gradients: as much in the trial without groups."""


APART = ("nadam", "adafactor")
"""Torch's NAdam keeps its product of momenta in float32, and its Adafactor sees experts as one."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Network(nn.Module):
    """A little transformer-like network: a stem, two blocks, a norm and a head; the second block's gain is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 6, 3)
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.experts = nn.Parameter(torch.randn(2, 6, 6) / 4)
        self.gain = nn.Parameter(torch.ones(6), requires_grad=False)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean(-1)
        for block, expert in zip(self.blocks, self.experts, strict=True):
            x = x + torch.tanh(block(x)) @ expert * self.gain
        return self.head(self.norm(x))


def task() -> Task:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(EXAMPLES, 2, 7, generator=generator), torch.randn(EXAMPLES, 3, generator=generator)
    roles = {"experts": "matrix"}
    return Task(Network, mse_loss, train=(x, y), valid=(x[:20], y[:20]), roles=roles)


def hyperparameters(name: str) -> dict[str, Any]:
    known = catalogue()[name]
    own = {**ORDINARY, "lr": SMALLER.get(name, ORDINARY["lr"])}
    return {key: value for key, value in own.items() if known.hyperparameter(key)}


def factors_of(name: str, number: int) -> dict[str, Any]:
    """A trial's groups, as in its configuration. The third trial has none, the fourth others."""
    if number == 2:
        return {}
    if number == 3:
        return {"group.all.match": "*", "group.all.lr_factor": 0.5}
    groups = {
        "group.head.match": "head.*",
        "group.head.lr_factor": (3.0, 0.5)[number],
        "group.deep.match": "*",
        "group.deep.depth_decay": (0.5, 0.9)[number],
    }
    if refusal(catalogue()[name], "weight_decay_factor") is None:
        groups |= {"group.bias.match": "*.bias", "group.bias.weight_decay_factor": (0.0, 3.0)[number]}
    return groups


DEPTH = {"stem": 3, "experts": 3, "gain": 3, "blocks.0": 2, "blocks.1": 1, "norm": 0, "head": 0}
"""Layers above: `experts` and `gain` are registered before the blocks."""


def by_hand(name: str, number: int, parameter: str) -> tuple[float, float]:
    """What multiplies lr and weight decay of one parameter."""
    params = factors_of(name, number)
    lr = params.get("group.all.lr_factor", 1.0)
    lr *= params.get("group.head.lr_factor", 1.0) if parameter.startswith("head.") else 1.0
    depth = next(depth for layer, depth in DEPTH.items() if parameter.startswith(layer))
    lr *= params.get("group.deep.depth_decay", 1.0) ** depth
    return lr, params.get("group.bias.weight_decay_factor", 1.0) if parameter.endswith(".bias") else 1.0


def trial(name: str, number: int, **more: Any) -> TrialSpec:
    params = {**hyperparameters(name), **factors_of(name, number), "batch_size": BATCH, **more}
    return spec(number, name, examples=STEPS * BATCH, seed=number, report_every=10**9, **params)


def alone(name: str, number: int, clip: float = 0.0) -> nn.Module:
    """Train one model in a plain loop, with parameter groups by hand."""
    work = task()
    model, own = solo_model(work, number, torch.float64).train(), hyperparameters(name)
    groups: list[dict[str, Any]] = []
    for key, parameter in model.named_parameters():
        lr_factor, decay_factor = by_hand(name, number, key)
        group = {"params": [(key, parameter)], "lr": own["lr"] * lr_factor}
        groups.append(group | ({"weight_decay": own["weight_decay"] * decay_factor} if "weight_decay" in own else {}))
    optimizer = optimizer_of(name, groups, own)
    order, (x, y) = DataOrder(number, EXAMPLES), work.train
    for step in range(STEPS):
        index = torch.from_numpy(order.take(step * BATCH, BATCH))
        optimizer.zero_grad()
        mse_loss(model(x[index].double()), y[index].double()).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.SGD) and hasattr(optimizer, "eval"):
        optimizer.eval()
    return model


def optimizer_of(name: str, groups: list[dict[str, Any]], own: dict[str, Any]) -> Any:
    info = catalogue()[name]
    if name in TORCH and name not in APART:
        made = TORCH[name]({h.name: own.get(h.name, h.default) for h in info.hyperparameters})
        assert made is not None
        return getattr(torch.optim, made[0])(groups, **made[1])
    if info.hyperparameter("weight_decay") is None:
        own = {key: value for key, value in own.items() if key != "weight_decay"}
    return build(name, groups, roles={"experts": "matrix", **roles()}, compiled=False, **own)


def roles() -> dict[str, str]:
    return {"stem.weight": "convolution", "head.weight": "head"}


@pytest.mark.parametrize("name", HONOURING)
def test_each_trial_is_its_own_training_with_parameter_groups(name: str) -> None:
    stack = Stack(task(), width=3, micro_batch=8, dtype=torch.float64, path="eager")
    stack.keep_weights = True
    _, ends = run_until_idle(stack, [trial(name, number) for number in range(4)])
    for number, end in ends.items():
        expected = alone(name, number)
        assert end.weights is not None and end.outcome == "finished", end.error
        for key, value in expected.named_parameters():
            found = end.weights[key]
            loose = LOOSE.get(name, 1e-12)
            torch.testing.assert_close(found, value.detach(), rtol=10 * loose, atol=loose)
    start = dict(solo_model(task(), 0, torch.float64).named_parameters())
    assert not torch.equal(start["stem.weight"], ends[0].weights["stem.weight"])  # type: ignore[index]


@pytest.mark.parametrize("name", HONOURING)
def test_neighbours_slots_and_a_snapshot_change_no_bit(name: str) -> None:
    lone = Stack(task(), width=3, micro_batch=8, path="eager")
    lone.keep_weights = True
    _, ends = run_until_idle(lone, [trial(name, 1)])
    crowd = Stack(task(), width=3, micro_batch=8, path="eager")
    crowd.keep_weights = True
    for other, lr in ((0, 1e30), (2, 0.02)):
        crowd.admit(TrialSpec(f"other {other}", {**trial(name, other).params, "lr": lr}, 5, 10**6))
    wanted = trial(name, 1)
    slot = crowd.admit(wanted)
    assert slot is not None
    for _ in range(7):
        crowd.tick()
    content = encode(crowd.snapshot(slot))
    crowd.evict(slot)
    place = crowd.slot_of("other 2")
    assert place is not None and place != slot
    crowd.evict(place)
    crowd.restore(place, decode(content, wanted))
    _, again = run_until_idle(crowd, [], until=1)
    assert ends[1].weights is not None and again[1].weights is not None
    for key, value in ends[1].weights.items():
        assert torch.equal(again[1].weights[key], value), key


@pytest.mark.parametrize("name", ["adamw", "muon", "schedule_free_adamw"])
def test_a_trial_without_groups_has_the_bits_that_it_has_among_its_like(name: str) -> None:
    weights = []
    for others in ([], [trial(name, 0)]):
        stack = Stack(task(), width=3, micro_batch=8, path="eager")
        stack.keep_weights = True
        _, ends = run_until_idle(stack, [*others, trial(name, 2)])
        weights.append(ends[2].weights)
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())  # type: ignore[index, union-attr]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_clipping_is_by_the_norm_of_all_classes(name: str) -> None:
    stack = Stack(task(), width=2, micro_batch=8, dtype=torch.float64, path="eager")
    stack.keep_weights = True
    _, ends = run_until_idle(stack, [trial(name, number, clip_norm=0.05) for number in (0, 1)])
    for number, end in ends.items():
        for key, value in alone(name, number, clip=0.05).named_parameters():
            torch.testing.assert_close(end.weights[key], value.detach(), rtol=1e-11, atol=1e-12)  # type: ignore[index]


def test_decoupled_decay_of_a_rule_with_another_kind_has_the_factors_too() -> None:
    """Adam with decoupled decay is torch's AdamW."""
    stack = Stack(task(), width=1, micro_batch=8, dtype=torch.float64, path="eager")
    stack.keep_weights = True
    _, ends = run_until_idle(stack, [trial("adam", 1, weight_decay_mode="decoupled")])
    for key, value in alone("adamw", 1).named_parameters():
        torch.testing.assert_close(ends[1].weights[key], value.detach(), rtol=1e-11, atol=1e-12)  # type: ignore[index]


def test_a_compiled_stack_makes_the_same_steps() -> None:
    found, name = {}, "adamw"
    for path in ("eager", "compiled"):
        stack = Stack(task(), width=2, micro_batch=8, path=path, dtype=torch.float64)
        stack.keep_weights = True
        rows, ends = run_until_idle(stack, [trial(name, number) for number in range(3)])
        assert stack.path == path and all(isinstance(row, Row) for each in rows.values() for row in each)
        found[path] = ends
    for number in range(3):
        for key, value in found["eager"][number].weights.items():
            torch.testing.assert_close(found["compiled"][number].weights[key], value, rtol=1e-9, atol=1e-10)


def test_what_cannot_be_honoured_is_refused_at_admission() -> None:
    stack = Stack(task(), width=2, micro_batch=8, path="eager")
    for pattern in ("hed.*", "gain"):
        params = {"optimizer": "adamw", "batch_size": 8, "group.g.match": pattern, "group.g.lr_factor": 2.0}
        with pytest.raises(InvalidInput, match=r"group\.g\.match: .* matches no parameter that is trained.*experts"):
            stack.admit(TrialSpec(1, params, 0, 80))
    groups = {"group.g.match": "head.*", "group.g.lr_factor": 2.0}
    with pytest.raises(InvalidInput, match="lbfgs moves all parameters as one"):
        stack.admit(TrialSpec(1, {"optimizer": "lbfgs", "batch_size": 8, **groups}, 0, 80))
    with pytest.raises(InvalidInput, match=r"group\.g\.weight_decay_factor: scion has no weight_decay"):
        params = {"optimizer": "scion", "batch_size": 8, **groups, "group.g.weight_decay_factor": 2.0}
        stack.admit(TrialSpec(1, params, 0, 80))
    with pytest.raises(InvalidInput, match=r"group\.g\.lr_factor: lr_factor is -1"):
        stack.admit(TrialSpec(1, {"optimizer": "adamw", "batch_size": 8, **groups, "group.g.lr_factor": -1}, 0, 80))
    assert stack.free == 2 and stack.admit(TrialSpec(1, {"optimizer": "adamw", "batch_size": 8, **groups}, 0, 80)) == 0
