"""Iterating over the trials of a study, and what each way of leaving the loop's body means for the trial.

| the body                           | the trial                                                                   |
|------------------------------------|-----------------------------------------------------------------------------|
| calls `finish` or `fail`           | ends so                                                                     |
| ends, or `continue`                | finishes with what it reported; without its metric trial and loop both fail |
| `break`, `return`                  | the same, but without its metric it goes back to the queue                  |
| is left by an exception            | fails with the traceback; the exception goes on, and the loop is over       |
| is left by Ctrl-C, `sys.exit`      | goes back to the queue                                                      |
| was told to stop, and ends somehow | ends as it was told                                                         |
"""

import logging
import sys
import traceback
from collections.abc import Generator, Iterator
from types import FrameType
from typing import NoReturn

from tuner.ask import folder
from tuner.ask.leaving import leaving
from tuner.ask.session import Server, Session
from tuner.ask.trial import Trial
from tuner.errors import InvalidInput

log = logging.getLogger(__name__)


class Loop:
    """The trials of a study, one after the other, until the study has ended.

    Waits while the study is paused or nothing is queued. Several processes may each run their own loop over a study;
    each trial goes to one of them. Each `for` asks in a session of its own.
    """

    def __init__(self, server: Server, study: str | int, name: str = "") -> None:
        """`name` is shown to people. Raises the errors of `tuner.errors`: there is no such study, no server, ..."""
        self._server, self._study, self._name = server, study, name
        self._root = folder.root()
        self._first: Session | None = Session(server, study, name)
        self._own: Iterator[Trial] | None = None

    def __iter__(self) -> Iterator[Trial]:
        # A new one, which the `for` statement alone holds: so it is closed when the loop is left, in whatever way.
        session, self._first = self._first or Session(self._server, self._study, self._name), None
        return self._trials(session)

    def __next__(self) -> Trial:
        if self._own is None:
            self._own = iter(self)
        trial = next(self._own)
        trial.keep(self)
        return trial

    def close(self) -> None:
        """End what `next` began: the last trial as by `break`. A `for` statement ends by itself."""
        own, self._own = self._own, None
        if isinstance(own, Generator):
            own.close()
        if self._first is not None:
            self._first.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a loop over trials cannot be pickled: each process asks for itself, with Client.ask")

    def _trials(self, session: Session) -> Iterator[Trial]:
        pending = False
        try:
            while (stay := session.next()) is not None:
                trial = Trial(session, stay, self._root)
                try:
                    yield trial
                except GeneratorExit:
                    pending = True
                    _left(session, trial, sys._getframe(1))
                    raise
                _end_of_body(trial)
                del trial
        finally:
            if not pending:
                session.close()


def _end_of_body(trial: Trial) -> None:
    try:
        trial.leave(gives_back=False)
    except InvalidInput as error:
        trial.fail(str(error))
        raise


def _left(session: Session, trial: Trial, frame: FrameType) -> None:
    """End a trial whose loop was left in a frame, and the session with it."""
    if not session.here():
        return  # a fork has a copy of the loop

    def end(error: BaseException | None) -> None:
        if error is None or trial.should_stop:
            trial.leave(gives_back=True)
        elif isinstance(error, Exception):
            trial.fail("".join(traceback.format_exception(error)))
        elif not trial.ended:
            trial.give_back()
        session.close()

    leaving(frame, end)
