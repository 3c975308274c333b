"""The least time that a study's matrix products and convolutions take at the machine's measured peak."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from tuner.study.spec import StudySpec
from tuner.workloads.task import Task

SIZE, TURNS = 2048, 5


def peak_flops(device: str) -> float:
    """Return FLOP/s of a large float32 matrix product with all cores, the best of a few turns."""
    square = torch.randn(SIZE, SIZE, device=device)
    times = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        square @ square
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 2 * SIZE**3 / min(times)


def floor_s(task: Task, spec: StudySpec, flops_per_s: float) -> float:
    """Return seconds for all examples of all trials, forward and backward, and for all evaluations."""
    batch = min(spec.batch_sizes())
    train = tuple(torch.as_tensor(part[:batch]) for part in task.train)
    per_example = _flops(task, train, backward=True) / batch
    per_evaluation = _flops(task, task.valid, backward=False)
    per_trial = per_example * spec.budget.examples_per_trial + per_evaluation * spec.evaluations
    return spec.run_cap * per_trial / flops_per_s


def _flops(task: Task, data: tuple[torch.Tensor, ...], backward: bool) -> int:
    model = task.build_model(0).train(backward)
    inputs, *targets = data
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        loss = task.loss(model(inputs), *targets)
        if backward:
            loss.backward()
    return int(counter.get_total_flops())
