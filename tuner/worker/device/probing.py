"""A probe's team: processes that build the same stack and time it at the same time.

A program is compiled only by the first process; the others find it in the compiler's cache.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from tuner.errors import TunerError
from tuner.probe.bench import PATHS, LeftOut, Timing, probe
from tuner.probe.choice import Cell, Choice
from tuner.probe.memory import Footprint
from tuner.worker.channel import Json, read_lines, write_line

NOISE = "USDT:"
"""Prefix of the lines that torch's profiler prints to standard error."""


def measured(
    wanted: Json, splits: Sequence[tuple[int, int]], widths: Sequence[int], room: int | None
) -> Iterator[Cell | LeftOut]:
    """Measure a workload with every split (processes, threads of each), one team after another.

    The first team tries every path; the others only paths that were fastest at some width. `room` is the number of
    bytes that torch's allocators may hand out together.
    """
    paths: Sequence[str] = PATHS
    for processes, threads in splits:
        cells = []
        with Processes(processes, threads, wanted) as team:
            for found in probe(team, paths=paths, widths=widths, room=room):
                cells += [found] if isinstance(found, Cell) else []
                yield found
        best = {Choice(tuple(cells)).path_at(width) for width in widths} if cells else set(paths)
        paths = [path for path in paths if path in best]


def how_batches_run(wanted: Json) -> tuple[bool, int]:
    """Return whether a workload trains in whole batches, and how many micro-batches its ticks compute (see `Bench`)."""
    with Processes(1, 1, wanted) as team:
        return team.batch_dependent, team.per_tick


class Processes:
    """A number of `probe_process`es; `wanted` is the argument of each. Use it in a `with` statement.

    Raises `TunerError` with the process's output if one fails.
    """

    def __init__(self, processes: int, threads: int, wanted: Json) -> None:
        self.processes, self.threads = processes, threads
        self.batch_dependent = False
        """Whether the workload trains in whole batches (see `Bench`); like `per_tick` known inside the `with`."""
        self.per_tick = 1
        self._command = [sys.executable, "-P", "-m", "tuner.worker.device.probe_process"]
        self._command.append(json.dumps(wanted | {"threads": threads}))
        self._running: list[subprocess.Popen[str]] = []
        self._said: IO[str] | None = None

    def __enter__(self) -> "Processes":
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        for _ in range(self.processes):
            self._running.append(
                subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._said,
                    text=True,
                    encoding="utf-8",
                )
            )
        try:
            for process in self._running:
                ready = self._hear(process, "ready")
                self.batch_dependent, self.per_tick = ready["batch_dependent"], ready["per_tick"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # unsent bytes for a dead process
                        stream.close()
        self._running = []
        if self._said is not None:
            self._said.close()

    def measure(self, path: str, width: int) -> Timing | None:
        """Build the stack in every process, then time all of them at once; the rates add up."""
        first, *others = self._running
        phases = self._prepare([first], path, width)
        phases += self._prepare(others, path, width) if None not in phases else []
        if None in phases:
            return None
        for process in self._running:
            _tell(process, {"time": True})
        rate = sum(1 / self._hear(process, "tick_s") for process in self._running)
        widest = max((tuple(one) for one in phases if one is not None), key=max)
        return Timing(self.processes / rate, Footprint(width, widest))

    def _prepare(self, processes: list["subprocess.Popen[str]"], path: str, width: int) -> list[list[int] | None]:
        for process in processes:
            _tell(process, {"prepare": [path, width]})
        return [self._hear(process, "prepared") for process in processes]

    def _hear(self, process: "subprocess.Popen[str]", kind: str) -> Any:
        assert process.stdout is not None and self._said is not None
        message = next(read_lines(process.stdout), None)
        if message is not None and kind in message:
            return message[kind]
        self._said.seek(0)
        said = "".join(line for line in self._said if not line.startswith(NOISE))[-2000:]
        reason = message["fault"] if message else f"a process of the probe ended with {process.wait()}: {said}"
        raise TunerError(f"the workload cannot be measured: {reason}")


def _tell(process: "subprocess.Popen[str]", message: Json) -> None:
    assert process.stdin is not None
    try:
        write_line(process.stdin, message)
    except OSError:
        pass  # it is gone, which will be noticed shortly
