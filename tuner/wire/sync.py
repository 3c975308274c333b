"""The sync protocol: the one conversation between a worker and the server.

It is level-triggered: each side states what *is*, so lost, repeated and reordered messages are harmless. A worker's
request is its whole state; the reply is the whole wanted state.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tuner.store import PATTERN, SCOPE, SHARED
from tuner.study.hyperparameter import Scalar
from tuner.study.states import StudyState
from tuner.wire.message import Count, DeviceName, Message, Number, Text
from tuner.wire.strict_json import storable
from tuner.wire.workload_info import WorkloadInfo

MOST_LOG = 65_536
"""Characters of an attempt's output that are kept: its end."""
Outcome = Literal["finished", "error", "crashed", "drained", "displaced", "stopped", "paused"]
"""How a worker can end an attempt. Only the server sets `lost`."""


class DeviceInfo(Message):
    """One device of a worker, e.g. `cpu` or `cuda:0`."""

    device: DeviceName
    description: Text = ""
    width: int | None = Field(
        default=None, ge=1, le=1_000_000, description="slots of its stacks, if the user set them; null: measured"
    )
    checkpoints: bool = Field(default=False, description="whether it has a checkpoint store")
    scope: str = Field(default=SHARED, pattern=SCOPE, description="which one: the shared one, or that of its own disk")


class Registration(Message):
    """POST /workers. Registering the same session again changes nothing."""

    session: str = Field(min_length=16, max_length=64, description="random per process start")
    name: Text = Field(max_length=200, description="a label for people")
    devices: list[DeviceInfo] = Field(min_length=1, max_length=64)
    workloads: list[WorkloadInfo] = Field(max_length=1000)
    version: Text = Field(default="", max_length=64)
    study: Text | None = Field(default=None, max_length=64, description="take the trials of this study alone")


class Registered(Message):
    """The server's answer: the worker's id."""

    worker: int
    lease_s: float
    database: str = Field(description="random, one per database: a worker that meets another one starts clean")


class Capacity(Message):
    """What one device can take: an entry for each stack that it holds, and at most one without a stack.

    An entry with a stack takes trials of that stack. The one without says that the device can open one more stack: one
    that it does not hold. A device that would give up an empty stack for another one says so by such an entry.
    """

    device: DeviceName
    stack: str | None = Field(default=None, description="the stack's key; null: one that the device does not hold yet")
    free: Number = Field(description="trials that it takes: free slots, and those kept ahead")
    declines: list[str] = Field(
        default_factory=list, max_length=10_000, description="fingerprints of programs that it does not run"
    )
    cannot_load: list[str] = Field(
        default_factory=list, max_length=10_000, description="keys of stacks whose workload does not load on it"
    )


Token = Annotated[str, Field(max_length=64, description="random, one per attempt: no database repeats it")]


class Held(Message):
    """An attempt that the worker is running. What else the request says of it counts only with the right token."""

    trial: Count
    attempt: Number
    token: Token


class NoiseRow(Message):
    """Sums over the steps since the last row (see `tuner.noise.NoiseSums`)."""

    n: Number
    s: float
    q: float
    ss: float
    qq: float
    sq: float


class Started(Message):
    """An attempt entered a stack. Sent before its reports."""

    trial: Count
    attempt: Number
    program: dict[str, Scalar | None] = Field(description="what fixes the floating-point result")


class Restarted(Message):
    """An attempt that was to resume began from zero: its checkpoint could not be used. Sent before its reports."""

    trial: Count
    attempt: Number
    why: Text = Field(max_length=1000)


class Weights(Message):
    """A file in the checkpoint store, its path relative to the store's root."""

    path: str = Field(pattern=PATTERN)
    digest: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the content, in hex")
    bytes: Count


class Checkpointed(Weights):
    """The state of an attempt at a step, in the checkpoint store."""

    trial: Count
    attempt: Number
    step: Count = Field(description="updates done")
    scope: str = Field(default=SHARED, pattern=SCOPE, description="who sees it: every worker, or those with this disk")


class Resume(Weights):
    """The checkpoint from which an attempt begins."""

    step: Count
    examples: Count


def _storable_names(metrics: Any) -> Any:
    """Replace what cannot be stored in the names, as `Text` does: in one call for all of a row."""
    if isinstance(metrics, dict) and not all(
        [type(name) is str and name.isascii() and name.isprintable() for name in metrics]
    ):
        return {storable(name) if isinstance(name, str) else name: value for name, value in metrics.items()}
    return metrics


class Report(Message):
    """A row of a trial's curve, keyed (trial, attempt, step). Reports of one step merge."""

    trial: Count
    attempt: Number
    step: Count = Field(description="updates done")
    examples: Count = Field(description="examples seen")
    elapsed_s: float = Field(ge=0, description="seconds in a slot, up to the point resumed from included")
    metrics: Annotated[dict[str, float], BeforeValidator(_storable_names)] = Field(default_factory=dict, max_length=64)
    ticks: Count = Field(default=0, description="of the stack, with the attempt in a slot")
    computed: float = Field(default=0.0, ge=0, description="slot-ticks: its own, and its share of the empty slots")
    noise: NoiseRow | None = None


class Finish(Message):
    """The worker's final message on an attempt."""

    trial: Count
    attempt: Number
    token: Token
    outcome: Outcome
    infeasible: Literal["diverged", "oom", "batch_exceeds_budget"] | None = None
    value: float | None = Field(default=None, description="null: the server reads it from the reports")
    step: Count = 0
    examples: Count = 0
    error: Text | None = Field(default=None, max_length=20_000, description="traceback, for outcome error or crashed")
    final: bool = Field(default=False, description="of an error: the trial has failed and is not tried again")
    weights: Weights | None = Field(default=None, description="of a trial that finished, where they were stored")
    program: dict[str, Scalar | None] = Field(default_factory=dict, description="what fixes the floating-point result")


class LogTail(Message):
    """The end of what an attempt has printed so far. It replaces what was sent before."""

    trial: Count
    attempt: Number
    text: Text = Field(max_length=MOST_LOG, description="at most the last 64 kB")
    written: Count = Field(description="bytes printed in all")


class SyncRequest(Message):
    """POST /workers/{worker}/sync: the worker's whole state."""

    session: str = Field(max_length=64)
    seq: Count = Field(description="increases with every request of the session")
    capacity: list[Capacity] = Field(default_factory=list)
    held: list[Held] = Field(default_factory=list, max_length=100_000)
    started: list[Started] = Field(default_factory=list, max_length=10_000)
    restarted: list[Restarted] = Field(default_factory=list, max_length=10_000)
    reports: list[Report] = Field(default_factory=list, max_length=10_000)
    checkpointed: list[Checkpointed] = Field(default_factory=list, max_length=10_000)
    logs: list[LogTail] = Field(default_factory=list, max_length=1000)
    finished: list[Finish] = Field(default_factory=list, max_length=10_000)
    wait_s: float = Field(default=0.0, ge=0, le=30, description="how long to wait for work when there is none")

    @property
    def says_something(self) -> bool:
        """Whether it holds or reports anything; otherwise it only asks for work."""
        words = self.started or self.restarted or self.reports or self.checkpointed or self.logs or self.finished
        return bool(self.held or words)

    @property
    def room(self) -> int:
        """Trials that its devices can take."""
        return sum(capacity.free for capacity in self.capacity)


class Assignment(Message):
    """A trial to run: everything that the engine needs."""

    trial: Count
    attempt: Number
    token: Token
    device: str
    stack: str = Field(description="trials with the same key share a stack")
    study: str
    study_id: Count
    number: int
    workload: str
    workload_params: dict[str, Scalar] = Field(
        default_factory=dict, description="of the study; the trial's own are among `params`, as `workload.<name>`"
    )
    workload_values: list[str] = Field(
        default_factory=list, description="the workload's parameters that are one number per trial of a stack"
    )
    params: dict[str, Scalar] = Field(description="the whole configuration: optimizer, lr, batch_size, schedule, ...")
    seed: int
    examples: int = Field(description="training budget; total steps = floor(examples / batch_size)")
    micro_batch: int
    per_tick: int = Field(default=1, ge=1, description="micro-batches that a tick computes side by side, if it can")
    micro_batch_asked: bool = Field(
        default=False,
        description="the document asks for it; otherwise a model that depends on its batch gets whole ones",
    )
    metric: str | None = Field(default=None, description="what the study compares: the workload must report it")
    goal: Literal["minimize", "maximize"] = Field(default="minimize", description="which of its values are better")
    at: Literal["last", "best"] = Field(default="last", description="which of its values in a trial counts")
    in_flight: int = Field(ge=1, description="the most trials that its study can have in flight at once")
    slots: int = Field(ge=1, description="trials expected at once in its stack on this device")
    remaining: int = Field(ge=1, description="trials expected in its stack on this device until its study ends")
    priority: float = Field(
        gt=0, description="weight of its study's share of device time; its stacks on a device divide it among them"
    )
    rungs: list[int] = Field(description="examples at which to evaluate; the end is always evaluated")
    report_every: int = Field(description="examples between report rows")
    divergence_factor: float
    reproducible: bool = Field(default=False, description="every attempt of the study must run one program")
    program: dict[str, Scalar | None] | None = Field(
        default=None, description="the program of a reproducible study; null: this attempt's becomes the study's"
    )
    resume: Resume | None = Field(default=None, description="null: begin from zero")


class Stop(Message):
    """An attempt to end, and why.

    `pause`: store its state, and report it as `paused`; a later reply that does not name it takes that back. All others
    are dropped without a word: `fenced` ones are no longer the trial's live attempt, `deleted` trials are no more.
    """

    trial: Count
    attempt: Number
    order: Literal["stop", "prune", "pause", "fenced", "deleted"]
    why: str = Field(description="for people")


class SyncReply(Message):
    """The whole wanted state: live leases not yet held, and held attempts that must end."""

    assign: list[Assignment] = Field(default_factory=list)
    stop: list[Stop] = Field(default_factory=list)
    leave: bool = Field(default=False, description="the worker hands back all that it holds, and ends")
    lease_s: float
    next_sync_s: float
    study: StudyState | None = Field(
        default=None, description="state of the study of a session that takes the trials of one; null for other workers"
    )
