"""The tables. What must always hold is stated here as keys and constraints, not in comments elsewhere.

- A study's trials are numbered without gaps; `trials_created` counts them. `runs` counts the proposed and enqueued ones
  and never passes `run_cap`.
- A proposal is known by its family and its index in the family's sequence, and is made once. A replicate or branch has
  its parent in the same study.
- A trial has at most one live attempt (outcome null); an attempt's number is the fence.
- An order is of a running trial; with it goes its study's or a user's wish, which a cancelled trial keeps.
- A study's events are numbered by its own revision.
- Ids of studies, trials, workers and tokens are never used twice.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from storage.columns import Metrics, UtcTime

BigId = BigInteger().with_variant(Integer, "sqlite")
NEVER_AGAIN = {"sqlite_autoincrement": True}
"""No id is handed out twice, not even that of a deleted row (PostgreSQL's sequences never do)."""
NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Common to all tables: constraint names that migrations can rely on."""

    metadata = MetaData(naming_convention=NAMING)


class Study(Base):
    """One search. `document` is the study document with its defaults filled in."""

    __tablename__ = "studies"
    __table_args__ = (
        CheckConstraint("runs <= run_cap", name="cap"),
        CheckConstraint("runs <= trials_created", name="runs"),
        CheckConstraint("state in ('running','paused','completed','stopped','failed')", name="state"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    title: Mapped[str] = mapped_column(String(200), default="")
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str | None] = mapped_column(Text)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    edition: Mapped[int] = mapped_column(default=0, doc="counts changes after which what is kept of a study is wrong")
    batch_groups: Mapped[list[dict[str, Any]]] = mapped_column(JSON, doc="batch sizes that share a micro-batch")
    priority: Mapped[float] = mapped_column(doc="weight of its share of device time")
    served: Mapped[float] = mapped_column(default=0.0, doc="examples leased so far, over the priority")
    run_cap: Mapped[int]
    parallel: Mapped[int | None] = mapped_column(doc="null: as many as the workers have room for")
    program: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(none_as_null=True), doc="what every attempt of a reproducible study runs; null before its first"
    )
    trials_created: Mapped[int] = mapped_column(default=0)
    runs: Mapped[int] = mapped_column(default=0, doc="proposed and enqueued trials")
    revision: Mapped[int] = mapped_column(BigInteger, default=0)
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    submitted: Mapped[str | None] = mapped_column(String(64), doc="digest of the document as it was submitted")
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)
    webhook: Mapped[str | None] = mapped_column(Text, doc="is told of its end")
    told_end: Mapped[datetime | None] = mapped_column(UtcTime, doc="the end that it was told, or that was given up")
    telling_tries: Mapped[int] = mapped_column(default=0, doc="that failed")
    telling_next: Mapped[datetime | None] = mapped_column(UtcTime, doc="of the next try")
    spent_s: Mapped[float] = mapped_column(default=0.0, doc="seconds that it ran, until it was last paused or ended")
    running_since: Mapped[datetime | None] = mapped_column(UtcTime, doc="first lease since then; null: none yet")
    device_s: Mapped[float] = mapped_column(default=0.0, doc="seconds that it held devices")
    reopened_at: Mapped[datetime | None] = mapped_column(UtcTime, doc="when it last went on after its end")


class Trial(Base):
    """One configuration, trained once with one seed."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        UniqueConstraint("study_id", "family", "family_index", name="uq_trials_proposal"),
        ForeignKeyConstraint(
            ["study_id", "parent"], ["trials.study_id", "trials.number"], name="fk_trials_parent", ondelete="CASCADE"
        ),
        Index("ix_trials_study_finished", "study_id", "finished_at"),
        Index("ix_trials_study_value", "study_id", "state", "value", "number"),
        Index("ix_trials_state", "state"),
        Index("ix_trials_family_value", "study_id", "family", "state", "value", "number"),
        Index("ix_trials_family_number", "study_id", "family", "number"),
        Index(
            "ix_trials_queue",
            "study_id",
            "stack",
            "number",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        CheckConstraint(
            "state in ('queued','running','paused','completed','pruned','failed','infeasible','cancelled')",
            name="state",
        ),
        CheckConstraint("state <> 'completed' or value is not null", name="completed_has_value"),
        CheckConstraint("origin in ('proposed','enqueued','replicate','branch')", name="origin"),
        CheckConstraint("(origin = 'proposed') = (family_index is not null)", name="proposed_has_index"),
        CheckConstraint("(origin in ('replicate','branch')) = (parent is not null)", name="derived_has_parent"),
        CheckConstraint(
            """"order" is null or ("order" in ('stop','prune','pause') and state = 'running')""", name="order"
        ),
        CheckConstraint("ordered_by in ('user','study')", name="ordered_by"),
        Index("uq_trials_idempotency", "study_id", "idempotency_key", unique=True),
        Index(
            "ix_trials_enqueued",
            "study_id",
            "stack",
            "number",
            sqlite_where=text("state = 'queued' and origin = 'enqueued'"),
            postgresql_where=text("state = 'queued' and origin = 'enqueued'"),
        ),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    number: Mapped[int]
    family: Mapped[str] = mapped_column(String(64))
    family_index: Mapped[int | None] = mapped_column(doc="place in the family's sequence of proposals")
    origin: Mapped[str] = mapped_column(String(16))
    parent: Mapped[int | None] = mapped_column(doc="number of the trial that this one was derived from")
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    stack: Mapped[str] = mapped_column(String(64), doc="trials with equal keys share a stack")
    seed: Mapped[int] = mapped_column(BigInteger)
    replicate: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(16))
    value: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(Text)
    order: Mapped[str | None] = mapped_column(String(8), doc="stop, prune or pause: told, and not yet carried out")
    order_why: Mapped[str | None] = mapped_column(Text, doc="for people")
    ordered_by: Mapped[str | None] = mapped_column(String(8), doc="who ordered or cancelled it: a user, or its study")
    asked_after: Mapped[int] = mapped_column(doc="finished trials that the sampler had seen")
    attempt: Mapped[int] = mapped_column(default=0)
    charged: Mapped[int] = mapped_column(default=0, doc="attempts that count against retry.max")
    idempotency_key: Mapped[str | None] = mapped_column(String(200), doc="of the request that enqueued it")
    step: Mapped[int] = mapped_column(BigInteger, default=0)
    examples: Mapped[int] = mapped_column(BigInteger, default=0)
    total_steps: Mapped[int] = mapped_column(BigInteger, doc="0: only the trial's own code knows")
    total_examples: Mapped[int] = mapped_column(BigInteger, doc="0: only the trial's own code knows")
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)


class Worker(Base):
    """One worker session."""

    __tablename__ = "workers"
    __table_args__ = (NEVER_AGAIN,)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    session: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    devices: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    workloads: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    version: Mapped[str] = mapped_column(String(64), default="")
    study_id: Mapped[int | None] = mapped_column(
        BigInteger, doc="the only study whose trials a session of own code takes; it may have been deleted"
    )
    seq: Mapped[int] = mapped_column(BigInteger, default=-1)
    first_seen: Mapped[datetime] = mapped_column(UtcTime)
    last_seen: Mapped[datetime] = mapped_column(UtcTime)
    draining: Mapped[bool] = mapped_column(default=False, doc="it is told to hand everything back and leave")
    quarantined_until: Mapped[datetime | None] = mapped_column(UtcTime, doc="it gets no trials before")
    quarantine_why: Mapped[str | None] = mapped_column(Text)


class Attempt(Base):
    """One stay of a trial on a worker; while `outcome` is null it is that worker's lease."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index(
            "uq_attempts_live",
            "trial_id",
            unique=True,
            sqlite_where=text("outcome is null"),
            postgresql_where=text("outcome is null"),
        ),
        Index("ix_attempts_worker_outcome", "worker_id", "outcome"),
        CheckConstraint(
            "outcome in ('finished','lost','crashed','error','paused','drained','displaced','stopped')", name="outcome"
        ),
    )

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker_id: Mapped[int] = mapped_column(ForeignKey("workers.id"))
    device: Mapped[str] = mapped_column(String(64))
    lease_expires: Mapped[datetime] = mapped_column(UtcTime)
    outcome: Mapped[str | None] = mapped_column(String(16))
    resumed_from: Mapped[int] = mapped_column(BigInteger, default=0, doc="step at which this attempt began")
    program: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    fingerprint: Mapped[str | None] = mapped_column(String(16), doc="short hash of the program")
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(UtcTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcTime)
    ticks: Mapped[int] = mapped_column(BigInteger, default=0, doc="of its stack, with the trial in a slot")
    computed: Mapped[float] = mapped_column(default=0.0, doc="slot-ticks: its own, and its share of the empty slots")
    token: Mapped[str] = mapped_column(String(64), default="", doc="random: a worker's messages must name it")


class Report(Base):
    """A row of a trial's curve: metrics at a step, and the noise sums since the row before."""

    __tablename__ = "reports"
    __table_args__ = (
        ForeignKeyConstraint(["trial_id", "attempt"], ["attempts.trial_id", "attempts.attempt"], ondelete="CASCADE"),
    )

    trial_id: Mapped[int] = mapped_column(BigId, primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    examples: Mapped[int] = mapped_column(BigInteger)
    elapsed_s: Mapped[float]
    metrics: Mapped[dict[str, float]] = mapped_column(Metrics)
    noise_n: Mapped[int | None]
    noise_s: Mapped[float | None]
    noise_q: Mapped[float | None]
    noise_ss: Mapped[float | None]
    noise_qq: Mapped[float | None]
    noise_sq: Mapped[float | None]


class Log(Base):
    """The end of what an attempt printed."""

    __tablename__ = "logs"
    __table_args__ = (
        ForeignKeyConstraint(["trial_id", "attempt"], ["attempts.trial_id", "attempts.attempt"], ondelete="CASCADE"),
    )

    trial_id: Mapped[int] = mapped_column(BigId, primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    written: Mapped[int] = mapped_column(BigInteger, doc="bytes that it printed in all")
    updated_at: Mapped[datetime] = mapped_column(UtcTime)


class Checkpoint(Base):
    """Where the state of a trial at a step lies in the checkpoint store."""

    __tablename__ = "checkpoints"
    __table_args__ = (CheckConstraint("kind in ('state','weights')", name="kind"),)

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int]
    kind: Mapped[str] = mapped_column(String(8), default="state", doc="state or weights")
    path: Mapped[str] = mapped_column(Text, doc="relative to the store's root")
    scope: Mapped[str] = mapped_column(String(80), doc="shared, or worker:<id>")
    digest: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class Decision(Base):
    """What the pruner decided about a trial at a rung, and on what value."""

    __tablename__ = "decisions"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    rung: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(String(16))
    decided_at: Mapped[datetime] = mapped_column(UtcTime)


class Event(Base):
    """A change of state, numbered by its study's revision."""

    __tablename__ = "events"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    trial: Mapped[int | None]
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(UtcTime)
    by: Mapped[str | None] = mapped_column(String(200), doc="who asked for it; null: nobody did")


class Identity(Base):
    """What tells this database from every other one, a restored backup excepted."""

    __tablename__ = "identity"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    token: Mapped[str] = mapped_column(String(64))


class Token(Base):
    """An access token; only digests are kept: of itself, and of the cookie that stands for it in a browser."""

    __tablename__ = "tokens"
    __table_args__ = (NEVER_AGAIN,)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    cookie_digest: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    created_by: Mapped[str] = mapped_column(String(200), default="")
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)
