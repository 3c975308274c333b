"""When a device process checkpoints its trials, and the thread that writes for it.

Trials are checkpointed in turn, one at a time, so that neither memory nor disk has to take all slots at once.
Invariants:

- Training and the tick loop never wait for the disk.
- Checkpoints take at most `SHARE` of the tick loop's time: the cost of one is amortised before the next is taken.
- A checkpoint is reported after all rows of its trial up to its step, and only once it is safely in the store.
- While the server does not know of a trial's checkpoint, no further one is taken of that trial: if this process died,
  nobody could resume from it, and the store does not grow while the server is unreachable.
- A store error, or lack of memory for a copy of the state, is logged (once in a while, however often it happens) and
  costs the checkpoint, never the trial.
"""

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import safetensors.torch  # noqa: F401 - loaded now, so that the first checkpoint is not charged for it
from torch import Tensor

from tuner.complaints import Complaints
from tuner.engine import Snapshot, Stack, TrialSpec
from tuner.engine.checkpoint import decode, encode, encode_tensors
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.errors import InvalidInput
from tuner.store import SHARED, Damaged, FolderStore, Store, Stored, open_store, path_of
from tuner.worker.channel import Json

log = logging.getLogger(__name__)

SHARE = 0.01
"""Share of the tick loop's time; the writer's CPU time counts too, because it may run on the same core."""
AHEAD = 2
"""Most snapshots that wait for the disk: each is a copy of a trial's whole state in memory."""
OWN_AGE_S = 7 * 86400.0
"""Age at which states on a worker's own disk are deleted at start: their trials have continued elsewhere."""
LOOK_S = 0.05
"""How often to check whether a checkpoint is due."""

Key = tuple[int, int]
"""(trial, attempt)."""


class Holder(Protocol):
    """What holds a stack."""

    stack: Stack


Where = Callable[[Key], tuple[Holder, int] | None]
"""Trial -> the holder of its stack and its slot there."""


@dataclass
class _Trial:
    study: str
    number: int
    last_s: float
    """When its latest checkpoint was taken (or it began), by the monotonic clock."""
    waits: bool = False
    """Whether the server does not know its latest checkpoint yet."""
    files: list[str] = field(default_factory=list)
    """Paths of its states, the latest last; only tracked on an own disk."""


@dataclass(frozen=True)
class _Job:
    path: str
    content: Callable[[], bytes]
    messages: Callable[[Stored | None], list[Json]]


class Checkpoints:
    """Checkpoints of one device process, in the store at `root`, about every `every_s` seconds for each trial."""

    def __init__(self, root: str | Path, every_s: float, own_disk: bool = False) -> None:
        """`own_disk`: no other machine sees the store, so this process also deletes files no longer needed.

        Raises `OSError` or `InvalidInput` if the store cannot be used.
        """
        self._complaints = Complaints(log)
        self.store = open_store(str(root))
        self.store.prepare()
        self.scope = self._take_over(self.store) if own_disk else SHARED
        self._every_s = every_s
        self._token = secrets.token_hex(4)
        self._trials: dict[Key, _Trial] = {}
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[list[Json]] = queue.SimpleQueue()
        self._pending = 0
        self._not_before_s = 0.0
        self._writer_cpu_s = 0.0
        self._counted_cpu_s = 0.0
        threading.Thread(target=self._write_all, name="checkpoints", daemon=True).start()

    @property
    def pending(self) -> bool:
        """Whether a write is in progress, or its message has not been collected yet."""
        return self._pending > 0

    @property
    def full(self) -> bool:
        """Whether as many snapshots wait for the disk as may."""
        return self._pending >= AHEAD

    def load(self, resume: Json, spec: TrialSpec) -> Snapshot:
        """Read the snapshot that an assignment names. Raises `Damaged`, or `InvalidInput` for a foreign path."""
        snapshot = decode(self.store.read(resume["path"], resume["digest"]), spec)
        if snapshot.step != resume["step"]:
            raise Damaged(f"{resume['path']} holds step {snapshot.step}; expected {resume['step']}")
        return snapshot

    def watch(self, key: Key, study: str, number: int, resumed: str | None = None) -> None:
        """Start to checkpoint a trial.

        `resumed` is the path of the state from which it resumed.
        """
        files = [resumed] if resumed is not None and self.scope != SHARED else []
        self._trials[key] = _Trial(study, number, time.monotonic(), files=files)

    def forget(self, key: Key, done: bool = False) -> None:
        """Stop checkpointing a trial; `done`: no later attempt will resume it."""
        trial = self._trials.pop(key, None)
        if trial is not None and done:
            self._delete(trial.files)

    def watches(self, key: Key) -> bool:
        """Whether a trial is checkpointed."""
        return key in self._trials

    def kept(self, key: Key) -> None:
        """Record that the server knows of a trial's latest checkpoint."""
        if key in self._trials:
            trial = self._trials[key]
            trial.waits = False
            self._delete(trial.files[:-1])
            trial.files = trial.files[-1:]

    def due(self, where: Where) -> Key | None:
        """Return the trial to checkpoint now, if any: the one that has waited longest."""
        now = time.monotonic()
        if now < self._not_before_s or self.full or not self._trials:
            return None
        before = now - self._every_s
        waiting = [(t.last_s, key) for key, t in self._trials.items() if t.last_s <= before and not t.waits]
        if not waiting:
            self._not_before_s = now + LOOK_S
            return None
        # A step takes several ticks: trials in the middle of one come later.
        ready = []
        for since, key in waiting:
            found = where(key)
            if found is not None and found[0].stack.between_steps(found[1]):
                ready.append((since, key))
        return min(ready)[1] if ready else None

    def take(self, stack: Stack, key: Key, slot: int, then: Json | None = None) -> bool:
        """Pass a trial's state to the writer; return whether there was memory for a copy of it.

        All events of the stack about it must already have been sent. The message `then` follows when it is stored, or
        could not be.
        """
        began = time.monotonic()
        trial = self._trials[key]
        try:
            snapshot = stack.snapshot(slot)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._complaints.say("no memory for a checkpoint", error, action="checkpoint", trial=key[0])
            trial.last_s = began
            return False
        path = path_of(trial.study, trial.number, key[1], snapshot.step, self._token)

        def messages(stored: Stored | None) -> list[Json]:
            last = [] if then is None else [then]
            if stored is None:
                trial.waits = False  # nothing was written, so nothing will be reported
                return last
            told = {"trial": key[0], "attempt": key[1], "step": snapshot.step, "scope": self.scope}
            return [{"checkpointed": told | {"path": path, "digest": stored.digest, "bytes": stored.bytes}}, *last]

        trial.last_s, trial.waits = began, True
        trial.files += [path] if self.scope != SHARED else []
        self._put(_Job(path, lambda: encode(snapshot), messages))
        now = time.monotonic()
        writer_s = self._writer_cpu_s
        cost_s = now - began + writer_s - self._counted_cpu_s
        self._counted_cpu_s = writer_s
        self._not_before_s = now + cost_s / SHARE
        return True

    def keep_weights(self, key: Key, ended: Json, weights: Mapping[str, Tensor]) -> None:
        """Store a finished trial's weights; its final message is sent once they are stored or have failed."""
        trial = self._trials[key]
        path = path_of(trial.study, trial.number, key[1], ended["step"], self._token, "weights")
        metadata = {"study": trial.study, "trial": str(trial.number), "step": str(ended["step"])}

        def messages(stored: Stored | None) -> list[Json]:
            told = None
            if stored is not None:
                told = {"path": path, "digest": stored.digest, "bytes": stored.bytes}
            return [{"ended": {**ended, "weights": told}}]

        self._put(_Job(path, lambda: encode_tensors(dict(weights), metadata), messages))

    def collect(self, wait_s: float = 0.0) -> list[Json]:
        """Return the messages about finished writes; wait for the first one if there is work."""
        messages: list[Json] = []
        while self._pending:
            try:
                messages += self._done.get(timeout=wait_s) if wait_s else self._done.get_nowait()
            except queue.Empty:
                break
            self._pending -= 1
            wait_s = 0.0
        return messages

    def drain(self, where: Where, send: Callable[[Json], None], until_s: float) -> None:
        """Checkpoint every trial as it is, including unfinished steps, as far as time allows.

        `until_s` is a time of the monotonic clock.
        """
        for key in sorted(self._trials, key=lambda key: self._trials[key].last_s):
            while self.full and time.monotonic() < until_s:
                _send_all(self.collect(0.02), send)
            found = where(key)
            there = found is not None and found[0].stack.slot_of(key) == found[1]
            if found is not None and there and time.monotonic() < until_s:
                self.take(found[0].stack, key, found[1])
        while self._pending and time.monotonic() < until_s:
            _send_all(self.collect(0.02), send)

    def _take_over(self, store: Store) -> str:
        """Return the scope of our own disk, after deleting states left behind long ago."""
        if not isinstance(store, FolderStore):
            raise InvalidInput("a worker's own checkpoint store is a directory, not a URL")
        self._delete(store.files(time.time() - OWN_AGE_S))
        return f"worker:{store.identity()}"

    def _delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            try:
                self.store.delete(path)
            except OSError as error:
                self._complaints.say("a checkpoint cannot be deleted", error, action="checkpoint", path=path)

    def _put(self, job: _Job) -> None:
        self._pending += 1
        self._jobs.put(job)

    def _write_all(self) -> None:
        while True:
            job = self._jobs.get()
            stored = None
            try:
                stored = self.store.write(job.path, job.content())
            except Exception as error:  # a full disk, lost permissions: training continues, with an older checkpoint
                odd = not isinstance(error, OSError)
                self._complaints.say(
                    "a checkpoint cannot be written", error, traceback=odd, action="checkpoint", path=job.path
                )
            self._writer_cpu_s = time.thread_time()
            self._done.put(job.messages(stored))


def _send_all(messages: list[Json], send: Callable[[Json], None]) -> None:
    for message in messages:
        send(message)
