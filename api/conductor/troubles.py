"""What went wrong with single studies: each rests for a while and is tried again, and no other study notices."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from storage.database import DatabaseUnusable
from tuner.errors import Conflict, NotFound, TunerError

log = logging.getLogger(__name__)
FIRST_REST_S, LONGEST_REST_S = 1.0, 60.0


@dataclass
class Trouble:
    """A study's latest failure."""

    text: str
    count: int
    rests_until: float


class Troubles:
    """Failures by study id. Thread-safe as far as it needs to be: one writer per study at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[int, Trouble] = {}

    def text(self, study_id: int) -> str | None:
        """Return what went wrong with a study the last time, None if nothing did."""
        found = self._found.get(study_id)
        return None if found is None else found.text

    def each(self, study_ids: Iterable[int], act: Callable[[int], None]) -> None:
        """Act on every study that does not rest. Only an unusable database ends the round."""
        for study_id in study_ids:
            before = self._found.get(study_id)
            if before is not None and self._clock() < before.rests_until:
                continue
            try:
                act(study_id)
                self._found.pop(study_id, None)
            except (NotFound, Conflict):
                continue  # deleted, or changed by another request: the next round reads it again
            except DatabaseUnusable:
                raise
            except Exception as error:  # the study's boundary
                self._note(study_id, error)

    def _note(self, study_id: int, error: Exception) -> None:
        before = self._found.get(study_id)
        count = 1 if before is None else before.count + 1
        rest_s = min(FIRST_REST_S * 2 ** min(count - 1, 10), LONGEST_REST_S)
        text = str(error) if isinstance(error, TunerError) else f"{type(error).__name__}: {error}"
        self._found[study_id] = Trouble(text, count, self._clock() + rest_s)
        known = isinstance(error, TunerError)
        log.error(
            "a study has trouble and is tried again: %s",
            text,
            extra={"action": "study_trouble", "study": study_id, "retry_s": rest_s},
            exc_info=None if known else error,
        )
