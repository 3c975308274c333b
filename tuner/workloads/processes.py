"""Processes that read examples: the `num_workers` of a `DataLoader`.

Each holds the data set, gets example numbers and answers with arrays. Invariants: an example has the same bits
whichever process reads it; what the data's code raises there is raised here; a process ends with the one that started
it, even if that was killed, and when it was not asked for a while; one that has ended is started again when needed.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from tuner.workloads.examples import Data, Numbers, Seeds, as_tensor

Read = Callable[[Numbers, Seeds | None], Data]

PARENT_S = 1.0
"""How often a process looks whether its parent is there."""
IDLE_S = 60.0
"""After which a process that is not asked for anything ends: stacks are kept for the next study."""


class Processes:
    """A fixed number of processes that call `read`; one read at a time."""

    def __init__(
        self, read: Read, count: int, prepare: Callable[[int], object] | None = None, context: Any = None
    ) -> None:
        """`prepare` is called in each process with its number; `context` is one of `multiprocessing`."""
        method = "fork" if sys.platform == "linux" else None  # user modules loaded by path are not found again
        self._context: Any = context or multiprocessing.get_context(method)
        self._read, self._prepare = read, prepare
        self._lock = threading.Lock()
        self._running = [self._start(number) for number in range(count)]

    def read(self, numbers: Numbers, seeds: Seeds | None) -> Data:
        """Return the examples with these numbers [n], each process reading a share. What `read` raises is raised."""
        with self._lock:
            if not self._running:
                raise RuntimeError("the processes that read examples were ended")
            shares = [share for share in np.array_split(np.arange(len(numbers)), len(self._running)) if len(share)]
            questions = [pickle.dumps((numbers[s], None if seeds is None else seeds[s])) for s in shares]
            for number, question in enumerate(questions):
                self._ask(number, question)
            answers = [self._answer(number, question) for number, question in enumerate(questions)]
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:
            raise errors[0]
        return tuple(torch.cat([as_tensor(part) for part in parts]) for parts in zip(*answers, strict=True))

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            running, self._running = self._running, []
        for _, pipe in running:
            with contextlib.suppress(OSError):  # it ended by itself
                pipe.send_bytes(b"")
        for process, pipe in running:
            process.join(PARENT_S)
            if process.is_alive():
                process.terminate()
                process.join()
            pipe.close()

    def _start(self, number: int) -> tuple[Any, Connection]:
        own, other = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(other, self._read, self._prepare, number), name=f"reader {number}", daemon=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: none of them is needed
            process.start()
        other.close()
        return process, own

    def _ask(self, number: int, question: bytes) -> None:
        try:
            self._running[number][1].send_bytes(question)
        except OSError:  # it ended since it was last asked
            self._running[number] = self._start(number)
            self._running[number][1].send_bytes(question)

    def _answer(self, number: int, question: bytes, again: bool = True) -> Any:
        process, pipe = self._running[number]
        try:
            return pickle.loads(pipe.recv_bytes())  # from a process of this one's own
        except (EOFError, OSError):
            process.join(PARENT_S)
            pipe.close()
            self._running[number] = self._start(number)
        if again and process.exitcode == 0:  # it went idle when it was asked
            self._ask(number, question)
            return self._answer(number, question, again=False)
        return RuntimeError(f"a process that reads examples ended with exit code {process.exitcode}")


def _serve(pipe: Connection, read: Read, prepare: Callable[[int], object] | None, number: int) -> None:
    """Answer until nothing is asked for, or the process that asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    parent = os.getppid()
    with contextlib.suppress(EOFError, OSError):
        if prepare is not None:
            prepare(number)
        while True:
            idle_since = time.monotonic()
            while not pipe.poll(PARENT_S):
                if os.getppid() != parent or time.monotonic() - idle_since > IDLE_S:
                    return
            question = pipe.recv_bytes()
            if not question:
                return
            numbers, seeds = pickle.loads(question)
            pipe.send_bytes(_result(read, numbers, seeds))


def _result(read: Read, numbers: Numbers, seeds: Seeds | None) -> bytes:
    """Return pickled arrays, or the exception with its traceback as a note."""
    try:
        found = read(numbers, seeds)
        return pickle.dumps([item if item.dtype == torch.bfloat16 else item.numpy() for item in found])
    except Exception as error:  # the data's own code ran
        said = traceback.format_exc()
        error.add_note(f"In the process that reads examples:\n{said}")
        try:
            message = pickle.dumps(error)
            pickle.loads(message)  # some are made with other arguments than they keep
            return message
        except Exception:
            return pickle.dumps(RuntimeError(said))
