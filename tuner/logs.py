"""The format of log lines: a constant message, then its context (`extra`), as text or as JSON.

Standard library only: device processes log too.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal

_context: ContextVar[Mapping[str, object]] = ContextVar("log context", default=MappingProxyType({}))


@contextmanager
def within(**fields: object) -> Iterator[None]:
    """Add fields to every line that is logged in this context, e.g. the request that it belongs to."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def _add_context(record: logging.LogRecord) -> bool:
    for name, value in _context.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True


STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""Attributes that every record has; all others come from `extra`."""


def configure(form: Literal["text", "json"] = "text", level: int = logging.INFO) -> None:
    """Send log lines to standard error in the given form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_context)
    handler.setFormatter(JsonLines() if form == "json" else Words())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def about(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


class Words(logging.Formatter):
    """`2026-01-31 12:00:00 WARNING lease lost (trial=3, worker=1)`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Append the context; `action` repeats the message for machines and is left out."""
        fields = ", ".join(f"{name}={value}" for name, value in about(record).items() if name != "action")
        line = super().formatMessage(record)
        return f"{line} ({fields})" if fields else line


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write time, level, logger, message, traceback and the context."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **about(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
