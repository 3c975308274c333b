"""A checkpoint store in a directory: a local disk or a network mount.

Files are written under a temporary name, synced and renamed. No link inside the directory leads out of it.
"""

import contextlib
import os
import secrets
from pathlib import Path

from tuner.errors import InvalidInput, NotFound
from tuner.store.contract import ASIDE, Store, check, is_path

IDENTITY = ".tuner-store"
"""The file that holds a directory's identity."""


class FolderStore(Store):
    """Files below `root`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def prepare(self) -> None:
        """See `Store.prepare`."""
        self.root.mkdir(parents=True, exist_ok=True)

    def identity(self) -> str:
        """Return 8 hex digits that identify this directory permanently; generated on the first call."""
        place = self.root / IDENTITY
        if not place.exists():
            draft = place.with_name(f"{IDENTITY}.{os.getpid()}")
            draft.write_text(secrets.token_hex(4), "ascii")
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(draft, place)
            draft.unlink()
        return place.read_text("ascii")

    def locate(self, path: str) -> Path:
        """Return the file of a path. Raises `InvalidInput` unless it has the form and stays below the root."""
        check(path)
        place = self.root / path
        try:
            inside = place.resolve().is_relative_to(self.root.resolve())  # it may contain a link
        except (OSError, RuntimeError):  # circular links
            inside = False
        if not inside:
            raise InvalidInput(f"{path!r} leads outside the checkpoint store")
        return place

    def existing(self, path: str) -> Path:
        """Return a file's location. Raises `NotFound` if it is gone."""
        place = self.locate(path)
        if not place.is_file():
            raise NotFound(f"{path} is no longer in the checkpoint store")
        return place

    def delete(self, path: str) -> None:
        """See `Store.delete`; also removes directories that become empty."""
        place = self.locate(path.removesuffix(ASIDE))
        place.with_name(Path(path).name).unlink(missing_ok=True)
        for parent in (place.parent, place.parent.parent):
            with contextlib.suppress(OSError):  # not empty, or already gone
                parent.rmdir()

    def files(self, older_than: float) -> list[str]:
        """See `Store.files`."""
        found = []
        for place in self.root.glob("*/*/*.safetensors*"):
            path = place.relative_to(self.root).as_posix()
            with contextlib.suppress(FileNotFoundError):
                if is_path(path.removesuffix(ASIDE)) and place.stat().st_mtime < older_than:
                    found.append(path)
        return found

    def _put(self, path: str, content: bytes) -> None:
        place = self.locate(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(place.name + ASIDE)
        try:
            with open(aside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, place)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def _get(self, path: str) -> bytes:
        return self.locate(path).read_bytes()
