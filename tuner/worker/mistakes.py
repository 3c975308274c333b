"""A mistake in `--workloads` (a file name, an import, the syntax): said in one line, and never tried again.

The device process finds it, and its worker and `tuner serve` pass its exit status on instead of starting it again: what
is wrong stays wrong until the user changes it.
"""

import traceback
from pathlib import Path

STATUS = 78
"""Exit status of a device process, and of its worker, for such a mistake (EX_CONFIG of sysexits.h)."""
MARK = "--workloads "
"""The line begins with it, so that it is found in a log."""


def line(source: str, error: BaseException) -> str:
    """Return the last line of the traceback, with the source that could not be loaded and the place of the mistake."""
    said = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    place = error if isinstance(error, SyntaxError) else None
    if place is not None and place.filename and place.lineno:
        return f"{MARK}{source}: {said} ({place.filename}, line {place.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    last = next((frame for frame in reversed(frames) if Path(frame.filename).suffix == ".py"), None)
    where = f" ({last.filename}, line {last.lineno})" if last is not None and not _ours(last.filename) else ""
    return f"{MARK}{source}: {said}{where}"


def found_by_reading(source: str) -> str | None:
    """Return what is wrong with a file as far as can be told without running it; None for modules and sound files."""
    if not source.endswith(".py"):
        return None
    try:
        compile(Path(source).read_bytes(), source, "exec", dont_inherit=True)
    except FileNotFoundError:
        return f"{MARK}{source}: no such file"
    except (OSError, SyntaxError, ValueError) as error:
        return line(source, error)
    return None


def in_log(path: Path, start: int) -> str:
    """Return the line that a worker left in its log, from byte `start` on."""
    text = path.read_bytes()[start:].decode("utf-8", "replace")
    return next((told for told in text.splitlines() if told.startswith(MARK)), f"see {path}")


def _ours(filename: str) -> bool:
    return Path(filename).is_relative_to(Path(__file__).parent.parent)
