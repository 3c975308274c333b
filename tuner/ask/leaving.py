"""By which exception the body of a `for` loop is left.

Python tells an iterator that its loop was left, and not why: the iterator is dropped, whether by `break`, by `return`
or by an exception. Which of them it was shows in the frame: an exception on its way out has a traceback whose position
is where the frame stands now. The exception itself is in nobody's hands at that moment. It is seen at the next one: in
a handler of the same frame, in the calling frame, or where nobody handles it. So one event is traced, as a debugger
does that is started in the middle of a program, and then nothing more.
"""

import gc
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

MOST_EVENTS = 8
"""Instructions of a handler before the exception is in its hands."""


class NotSeen(Exception):
    """Stands for an exception that nobody got to see, as beside a debugger; it has the traceback."""


def leaving(frame: FrameType, then: Callable[[BaseException | None], None]) -> None:
    """Call `then` with the exception that is leaving a frame, before any handler's code runs; None if none is, at once.

    Call it while an iterator of a loop of the frame is being closed.
    """
    head = _head(frame)
    if head is None:
        then(None)
    elif sys.gettrace() is not None:  # a debugger's, or one of a tool that measures coverage
        then(_not_seen(head))
    else:
        _Watch(head, then)


def _head(frame: FrameType) -> TracebackType | None:
    """Return the traceback of an exception on its way out of a frame."""
    for found in gc.get_referrers(frame):
        if isinstance(found, TracebackType) and found.tb_frame is frame and found.tb_lasti == frame.f_lasti:
            return found
    return None


def _not_seen(head: TracebackType) -> NotSeen:
    return NotSeen("the body of the loop was left by an exception").with_traceback(head)


class _Watch:
    """Watches this thread until the exception with a traceback is seen."""

    def __init__(self, head: TracebackType, then: Callable[[BaseException | None], None]) -> None:
        self._head: TracebackType | None = head
        self._then = then
        self._left = MOST_EVENTS
        self._hooks = sys.excepthook, threading.excepthook
        self._frames: list[tuple[FrameType, Any, bool]] = []
        frame: FrameType | None = head.tb_frame
        while frame is not None:
            self._frames.append((frame, frame.f_trace, frame.f_trace_opcodes))
            frame.f_trace, frame.f_trace_opcodes = self._event, True
            frame = frame.f_back
        sys.excepthook, threading.excepthook = self._uncaught, self._uncaught_in_thread
        sys.settrace(_no_new_frames)

    def _event(self, frame: FrameType, what: str, argument: Any) -> Any:
        if what == "exception":
            _, error, trace = argument
            self._done(error.with_traceback(trace) if self._is_ours(trace) else None)
            return None
        if what in ("line", "opcode"):
            error = sys.exc_info()[1]
            self._left -= 1
            if error is not None and self._is_ours(error.__traceback__):
                self._done(error)
                return None
            if self._left <= 0:
                self._done(None)
                return None
        return self._event

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self._done(error)
        sys.excepthook(kind, error, trace)

    def _uncaught_in_thread(self, argument: Any) -> None:
        self._done(argument.exc_value)
        threading.excepthook(argument)

    def _is_ours(self, trace: TracebackType | None) -> bool:
        while trace is not None and trace is not self._head:
            trace = trace.tb_next
        return trace is not None

    def _done(self, error: BaseException | None) -> None:
        head, self._head = self._head, None
        if head is None:
            return
        sys.settrace(None)
        sys.excepthook, threading.excepthook = self._hooks
        for frame, trace, opcodes in self._frames:
            frame.f_trace, frame.f_trace_opcodes = trace, opcodes
        self._frames.clear()
        self._then(error if error is not None else _not_seen(head))


def _no_new_frames(frame: FrameType, what: str, argument: object) -> None:
    """Trace no frame that begins meanwhile."""
