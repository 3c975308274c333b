"""The checkpoint store: files shared by the server and its workers, under a root that the operator configures for each.

contract.py   the guarantees of every store; the form of paths
folder.py     a directory, e.g. DATA_DIR/checkpoints or a network mount
remote.py     any other fsspec URL, e.g. s3://bucket/tuner

open_store("/mnt/shared/tuner"), open_store("file:///mnt/shared/tuner"), open_store("s3://bucket/tuner")
"""

from pathlib import Path

from tuner.errors import InvalidInput
from tuner.store.contract import PATTERN, SCOPE, SHARED, Damaged, Store, Stored, kind_of, path_of
from tuner.store.folder import FolderStore

__all__ = [
    "PATTERN",
    "SCOPE",
    "SHARED",
    "Damaged",
    "FolderStore",
    "Store",
    "Stored",
    "absolute_root",
    "kind_of",
    "open_store",
    "path_of",
]


def absolute_root(root: str) -> str:
    """Return a directory as an absolute path, for processes with another working directory; a URL is unchanged."""
    return root if "://" in root else str(Path(root).absolute())


def open_store(root: str) -> Store:
    """Open the store at a directory or fsspec URL. Nothing is read or written yet.

    Raises `InvalidInput` for a protocol that is unknown, or whose package is not installed.
    """
    protocol, sign, place = root.partition("://")
    if not sign:
        return FolderStore(root)
    if protocol == "file":
        if not place.startswith("/"):
            raise InvalidInput(f"the checkpoint store {root!r} is not absolute; expected file:///DIRECTORY")
        return FolderStore(place)
    from tuner.store.remote import RemoteStore

    return RemoteStore(root)
