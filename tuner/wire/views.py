"""The API's views of studies, trials, workers and results. Times are UTC in ISO 8601."""

import math
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from tuner.study.hyperparameter import Scalar
from tuner.study.states import Order, Origin, StudyState, TrialState
from tuner.wire.message import Message
from tuner.wire.sync import DeviceInfo

T = TypeVar("T")
Grade = Literal["A", "B", "C", "D", "none"]


class Page(Message, Generic[T]):
    """One page of a list; `next_cursor` is null on the last."""

    items: list[T]
    next_cursor: str | None = None


class TrialView(Message):
    """One trial."""

    study: str
    number: int
    state: TrialState
    origin: Origin = Field(default=Origin.PROPOSED, description="why it exists")
    optimizer: str
    params: dict[str, Scalar]
    seed: int
    replicate: int = 0
    value: float | None = Field(default=None, description="the study's metric; null until completed")
    reason: str | None = Field(default=None, description="why infeasible, failed or cancelled, or what was ordered")
    order: Order | None = Field(default=None, description="what it was told and has not done yet")
    step: int = 0
    examples: int = 0
    total_steps: int | None = Field(description="null where only the trial's own code knows")
    total_examples: int | None = Field(description="null where only the trial's own code knows")
    attempt: int = Field(description="0 before the first lease")
    worker: str | None = None
    program: dict[str, Scalar | None] | None = Field(
        default=None, description="what determines the floating-point result of the attempt; null before it began"
    )
    fingerprint: str | None = Field(default=None, description="short hash of the program")
    error: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def lr(self) -> float:
        """The learning rate; NaN if there is none."""
        return self._numeric("lr")

    @property
    def batch_size(self) -> int:
        """The batch size in examples; 0 if there is none."""
        value = self._numeric("batch_size")
        return int(value) if math.isfinite(value) else 0

    def _numeric(self, name: str) -> float:
        value = self.params.get(name)
        return math.nan if value is None or isinstance(value, str | bool) else float(value)


class RunningProgram(Message):
    """A program that runs trials of a study at the moment."""

    fingerprint: str
    words: str = Field(description="the program in a few words, e.g. `compiled, width 64, 1 thread`")
    trials: int = Field(description="trials that it runs")
    devices: int = Field(description="devices, or processes of one, that run it")


class BudgetView(Message):
    """What a study may use of something, and has used."""

    name: Literal["runs", "examples", "wall_clock", "device_hours", "cost", "failed"]
    limit: float | None = Field(description="null: none is set; what was used is shown all the same")
    used: float = Field(description="of examples: what ended trials saw, and what the others are promised")
    left: float | None
    unit: Literal["trials", "examples", "s", "h", ""] = Field(description="cost is in the currency of its price")


class StudyView(Message):
    """One study, with its progress."""

    id: int
    name: str
    title: str
    note: str = Field(default="", description="free text about the study")
    tags: list[str] = Field(default_factory=list)
    state: StudyState
    reason: str | None = Field(default=None, description="why stopped or failed")
    workload: str
    metric: str
    goal: Literal["minimize", "maximize"]
    target: float | None = None
    method: str
    optimizers: list[str]
    swept: dict[str, list[str]] = Field(description="hyperparameters searched, per optimizer")
    run_cap: int
    parallel: int | Literal["automatic"] = Field(
        description="the most trials in flight; automatic: as many as the workers have room for"
    )
    priority: float = Field(default=1.0, description="weight of its share of device time")
    examples_per_trial: int | None = Field(description="null where only the trials' own code knows")
    budgets: list[BudgetView] = Field(default_factory=list, description="where one study is asked for, not in lists")
    counts: dict[TrialState, int] = Field(description="trials by state; states without trials are left out")
    examples_done: int
    slot_utilisation: float | None = Field(
        default=None,
        description="share of the slots computed for its trials, tick by tick, that held one; null before any",
    )
    examples_per_second: float | None = Field(
        default=None, description="examples trained per second, over the last seconds; null while nothing is reported"
    )
    running_programs: list[RunningProgram] = Field(
        default_factory=list, description="which programs run its trials now, that of the most trials first"
    )
    reproducible: bool = Field(default=False, description="every attempt runs one program")
    program: dict[str, Scalar | None] | None = Field(default=None, description="that program; null before it is known")
    fingerprint: str | None = Field(default=None, description="short hash of that program")
    waits_for: str | None = Field(default=None, description="what it is waiting for when none of its trials runs")
    notice: str | None = Field(default=None, description="one line that says what it needs; null while all is well")
    best: TrialView | None = None
    revision: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class FailureGroup(Message):
    """Trials that failed with the same message."""

    count: int
    message: str
    trial: int = Field(description="number of the first of them")


class StudyDetail(StudyView):
    """One study with its whole document."""

    failures: list[FailureGroup] = Field(
        default_factory=list, description="the latest failures by message, the most frequent first"
    )
    document: dict[str, Any]


class Curve(Message):
    """A metric of one trial over the examples seen (its effective curve)."""

    study: str
    number: int
    metric: str
    metrics: list[str] = Field(description="all metrics that this trial reported")
    step: list[int]
    examples: list[int]
    value: list[float]


class LogView(Message):
    """The end of what an attempt of a trial printed; empty where nothing is kept."""

    study: str
    number: int
    attempt: int = Field(description="the latest with a log, unless another was asked for")
    text: str
    written: int = Field(description="bytes that it printed in all; `text` is the end of them")
    updated_at: datetime | None = None


class NoiseView(Message):
    """A gradient noise scale with its interval, in examples."""

    value: float
    low: float
    high: float
    bounded: bool
    steps: int


class Best(Message):
    """The winner so far, with its evidence and a snippet to paste."""

    trial: TrialView
    grade: Grade
    interval: tuple[float, float] | None = Field(description="of the metric over seeds; null with one seed")
    evidence: str = Field(description="the evidence behind the grade, in words")
    snippet: str = Field(description="Python that builds the tuned optimizer")


class LeaderboardRow(Message):
    """The best configuration of one optimizer."""

    rank: int
    optimizer: str
    best: TrialView | None
    completed: int
    infeasible: int
    trials: int
    median: float | None = Field(description="median value over its completed trials")


class Leaderboard(Message):
    """Optimizers by their best trial."""

    study: str
    metric: str
    goal: Literal["minimize", "maximize"]
    rows: list[LeaderboardRow]
    grade: Grade
    evidence: str


class BatchRange(Message):
    """A range of batch sizes in powers of two (both ends included)."""

    low: int
    high: int


class BatchAdvice(Message):
    """Recommended batch sizes for one optimizer, in examples."""

    study: str
    optimizer: str
    grade: Grade
    grade_meaning: str
    headline: str = Field(default="", description="the critical batch size in one sentence")
    trial: int | None = Field(default=None, description="number of the tuned trial that gave the noise scale")
    noise_scale: NoiseView | None = None
    critical_batch: float | None = None
    interval: tuple[float, float] | None = Field(default=None, description="of the critical batch")
    cheapest: BatchRange | None = None
    balanced: BatchRange | None = None
    fastest: BatchRange | None = None
    regret: float | None = Field(default=None, description="largest loss of time within the interval, as a fraction")
    lr: str = Field(default="", description="how to change the learning rate with the batch size")
    notes: list[str] = Field(default_factory=list)
    next_experiment: str = ""


class BatchAdviceList(Message):
    """Advice for every optimizer of a study, the winner's first."""

    study: str
    items: list[BatchAdvice]


class WorkerView(Message):
    """One worker session."""

    id: int
    name: str
    state: Literal["busy", "idle", "lost", "gone", "draining", "quarantined"]
    why: str | None = Field(default=None, description="why it is quarantined")
    quarantined_until: datetime | None = None
    devices: list[DeviceInfo]
    workloads: list[str]
    held: int = Field(description="trials that it is running")
    version: str
    first_seen: datetime
    last_seen: datetime


class HyperparameterView(Message):
    """A hyperparameter as the catalogue shows it."""

    name: str
    default: Scalar
    description: str
    allowed: str
    search: str = Field(description="default search range in words; empty if there is none")
    swept: bool
    source: str


class OptimizerView(Message):
    """An optimizer as the catalogue shows it."""

    name: str
    summary: str
    formula: str
    reference: str
    state_per_parameter: float = Field(description="state tensors of the parameter's own shape")
    memory: str = Field("", description="all state in words, in copies of a parameter [m, k]")
    needs_loss: bool = Field(False, description="re-evaluates the loss inside a step; meant for full batches")
    hyperparameters: list[HyperparameterView]


class ScheduleView(Message):
    """A schedule as the catalogue shows it."""

    name: str
    summary: str
    formula: str
    parameters: list[HyperparameterView]


class NamedThing(Message):
    """A name and what it means."""

    name: str
    description: str


class CatalogueView(Message):
    """Everything that a study document may name."""

    optimizers: list[OptimizerView]
    schedules: list[ScheduleView]
    methods: list[NamedThing]
    workloads: list[NamedThing]


class EventView(Message):
    """A change of state. `id` is the study's own revision."""

    id: int
    kind: str
    trial: int | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    at: datetime
    by: str | None = Field(default=None, description="who asked for it; null: nobody did, or nobody knows")


class Check(Message):
    """One thing that the server needs."""

    name: str = Field(description="database, sampler, tasks, data or checkpoints")
    ok: bool
    detail: str = Field(default="", description="what is wrong")


class Readiness(Message):
    """GET /readyz, when all is well; otherwise the errors of a problem document name what is wrong."""

    checks: list[Check]


class Health(Message):
    """GET /healthz."""

    status: Literal["ok"]
    service: Literal["tuner"]
    version: str
