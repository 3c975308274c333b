"""What servers on one database tell each other: which studies changed, how curves grew, and that there is work.

A burst is one message. Who does not understand one (of another version, say) takes it that anything may have happened.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

ANYBODY = -1
"""Instead of a number of trials: anybody may find work now."""
PART = 150
"""Studies named in one message, which PostgreSQL bounds at 8000 bytes."""


@dataclass
class News:
    """What happened, put together."""

    studies: set[int] = field(default_factory=set)
    grown: Counter[int] = field(default_factory=Counter)
    """By study of which something was reported: examples."""
    work: int = 0
    """Trials that were queued, or `ANYBODY`."""

    def __bool__(self) -> bool:
        return bool(self.studies or self.grown or self.work)

    def texts(self) -> Iterator[str]:
        """Yield it as messages."""
        studies, grown, work = sorted(self.studies), sorted(self.grown.items()), self.work
        while studies or grown or work:
            yield json.dumps({"studies": studies[:PART], "grown": grown[:PART], "work": work}, separators=(",", ":"))
            studies, grown, work = studies[PART:], grown[PART:], 0


def read(text: str) -> News:
    """Read a message. Raises `ValueError` for one that is none."""
    try:
        said: Any = json.loads(text)
        grown = Counter({int(study): int(examples) for study, examples in said["grown"]})
        return News({int(study) for study in said["studies"]}, grown, int(said["work"]))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{text[:100]!r} is no message of a server") from error


class Outbox:
    """Gathers what is to be told. `say` may be called from any thread."""

    def __init__(self) -> None:
        self.woken: Callable[[], None] = lambda: None
        """Called when there is something."""
        self._lock = threading.Lock()
        self._news = News()

    def say(self, *, studies: Collection[int] = (), grown: Mapping[int, int] | None = None, work: int = 0) -> None:
        """Add to what the others hear next."""
        with self._lock:
            first = not self._news
            self._news.studies.update(studies)
            self._news.grown.update(grown or {})
            self._news.work = ANYBODY if ANYBODY in (work, self._news.work) else self._news.work + work
        if first:
            self.woken()

    def take(self) -> News:
        """Return what was gathered, and begin anew."""
        with self._lock:
            found, self._news = self._news, News()
            return found
