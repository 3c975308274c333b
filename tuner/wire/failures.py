"""What failed, in one line: the exception at the end of a traceback, and failures grouped by it."""

from collections import Counter
from collections.abc import Iterable

MOST_CHARACTERS = 200


def headline(error: str) -> str:
    """Return the line of a traceback that names its last exception; of any other text, its last line.

    A message of several lines is cut after its first, and one of more than `MOST_CHARACTERS` is shortened.
    """
    lines = [line.rstrip() for line in error.splitlines() if line.strip()]
    if not lines:
        return ""
    frames = [index for index, line in enumerate(lines) if line.startswith("  File ")]
    after = lines[frames[-1] + 1 :] if frames else lines[-1:]
    found = next((line for line in after if not line.startswith(" ")), lines[-1]).strip()
    return found if len(found) <= MOST_CHARACTERS else found[: MOST_CHARACTERS - 3] + "..."


def grouped(messages: Iterable[str]) -> list[tuple[int, str]]:
    """Count equal messages, the most frequent first."""
    return [(count, message) for message, count in Counter(messages).most_common()]
