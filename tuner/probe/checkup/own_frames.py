"""A traceback without the frames of Python, of installed packages and of Tuner: what remains is the user's own code."""

import re
import sysconfig
from pathlib import Path

import tuner

_FRAME = re.compile(r'^  File "(?P<file>.+)", line \d+, in ')
_PYTHONS = (sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))
_FOREIGN = [Path(tuner.__file__).resolve().parent, *(Path(place).resolve() for place in _PYTHONS)]
_INSTALLED = {"site-packages", "dist-packages"}


def shortened(text: str) -> str:
    """Keep the user's own frames of a formatted traceback, and every line that says what went wrong."""
    kept: list[str] = []
    keep = True
    for line in text.rstrip("\n").splitlines():
        frame = _FRAME.match(line)
        if frame is not None:
            keep = not _is_foreign(frame["file"])
        elif not line.startswith("  "):
            keep = True
        if keep:
            kept.append(line)
    return "\n".join(_without_empty_headers(kept))


def _without_empty_headers(lines: list[str]) -> list[str]:
    """Leave out a header that no frame follows."""
    following = [*lines[1:], ""]
    header = "Traceback (most recent call last):"
    return [line for line, after in zip(lines, following, strict=True) if line != header or after.startswith("  ")]


def _is_foreign(file: str) -> bool:
    if file.startswith("<"):
        return True
    path = Path(file).resolve()
    return bool(_INSTALLED & set(path.parts)) or any(path.is_relative_to(place) for place in _FOREIGN)
