"""Reports and final messages that the server has not acknowledged, repeated until a sync with them succeeds.

A final message is never sent ahead of its trial's reports, because the server reads the trial's value from them; nor is
a checkpoint, because a trial that resumes from it builds on the rows before it.
"""

from collections import deque
from dataclasses import dataclass, field

from tuner.wire.sync import Checkpointed, Finish, LogTail, Report, Restarted, Started

MOST_REPORTS = 10_000
"""The limit per request; the rest wait for the next one."""

MOST_LOGS = 50
"""The same of logs, which are long."""

Key = tuple[int, int]
"""(trial, attempt)."""


@dataclass(frozen=True)
class Parcel:
    """The content of one request."""

    restarted: list[Restarted]
    reports: list[Report]
    checkpointed: list[Checkpointed]
    finished: list[Finish]
    started: list[Started]
    logs: list[LogTail]


@dataclass
class Outbox:
    """Messages still to be acknowledged, oldest first. Not thread-safe: its owner locks."""

    _reports: deque[Report] = field(default_factory=deque)
    _finished: dict[Key, Finish] = field(default_factory=dict)
    _restarted: dict[Key, Restarted] = field(default_factory=dict)
    _checkpointed: dict[str, Checkpointed] = field(default_factory=dict)
    _started: dict[Key, Started] = field(default_factory=dict)
    _logs: dict[Key, LogTail] = field(default_factory=dict)

    def __len__(self) -> int:
        others = self._finished, self._restarted, self._checkpointed, self._started, self._logs
        return len(self._reports) + sum(len(other) for other in others)

    def report(self, report: Report) -> None:
        """Add a row."""
        self._reports.append(report)

    def finish(self, finish: Finish) -> None:
        """Add a final message; only the first one of an attempt is kept."""
        self._finished.setdefault((finish.trial, finish.attempt), finish)

    def start(self, started: Started) -> None:
        """Add the program that an attempt runs."""
        self._started[started.trial, started.attempt] = started

    def restart(self, restarted: Restarted) -> None:
        """Record that an attempt began from zero."""
        self._restarted[restarted.trial, restarted.attempt] = restarted

    def checkpoint(self, checkpointed: Checkpointed) -> None:
        """Add a checkpoint."""
        self._checkpointed[checkpointed.path] = checkpointed

    def log(self, log: LogTail) -> None:
        """Add the end of what an attempt has printed, in place of an earlier one."""
        self._logs[log.trial, log.attempt] = log

    def clear(self) -> None:
        """Forget everything."""
        for waiting in (self._reports, self._finished, self._restarted, self._checkpointed, self._started, self._logs):
            waiting.clear()

    def unsaid(self) -> dict[Key, str]:
        """Attempts whose final message is waiting here, with their tokens."""
        return {key: finish.token for key, finish in self._finished.items()}

    def reporting(self) -> set[Key]:
        """Attempts with rows that wait here."""
        return {(report.trial, report.attempt) for report in self._reports}

    def parcel(self) -> Parcel:
        """Return the content of the next request; nothing is removed."""
        reports = [report for report, _ in zip(self._reports, range(MOST_REPORTS), strict=False)]
        behind = {(r.trial, r.attempt) for r in list(self._reports)[MOST_REPORTS:]}
        finished = [finish for key, finish in self._finished.items() if key not in behind]
        checkpointed = [c for c in self._checkpointed.values() if (c.trial, c.attempt) not in behind]
        restarted = list(self._restarted.values())
        most = slice(MOST_REPORTS)
        started, logs = list(self._started.values())[most], list(self._logs.values())[:MOST_LOGS]
        return Parcel(restarted[most], reports, checkpointed[most], finished[most], started, logs)

    def acknowledge(self, parcel: Parcel) -> None:
        """Drop the content of a request that the server has acknowledged."""
        carried = {id(report) for report in parcel.reports}
        while self._reports and id(self._reports[0]) in carried:
            self._reports.popleft()
        for finish in parcel.finished:
            self._finished.pop((finish.trial, finish.attempt), None)
        for started in parcel.started:
            self._started.pop((started.trial, started.attempt), None)
        for checkpointed in parcel.checkpointed:
            self._checkpointed.pop(checkpointed.path, None)
        for log in parcel.logs:
            if self._logs.get((log.trial, log.attempt)) is log:
                del self._logs[log.trial, log.attempt]
        for restarted in parcel.restarted:
            self._restarted.pop((restarted.trial, restarted.attempt), None)
