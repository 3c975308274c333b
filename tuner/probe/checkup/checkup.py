"""The order of a check-up: load, run once by itself, run in a stack, step by each family of rules, measure.

What the user's code raises ends the check-up with a fault; the parts before it stay in the report.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence

import torch

from tuner import workloads
from tuner.engine.architecture import Architecture
from tuner.engine.loader import feed_of
from tuner.engine.paths.dry_run import TRIED, fault_of_vmap
from tuner.engine.slots import Slots
from tuner.engine.stack import Stack
from tuner.engine.trial import TrialSpec
from tuner.errors import InvalidInput
from tuner.probe.bench import Bench
from tuner.probe.checkup import warnings
from tuner.probe.checkup.own_frames import shortened
from tuner.probe.checkup.plain_pass import CPU, PlainPass, RaisedInLayer, plain_pass
from tuner.probe.checkup.report import Report
from tuner.probe.checkup.rules import ELEMENTWISE, representatives, try_rules
from tuner.probe.memory import NARROW, predicted
from tuner.probe.room import room
from tuner.study.hyperparameter import Scalar
from tuner.study.layer_depth import layer_depths
from tuner.study.parameter_groups import ParameterGroup, Partition, default_name
from tuner.workloads import Task
from tuner.workloads.task import Data

STACKED_WIDTH = 8
WIDTHS = (1, 8, 64)
"""Of the stacks whose memory is told."""
TIMED_S = 0.2
"""Seconds for which a stack is timed."""

Note = Callable[[str], object]


def _quiet(text: str) -> None:
    pass


def check_up(
    name: str,
    params: Mapping[str, Scalar],
    *,
    micro_batch: int = 8,
    device: str = "cpu",
    patterns: Sequence[str] = (),
    note: Note = _quiet,
) -> Report:
    """Check one registered workload; `note` is told what is being done. Exceptions of its code become a fault.

    `patterns` are those of parameter groups; one that matches nothing is a fault.
    """
    report, threads = Report(name, dict(params)), torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker's process on each core; more threads only hinder small models
    try:
        _check(report, micro_batch, torch.device(device), patterns, note)
    except RaisedInLayer as raised:
        cause = raised.__cause__
        assert cause is not None
        where = "" if raised.place is None else f"\nin the layer {raised.place}"
        report.fault = shortened("".join(traceback.format_exception(cause))) + where
    except InvalidInput as error:
        report.fault = str(error)
    except Exception:  # the user's own code runs here
        report.fault = shortened(traceback.format_exc())
    finally:
        torch.set_num_threads(threads)
    return report


def _check(report: Report, micro_batch: int, device: torch.device, patterns: Sequence[str], note: Note) -> None:
    note("loading the data")
    task = workloads.load(report.workload, report.params)
    report.train_examples, report.valid_examples = task.examples, len(task.validation)
    report.micro_batch = micro_batch = min(micro_batch, task.examples)
    report.warnings += warnings.of_data(task, room(device))
    note("running the model by itself")
    alone = Architecture(task, CPU, torch.float32)
    seen = _alone(report, task, alone, micro_batch)
    _match(report, alone, patterns)
    note("running several models as one program")
    architecture = Architecture(task, device, torch.float32)
    report.why_not_stacked = fault_of_vmap(architecture, _sample(task, micro_batch, TRIED, device), micro_batch)
    report.warnings += warnings.of_random_layers(seen, report.why_not_stacked)
    note("one update with each family of optimizers")
    _rules(report, task, device)
    if report.fault is not None:
        return
    note("measuring time and memory")
    _measure(report, task, device)


def _alone(report: Report, task: Task, architecture: Architecture, micro_batch: int) -> PlainPass:
    """Describe the model, and run it once."""
    roles, depths = architecture.roles(), layer_depths(architecture.parameter_names())
    report.depths = {place.name: depths[place.name] for place in architecture.layout.places}
    for place in architecture.layout.places:
        report.roles.setdefault(roles[place.name], {})[place.name] = list(place.shape)
        report.parameters += place.size
    seen = plain_pass(architecture, _sample(task, micro_batch, 1, CPU))
    report.warnings += warnings.of_loss(seen)
    report.warnings += warnings.of_roles(architecture.training, roles, task.roles or (), seen.seen.last_linear)
    return seen


def _match(report: Report, architecture: Architecture, patterns: Sequence[str]) -> None:
    """Say which trained parameters the patterns of parameter groups match; each must match some."""
    groups = [ParameterGroup(default_name(pattern), pattern) for pattern in patterns]
    names = list(report.depths)
    report.matches = {group.match: [name for name in names if group.matches(name)] for group in groups}
    Partition(groups, architecture.parameter_names(), names)


def _rules(report: Report, task: Task, device: torch.device) -> None:
    """Evaluate the initial weights, and make one update with each family; a fault if not even the simplest works."""
    size = report.micro_batch
    stack = Stack(task, width=len(representatives()), micro_batch=size, device=device)
    try:
        report.path = stack.path
        slot = stack.admit(TrialSpec("initial", {"optimizer": "sgd", "batch_size": size}, 0, size))
        assert slot is not None
        report.metrics = stack.evaluate([slot])[0]
        stack.evict(slot)
        tried = try_rules(stack)
    finally:
        stack.close()
    report.rules = [one for one, _ in tried]
    errors = [error for one, error in tried if one.family == ELEMENTWISE and error is not None]
    if errors:
        report.fault = shortened(errors[0])
    else:
        report.warnings += warnings.of_rules(report.rules)


def _measure(report: Report, task: Task, device: torch.device) -> None:
    bench = Bench(task, report.micro_batch, str(device), TIMED_S)
    report.whole_batches, report.stacked_width = bench.batch_dependent, STACKED_WIDTH
    taken = [found for width in NARROW if (found := bench.prepare(report.path, width)) is not None]
    sizes = {width: predicted(taken, width) for width in WIDTHS}
    report.memory = {width: size for width, size in sizes.items() if size is not None}
    for width, path in ((1, "loop"), (STACKED_WIDTH, report.path)):
        timing = bench.measure(path, width)
        seconds = None if timing is None else timing.tick_s / (width * report.micro_batch) * 1000
        if width == 1:
            report.alone_s = seconds
        else:
            report.stacked_s = seconds


def _sample(task: Task, micro_batch: int, count: int, device: torch.device) -> Data:
    """Return the first examples, as many as `count` micro-batches need."""
    feed = feed_of(task, Slots(1, micro_batch), 1, device, torch.float32)
    try:
        return feed.gather(torch.arange(min(task.examples, count * micro_batch), device=device))
    finally:
        feed.close()
