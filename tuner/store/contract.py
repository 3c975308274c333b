"""What every checkpoint store promises.

Invariants:
- A file appears whole or not at all, also when the writer is killed.
- Whoever reads names the digest of what was written, so a damaged or foreign file is never taken for the real one.
- Paths are relative, of one strict form, and never lead out of the root: what a worker says opens nothing else.

    STUDY/TRIAL/ATTEMPT-STEP-TOKEN.state.safetensors      a trial in the middle of its training
    STUDY/TRIAL/ATTEMPT-STEP-TOKEN.weights.safetensors    the weights of a trial at its end
"""

import hashlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from tuner.errors import InvalidInput, NotFound, TunerError

PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}/[0-9]{1,18}/[0-9]{1,18}-[0-9]{1,18}-[0-9a-f]{8}\.(state|weights)\.safetensors$"
_PATH = re.compile(PATTERN.removesuffix("$") + r"\Z")
SHARED = "shared"
"""The scope of a store that the server and every worker with checkpoints see; else `worker:<id of the disk>`."""
SCOPE = r"^(shared|worker:[0-9a-f]{8})$"

ASIDE = ".writing"
"""Ends the name of a file that is not whole yet."""


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


def is_path(path: str) -> bool:
    """Whether a path has the form above."""
    return _PATH.match(path) is not None


def check(path: str) -> None:
    """Raise `InvalidInput` unless a path has the form above."""
    if not is_path(path):
        raise InvalidInput(f"{path!r} is no path of the checkpoint store; allowed is STUDY/TRIAL/NAME.safetensors")


class Store(ABC):
    """Files below a root. Methods raise `InvalidInput` for paths of another form, `OSError` for faults of the store."""

    @abstractmethod
    def prepare(self) -> None:
        """Make sure that the root can be written to."""

    def write(self, path: str, content: bytes) -> Stored:
        """Store content under a path, replacing what was there. Raises `OSError` (full disk, rights, no network)."""
        check(path)
        self._put(path, content)
        return Stored(path, hashlib.sha256(content).hexdigest(), len(content))

    def read(self, path: str, digest: str) -> bytes:
        """Return the content that was stored with this digest. Raises `Damaged`: it is gone, or is another one."""
        check(path)
        try:
            content = self._get(path)
        except OSError as error:
            raise Damaged(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
        seen = hashlib.sha256(content).hexdigest()
        if seen != digest:
            raise Damaged(f"{path} has the digest {seen[:12]}..., written was {digest[:12]}...")
        return content

    def content(self, path: str) -> bytes:
        """Return what lies under a path. Raises `NotFound` when it is gone."""
        check(path)
        try:
            return self._get(path)
        except FileNotFoundError as error:
            raise NotFound(f"{path} is no longer in the checkpoint store") from error

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file, or what was left of writing it (its path and `ASIDE`), if it is there."""

    @abstractmethod
    def files(self, older_than: float) -> list[str]:
        """List the paths of files of the form above, and of what was left of writing them, that were last written
        before a Unix time, in seconds.
        """

    @abstractmethod
    def _put(self, path: str, content: bytes) -> None: ...

    @abstractmethod
    def _get(self, path: str) -> bytes: ...
