"""What every store promises: a folder, an object store (fsspec's memory) and a store that renames (fsspec's local)."""

import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import InvalidInput, NotFound
from tuner.store import Damaged, FolderStore, Store, absolute_root, open_store, path_of
from tuner.store.remote import RemoteStore

PATH = path_of("my-study", 3, 1, 250, "0123abcd")


@pytest.fixture(params=["folder", "file", "memory", "renaming"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "root"))
    if request.param == "file":
        return open_store(f"file://{tmp_path / 'root'}")
    if request.param == "memory":
        return open_store(f"memory://{secrets.token_hex(8)}/root")
    return RemoteStore(f"local://{tmp_path / 'root'}")


def test_what_was_written_is_read_back_listed_and_deleted(store: Store) -> None:
    store.prepare()
    store.prepare()
    assert store.files(time.time() + 60) == []
    store.write(PATH, b"old")
    stored = store.write(PATH, b"new content")
    assert (stored.path, stored.bytes) == (PATH, 11)
    assert store.read(PATH, stored.digest) == store.content(PATH) == b"new content"
    assert store.files(time.time() + 60) == [PATH] and store.files(time.time() - 60) == []
    store.delete(PATH)
    store.delete(PATH)
    assert store.files(time.time() + 60) == []
    with pytest.raises(NotFound):
        store.content(PATH)
    with pytest.raises(Damaged, match="cannot read"):
        store.read(PATH, stored.digest)


def test_a_damaged_file_is_told_and_what_is_not_a_checkpoint_is_not_listed(store: Store) -> None:
    stored = store.write(PATH, b"content")
    store.write(PATH, b"contend")
    with pytest.raises(Damaged, match="digest"):
        store.read(PATH, stored.digest)
    store._put(PATH, b"content")
    assert store.read(PATH, stored.digest) == b"content"


@pytest.mark.parametrize("path", ["../x/3/1-250-0123abcd.state.safetensors", "/etc/passwd", "s3://b/k", "a/1/x", ""])
def test_other_paths_are_refused(store: Store, path: str) -> None:
    uses: list[Any] = [store.delete, store.content, lambda p: store.read(p, ""), lambda p: store.write(p, b"")]
    for use in uses:
        with pytest.raises(InvalidInput, match="checkpoint store"):
            use(path)


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a store that cannot upload as a whole; what is left of the new one is listed and can be deleted."""
    store = RemoteStore(f"local://{tmp_path}")
    stored = store.write(PATH, b"old")

    def cut(*_: object) -> None:
        raise RuntimeError("the network is gone")

    monkeypatch.setattr(store._system, "mv", cut)
    with pytest.raises(OSError, match="RuntimeError: the network is gone"):
        store.write(PATH, b"new")
    assert store.read(PATH, stored.digest) == b"old"
    assert sorted(store.files(time.time() + 60)) == [PATH, PATH + ".writing"]
    store.delete(PATH + ".writing")
    assert store.files(time.time() + 60) == [PATH]


def test_roots_name_their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for root in ("here", f"file://{tmp_path}/here"):
        store = open_store(root)
        assert isinstance(store, FolderStore) and store.root == tmp_path / "here"
    assert isinstance(open_store("memory://x"), RemoteStore)
    assert absolute_root("here") == str(tmp_path / "here") and absolute_root("s3://b/here") == "s3://b/here"
    for wrong in ("nonsense://x", "file://here"):
        with pytest.raises(InvalidInput, match="checkpoint store"):
            open_store(wrong)
