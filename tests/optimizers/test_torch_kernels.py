"""torch's fused kernels: the formula of the rule that declares one, and bits that depend on the row alone."""

import itertools

import pytest
import torch

from tuner.optimizers.catalogue import catalogue, make_rule, rule_class
from tuner.optimizers.rule import ElementwiseRule
from tuner.optimizers.torch_kernels import SHARED, own_threads

SHAPES = [(64, 33), (7,), (3, 5, 2, 2)]


def elementwise_rules():
    """Every choice of every elementwise rule."""
    for name in catalogue():
        kind = rule_class(name)
        if not issubclass(kind, ElementwiseRule):
            continue
        fixed = [h for h in kind.hyperparameters if h.fixes_program]
        values = [h.choices or (h.default, 0.5) for h in fixed]
        for chosen in itertools.product(*values):
            yield make_rule(name, {"": "vector"}, dict(zip([h.name for h in fixed], chosen, strict=True)))


WITH_KERNEL = [rule for rule in elementwise_rules() if rule.kernel() is not None]


def numbers(rule, **given):
    found = {h.name: float(h.default) for h in rule.hyperparameters if not h.fixes_program}
    return {**found, **{key: value for key, value in given.items() if key in found}}


def tensors(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def test_the_rules_that_torch_has():
    assert {rule.name for rule in WITH_KERNEL} == {"sgd", "momentum", "nesterov", "adam", "amsgrad", "adamw"}


@pytest.mark.parametrize("rule", WITH_KERNEL, ids=lambda rule: rule.name)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_kernel_is_the_rules_formula(rule, momentum):
    hp = numbers(rule, lr=0.02, weight_decay=0.1, momentum=momentum, eps=1e-3)
    names = rule.own_buffers("vector")
    left, right = tensors(0, torch.float64), tensors(0, torch.float64)
    left_buffers, right_buffers = ([[torch.zeros_like(p) for p in left] for _ in names] for _ in range(2))
    vectors = {key: torch.tensor([value], dtype=torch.float64) for key, value in hp.items()}
    for number in range(1, 8):
        grads, factor = tensors(number, torch.float64), 1 / number
        count = torch.tensor(float(number))
        scaled = [grad * 3 for grad in grads]
        own = {**hp, "lr": hp["lr"] * factor}
        rule.kernel()(left, scaled, left_buffers, [count] * len(left), own, torch.tensor(3.0))
        scalars = rule.scalars(count.double()[None], {**vectors, "lr": vectors["lr"] * factor})
        for index, (param, grad) in enumerate(zip(right, grads, strict=True)):
            buffers = {name: buffer[index][None] for name, buffer in zip(names, right_buffers, strict=True)}
            rule.step_elements(grad[None], param[None], buffers, scalars)
    for ours, theirs in zip([left, *left_buffers], [right, *right_buffers], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", WITH_KERNEL, ids=lambda rule: rule.name)
@pytest.mark.parametrize("length", [48, SHARED + 16])
def test_a_row_of_whole_lines_has_its_bits_wherever_it_lies(rule, length, threads):
    """The neighbours are NaN; rows start at every multiple of 64 bytes, and threads share the long ones."""
    hp = numbers(rule, lr=0.02, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    contents = torch.randn(2 + len(rule.own_buffers("vector")), length, generator=generator).abs_()
    seen = []
    for count, line in ((1, 0), (2, 1), (3, 2), (2, 3)):
        threads(count)
        padded = torch.full((len(contents), length + 128), torch.nan)
        start = 16 * line
        padded[:, start : start + length] = contents
        param, grad, *buffers = [[row[start : start + length]] for row in padded]
        with own_threads(length):
            rule.kernel()(param, grad, buffers, [torch.tensor(3.0)], hp)
        assert torch.get_num_threads() == count
        seen.append(torch.stack([param[0], *[buffer[0] for buffer in buffers]]).clone())
    assert seen[0].isfinite().all() and all(torch.equal(seen[0], other) for other in seen[1:])
