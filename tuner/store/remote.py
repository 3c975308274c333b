"""A checkpoint store behind an fsspec URL; the only file that knows fsspec.

Object stores (S3 and similar, and `memory`) make an upload visible when it is complete, so files are written directly.
On all others they are written under a temporary name and renamed. Exceptions of the libraries behind fsspec become an
`OSError`.
"""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from tuner.errors import InvalidInput
from tuner.store.contract import ASIDE, Store, check, is_path

WHOLE_UPLOADS = {"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"}
"""Protocols whose files appear only when their upload is complete."""


class RemoteStore(Store):
    """Files below the root that a URL names, e.g. `s3://bucket/tuner`. Credentials come from the environment."""

    def __init__(self, url: str) -> None:
        """Raise `InvalidInput` for a protocol that is unknown, or whose package is not installed."""
        try:
            self._system, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InvalidInput(f"the checkpoint store {url!r} cannot be used: {error}") from error
        self._root = root.rstrip("/")
        self._whole_uploads = url.partition("://")[0] in WHOLE_UPLOADS

    def prepare(self) -> None:
        """See `Store.prepare`."""
        with _as_os_errors():
            self._system.makedirs(self._root, exist_ok=True)

    def delete(self, path: str) -> None:
        """See `Store.delete`."""
        check(path.removesuffix(ASIDE))
        with _as_os_errors():
            try:
                self._system.rm_file(self._place(path))
            except FileNotFoundError:
                return

    def files(self, older_than: float) -> list[str]:
        """See `Store.files`."""
        found = []
        with _as_os_errors():
            self._system.invalidate_cache()
            for place in self._system.find(self._root):
                path = place.removeprefix(self._root).lstrip("/")
                if is_path(path.removesuffix(ASIDE)) and self._written_at(place) < older_than:
                    found.append(path)
        return found

    def _put(self, path: str, content: bytes) -> None:
        place = self._place(path)
        with _as_os_errors():
            if self._whole_uploads:
                self._system.pipe_file(place, content)
                return
            self._system.makedirs(posixpath.dirname(place), exist_ok=True)
            self._system.pipe_file(place + ASIDE, content)
            self._system.mv(place + ASIDE, place)

    def _get(self, path: str) -> bytes:
        with _as_os_errors():
            content: bytes = self._system.cat_file(self._place(path))
        return content

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _written_at(self, place: str) -> float:
        """Return a Unix time; a file that is gone by now, or has no time, counts as new."""
        try:
            written: Any = self._system.modified(place)
        except (FileNotFoundError, NotImplementedError):
            return float("inf")
        return float(written.timestamp())


@contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # each library behind fsspec has its own exceptions
        raise OSError(f"{type(error).__name__}: {error}") from error
