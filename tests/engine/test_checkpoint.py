"""A checkpoint restores bit for bit: from bytes, in another process, into another slot of a stack of another width."""

import json
import subprocess
import sys
from pathlib import Path

import engine_cases
import pytest
import torch
from engine_cases import run_until_idle, small_task, spec

from tuner.engine import Row, Stack, TrialSpec
from tuner.engine.checkpoint import decode, decode_tensors, encode
from tuner.errors import InvalidInput
from tuner.store import Damaged
from tuner.workloads import Task

SCHEDULED = {"schedule": "cosine", "rungs": (90, 200), "report_every": 64}
WATCHED = {
    "adamw": spec(7, "adamw", lr=1e-2, **SCHEDULED),
    "muon": spec(7, "muon", lr=1e-2, batch_size=8, **SCHEDULED),
    "momentum in the middle of a step": spec(7, "momentum", lr=0.1, batch_size=32, examples=800, **SCHEDULED),
}


def normed_task() -> Task:
    """A model with buffers, which runs slot by slot."""
    task = small_task()
    layers = (torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 5))
    return Task(torch.nn.Sequential(*layers), task.loss, task.train, task.valid, fresh=True)


def key_of(row: Row) -> list[object]:
    noise = None if row.noise is None else [repr(value) for value in row.noise.values]
    return [row.step, row.examples, {k: repr(v) for k, v in row.metrics.items()}, noise]


def interrupted(task: Task, watched: TrialSpec, ticks: int, path: str) -> tuple[list[list[object]], bytes]:
    """Train for some ticks; return the rows up to there, and the checkpoint."""
    stack = Stack(task, width=3, micro_batch=4, path=path)
    stack.admit(spec(1, "sgd", lr=0.1, examples=4000))
    slot = stack.admit(watched)
    assert slot is not None
    rows = [event for _ in range(ticks) for event in stack.tick()] + stack.say()
    content = encode(stack.snapshot(slot))
    return [key_of(row) for row in rows if isinstance(row, Row) and row.key == watched.key], content


def resume(task: Task, watched: TrialSpec, content: bytes, width: int, path: str) -> list[list[object]]:
    """Go on in the last slot of a fresh stack, beside another trial."""
    stack = Stack(task, width=width, micro_batch=4, path=path)
    stack.admit(spec(2, "adamw", lr=1e-3, examples=640, seed=5))
    stack.tick()
    stack.restore(width - 1, decode(content, watched))
    rows, _ = run_until_idle(stack, [])
    return [key_of(row) for row in rows[watched.key]]


@pytest.mark.parametrize("path", ["eager", "loop"])
@pytest.mark.parametrize("name", WATCHED)
def test_another_width_and_slot(name: str, path: str) -> None:
    """Eager stacks of different widths are different programs in general; these two give the same bits."""
    task, watched = small_task(), WATCHED[name]
    straight, _ = run_until_idle(Stack(task, width=3, micro_batch=4, path=path), [watched])
    before, content = interrupted(task, watched, 37, path)
    assert before and before + resume(task, watched, content, 6, path) == [key_of(row) for row in straight[7]]


def test_a_model_with_buffers() -> None:
    task, watched = normed_task(), WATCHED["adamw"]
    straight, _ = run_until_idle(Stack(task, width=3, micro_batch=4), [watched])
    before, content = interrupted(task, watched, 37, "auto")
    assert before + resume(task, watched, content, 2, "auto") == [key_of(row) for row in straight[7]]
    assert any(name.startswith("extra.") and "running_mean" in name for name in decode_tensors(content))


FRESH = """
import json, sys
sys.path[:0] = sys.argv[2:]
import torch
torch.set_num_threads(1)
from test_checkpoint import WATCHED, resume
from engine_cases import small_task
content = open(sys.argv[1], "rb").read()
print(json.dumps(resume(small_task(), WATCHED["muon"], content, 5, "eager")))
"""


def test_a_fresh_process(tmp_path: Path) -> None:
    task, watched = small_task(), WATCHED["muon"]
    straight, _ = run_until_idle(Stack(task, width=3, micro_batch=4), [watched])
    before, content = interrupted(task, watched, 37, "eager")
    (tmp_path / "checkpoint").write_bytes(content)
    folders = [str(Path(file).parent) for file in (__file__, engine_cases.__file__)]
    command = [sys.executable, "-c", FRESH, str(tmp_path / "checkpoint"), *folders]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = json.loads(json.dumps([key_of(row) for row in straight[7]]))
    assert json.loads(json.dumps(before)) + json.loads(answer.stdout) == expected


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_bytes_do_not_depend_on_slot_width_or_neighbours(optimizer: str) -> None:
    """Nor does plain gradient descent carry the state that its neighbours need."""
    task, watched = small_task(), spec(7, optimizer, lr=1e-2, **SCHEDULED)
    contents = []
    for width, others in ((2, 0), (5, 2)):
        stack = Stack(task, width=width, micro_batch=4)
        for other in range(others):
            stack.admit(spec(100 + other, "adamw", lr=0.1, seed=other))
        slot = stack.admit(watched)
        assert slot == others
        for _ in range(36):
            stack.tick()
        stack.say()
        contents.append(decode_tensors(encode(stack.snapshot(slot))))
    assert contents[0].keys() == contents[1].keys()
    assert all(torch.equal(contents[0][name], contents[1][name]) for name in contents[0])


def test_what_cannot_be_read_is_damaged() -> None:
    watched = WATCHED["adamw"]
    _, content = interrupted(small_task(), watched, 37, "eager")
    other = spec(7, "adamw", lr=2e-2, **SCHEDULED)
    with pytest.raises(Damaged, match="another configuration"):
        decode(content, other)
    for broken in (b"", b"not a checkpoint", content[:200], content[:-8], content[:8] + b"{" + content[8:]):
        with pytest.raises(Damaged, match="cannot be read"):
            decode(broken, watched)
    with pytest.raises(Damaged, match="has format 9"):
        decode(content.replace(b'\\"format\\": 2,', b'\\"format\\": 9,'), watched)
    decode(content, TrialSpec((9, 2), *[getattr(watched, f) for f in ("params", "seed", "examples", "rungs")], 64))


def test_a_snapshot_of_another_model_is_refused_and_the_slot_stays_free() -> None:
    watched = WATCHED["adamw"]
    _, content = interrupted(small_task(), watched, 37, "eager")
    for stack in (Stack(small_task(hidden=11), width=2, micro_batch=4), Stack(small_task(), width=2, micro_batch=2)):
        with pytest.raises(InvalidInput, match="this stack takes"):
            stack.resume(decode(content, watched))
        assert stack.free == 2 and not stack.busy


def test_a_last_word_carries_the_weights_where_they_are_kept() -> None:
    task, watched = small_task(), WATCHED["adamw"]
    stack = Stack(task, width=1, micro_batch=4)
    stack.keep_weights = True
    _, ends = run_until_idle(stack, [watched])
    weights = ends[7].weights
    assert weights is not None
    model = task.build_model(0)
    model.load_state_dict(dict(weights))
    with torch.no_grad():
        loss = float(task.loss(model(task.valid[0]), *task.valid[1:]))
    rows, _ = run_until_idle(Stack(task, width=1, micro_batch=4), [watched])
    assert loss == pytest.approx(rows[7][-1].metrics["valid_loss"], rel=1e-6)
