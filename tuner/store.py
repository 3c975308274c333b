"""The checkpoint store: a directory that the server and its workers see, e.g. DATA_DIR/checkpoints or a network mount.

Invariants:
- A file appears whole or not at all (written aside, synced, renamed), also when the writer is killed.
- Whoever reads names the digest of what was written, so a damaged or foreign file is never taken for the real one.
- Paths are relative, of one strict form, and never lead out of the root: what a worker says opens nothing else.

    STUDY/TRIAL/ATTEMPT-STEP-TOKEN.state.safetensors      a trial in the middle of its training
    STUDY/TRIAL/ATTEMPT-STEP-TOKEN.weights.safetensors    the weights of a trial at its end
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuner.errors import InvalidInput, NotFound, TunerError

PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}/[0-9]{1,18}/[0-9]{1,18}-[0-9]{1,18}-[0-9a-f]{8}\.(state|weights)\.safetensors$"
_PATH = re.compile(PATTERN.removesuffix("$") + r"\Z")
_ASIDE = ".writing"


class Damaged(TunerError):
    """A stored file is missing, or is not what was written."""


@dataclass(frozen=True)
class Stored:
    """A file in the store: its path relative to the root, the SHA-256 of its content in hex, and its size."""

    path: str
    digest: str
    bytes: int


def path_of(
    study: str, number: int, attempt: int, step: int, token: str, kind: Literal["state", "weights"] = "state"
) -> str:
    """Name a file. `token`, 8 hex digits, tells apart processes that write for the same attempt."""
    return f"{study}/{number}/{attempt}-{step}-{token}.{kind}.safetensors"


class Store:
    """Files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def locate(self, path: str) -> Path:
        """Return where a path lies. Raises `InvalidInput` unless it has the form above and stays below the root."""
        if not _PATH.match(path):
            raise InvalidInput(f"{path!r} is no path of the checkpoint store; allowed is STUDY/TRIAL/NAME.safetensors")
        place = self.root / path
        try:
            inside = place.resolve().is_relative_to(self.root.resolve())  # somebody may have put a link there
        except (OSError, RuntimeError):  # links in a circle
            inside = False
        if not inside:
            raise InvalidInput(f"{path!r} leads out of the checkpoint store")
        return place

    def existing(self, path: str) -> Path:
        """Return where a file lies. Raises `NotFound` when it is gone."""
        place = self.locate(path)
        if not place.is_file():
            raise NotFound(f"{path} is no longer in the checkpoint store")
        return place

    def write(self, path: str, content: bytes) -> Stored:
        """Store content under a path, replacing what was there. Raises `OSError` (full disk, rights)."""
        place = self.locate(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(place.name + _ASIDE)
        try:
            with open(aside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, place)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        return Stored(path, hashlib.sha256(content).hexdigest(), len(content))

    def read(self, path: str, digest: str) -> bytes:
        """Return the content that was stored with this digest.

        Raises:
            Damaged: it is gone, or its digest is another one.
            InvalidInput: the path is not one of the store's.
        """
        try:
            content = self.locate(path).read_bytes()
        except OSError as error:
            raise Damaged(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
        seen = hashlib.sha256(content).hexdigest()
        if seen != digest:
            raise Damaged(f"{path} has the digest {seen[:12]}..., written was {digest[:12]}...")
        return content

    def delete(self, path: str) -> None:
        """Delete a file, if it is there, and its directories once they are empty."""
        place = self.locate(path.removesuffix(_ASIDE))
        place.with_name(Path(path).name).unlink(missing_ok=True)
        for parent in (place.parent, place.parent.parent):
            with contextlib.suppress(OSError):  # others lie there, or it is gone already
                parent.rmdir()

    def files(self, older_than: float) -> list[str]:
        """List the paths of files of the forms above that were last written before a Unix time, in seconds."""
        found = []
        for place in self.root.glob("*/*/*.safetensors*"):
            path = place.relative_to(self.root).as_posix()
            with contextlib.suppress(FileNotFoundError):
                if _PATH.match(path.removesuffix(_ASIDE)) and place.stat().st_mtime < older_than:
                    found.append(path)
        return found
