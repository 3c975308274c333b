"""A place for one script at a time, as the agent sees a device: it takes a trial, runs the command, and says its end.

Its messages are those of a device process (`tuner.worker.device`). It has one thread, which starts with the first
trial's command and never dies, so the agent has nothing to start again.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.ask.curve import Row
from tuner.ask.folder import folder_of
from tuner.ask.stay import program
from tuner.errors import TunerError
from tuner.study.catalogue import EXTERNAL, EXTERNAL_WORDS
from tuner.worker.agent.device import Device
from tuner.worker.agent.tail import Tail
from tuner.worker.channel import Json
from tuner.worker.scripts.script import Script

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How soon the end of a script and its reports are noticed."""
LOG_EVERY_S = 5.0
ALIVE_EVERY_S = 5.0
Key = tuple[int, int]


@dataclass(frozen=True)
class Terms:
    """How commands are run. `database` tells which server's trials these are, once that is known."""

    words: Sequence[str]
    root: Path
    """Of the trials' checkpoints."""
    timeout_s: float | None
    grace_s: float
    database: Callable[[], str]


class Place:
    """Runs one script at a time; see `Device`."""

    width: int | None = 1

    def __init__(self, name: str, terms: Terms, gpu: str | None) -> None:
        """`gpu` is what its scripts see as CUDA_VISIBLE_DEVICES."""
        self.device = name
        self.heard = 0
        self.output = Tail()
        self._terms = terms
        self._gpu = gpu
        self._inbox: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._listen: Callable[[Device, Json], None] = lambda device, message: None
        self._closing = False
        self._stopping: set[Key] = set()
        self._pausing: set[Key] = set()
        self._script: Script | None = None

    def keep_running(self, listen: Callable[[Device, Json], None]) -> None:
        """Start the place's thread, once."""
        if self._thread is None and not self._closing:
            self._listen = listen
            self._thread = threading.Thread(target=self._run, name=self.device, daemon=True)
            self._thread.start()

    def send(self, message: Json) -> None:
        """Take a message. An order to end counts at once, also while a script runs."""
        for word, keys in (("stop", self._stopping), ("pause", self._pausing)):
            if word in message:
                keys.add(_key(message[word]))
        if "go_on" in message:
            self._pausing.discard(_key(message["go_on"]))
        if "assign" in message:
            self._inbox.put(message)

    def kill(self, why: str) -> None:
        """End the script that runs."""
        log.error("a script is ended: it %s", why, extra={"action": "kill", "device": self.device})
        script = self._script
        if script is not None:
            script.kill()

    def hang_up(self) -> None:
        """Have the script told to end."""
        self._closing = True
        self._inbox.put({})

    def close(self, patience_s: float) -> None:
        """Wait for the end of the script, and end it if it takes too long."""
        self.hang_up()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(patience_s)
        if thread.is_alive():
            self.kill("did not end in time")
            thread.join(patience_s + 1.0)

    def _run(self) -> None:
        workload = {"name": EXTERNAL, "description": EXTERNAL_WORDS}
        self._say({"hello": {"description": "scripts", "workloads": [workload]}})
        self._say({"stacks": {}, "opens": True})
        while not self._closing:
            message = self._inbox.get()
            if "assign" in message:
                self._train(message["assign"])

    def _train(self, assigned: Json) -> None:
        """Run the command for a trial, and say how it ended."""
        key = assigned["trial"], assigned["attempt"]
        self.output = Tail()
        if key in self._stopping:
            self._forget(key)
            return
        database, number = self._terms.database(), assigned["number"]
        folder = folder_of(self._terms.root, database, assigned["study"], assigned["study_id"], number)
        try:
            script = Script(
                self._terms.words, assigned, folder, self.output, gpu=self._gpu, grace_s=self._terms.grace_s
            )
        except (TunerError, OSError) as error:
            self._end(key, None, {"outcome": "error", "error": str(error)})
            return
        self._script = script
        told, rows = self._watch(key, script)
        self._script = None
        if told is not None:
            self._end(key, rows, told)
        self._forget(key)

    def _watch(self, key: Key, script: Script) -> tuple[dict[str, Any] | None, Row | None]:
        """Follow a script to its end; return its final message, None if nobody waits for one, and its last row."""
        last: Row | None = None
        started = overdue = ended_by = False
        alive_s = logged_s = time.monotonic()
        while not script.ended():
            rows = script.reported.read()
            started = self._report(key, rows, script, started)
            last = rows[-1] if rows else last
            now = time.monotonic()
            late = self._terms.timeout_s is not None and now - script.began_s > self._terms.timeout_s
            if not ended_by and (late or self._closing or key in self._stopping or key in self._pausing):
                ended_by, overdue = True, late
                script.stop()
            if now - logged_s > LOG_EVERY_S:
                logged_s = now
                self._say({"log": list(key)})
            if now - alive_s > ALIVE_EVERY_S:
                alive_s = now
                self._say({"alive": True})
            time.sleep(POLL_S)
        rows = script.clear()
        self._report(key, rows, script, started)
        last = rows[-1] if rows else last
        if key in self._stopping or (self._closing and ended_by):
            return None, last
        if overdue and self._terms.timeout_s is not None:
            return script.overdue(self._terms.timeout_s), last
        told = script.outcome()
        return ({"outcome": "paused", "error": None} if ended_by and told["outcome"] != "finished" else told), last

    def _report(self, key: Key, rows: list[Row], script: Script, started: bool) -> bool:
        """Pass rows on; before the first of them, what is known of the program."""
        if rows and not started:
            self._say({"started": list(key), "program": {**program(), "path": "script", **script.reported.program}})
        for row in rows:
            noise = dict(zip(("n", "s", "q", "ss", "qq", "sq"), row.noise, strict=True)) if row.noise else None
            told = {"step": row.step, "examples": row.examples, "elapsed_s": row.elapsed_s, "metrics": row.metrics}
            self._say({"row": {"trial": key[0], "attempt": key[1], **told, "noise": noise}})
        return started or bool(rows)

    def _end(self, key: Key, last: Row | None, told: dict[str, Any]) -> None:
        self._say({"log": list(key)})
        reached = {"step": last.step if last else 0, "examples": last.examples if last else 0}
        self._say({"ended": {"trial": key[0], "attempt": key[1], "infeasible": None, **reached, **told}})

    def _forget(self, key: Key) -> None:
        self._stopping.discard(key)
        self._pausing.discard(key)

    def _say(self, message: Json) -> None:
        self.heard += 1
        with contextlib.suppress(Exception) if self._closing else contextlib.nullcontext():
            self._listen(self, message)


def _key(pair: list[int]) -> Key:
    trial, attempt = pair
    return trial, attempt
