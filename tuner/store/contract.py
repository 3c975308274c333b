"""The guarantees of every checkpoint store.

Invariants:
- A file appears whole or not at all, even if the writer is killed.
- Readers pass the digest of what was written, so a damaged or foreign file is never mistaken for the real one.
- Paths are relative, of one strict form, and never lead outside the root: a worker's message cannot open other files.

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
"""The scope of a store that the server and all its workers can access; the other is `worker:<id of the disk>`."""
SCOPE = r"^(shared|worker:[0-9a-f]{8})$"

ASIDE = ".writing"
"""Suffix of a file that is not complete yet."""


class Damaged(TunerError):
    """A stored file is missing, or differs from what was written."""


@dataclass(frozen=True)
class Stored:
    """A file in the store: its path relative to the root, the SHA-256 of its content in hex, and its size."""

    path: str
    digest: str
    bytes: int


def path_of(
    study: str, number: int, attempt: int, step: int, token: str, kind: Literal["state", "weights"] = "state"
) -> str:
    """Name a file. `token`, 8 hex digits, distinguishes processes that write for the same attempt."""
    return f"{study}/{number}/{attempt}-{step}-{token}.{kind}.safetensors"


def kind_of(path: str) -> str:
    """Return what a file of the form above holds: `state` or `weights`."""
    return path.rsplit(".", 2)[1]


def is_path(path: str) -> bool:
    """Return whether a path has the form above."""
    return _PATH.match(path) is not None


def check(path: str) -> None:
    """Raise `InvalidInput` unless a path has the form above."""
    if not is_path(path):
        raise InvalidInput(f"{path!r} is not a path of the checkpoint store; allowed is STUDY/TRIAL/NAME.safetensors")


class Store(ABC):
    """Files below a root. Methods raise `InvalidInput` for paths of another form, `OSError` for errors of the store."""

    @abstractmethod
    def prepare(self) -> None:
        """Check that the root can be written to."""

    def write(self, path: str, content: bytes) -> Stored:
        """Store content under a path, replacing any file there. Raises `OSError` (disk, rights, network)."""
        check(path)
        self._put(path, content)
        return Stored(path, hashlib.sha256(content).hexdigest(), len(content))

    def read(self, path: str, digest: str) -> bytes:
        """Return the content that was stored with this digest. Raises `Damaged` if it is missing or differs."""
        check(path)
        try:
            content = self._get(path)
        except OSError as error:
            raise Damaged(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
        seen = hashlib.sha256(content).hexdigest()
        if seen != digest:
            raise Damaged(f"{path} has the digest {seen[:12]}..., but {digest[:12]}... was written")
        return content

    def content(self, path: str) -> bytes:
        """Return the content of a path. Raises `NotFound` if the file is gone."""
        check(path)
        try:
            return self._get(path)
        except FileNotFoundError as error:
            raise NotFound(f"{path} is no longer in the checkpoint store") from error

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file, or a leftover temporary file (its path and `ASIDE`), if it exists."""

    @abstractmethod
    def files(self, older_than: float) -> list[str]:
        """List files of the form above, and leftover temporary files, last written before a Unix time, in seconds."""

    @abstractmethod
    def _put(self, path: str, content: bytes) -> None: ...

    @abstractmethod
    def _get(self, path: str) -> bytes: ...
