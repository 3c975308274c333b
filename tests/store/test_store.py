"""The checkpoint store: whole files or none, digests, and paths that never lead out."""

import os
from pathlib import Path

import pytest

from tuner.errors import InvalidInput, NotFound
from tuner.store import Damaged, FolderStore, path_of

PATH = path_of("my-study", 3, 1, 250, "0123abcd")


def test_what_was_written_is_read_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "root")
    stored = store.write(PATH, b"old")
    stored = store.write(PATH, b"new content")
    assert (stored.path, stored.bytes) == ("my-study/3/1-250-0123abcd.state.safetensors", 11)
    assert store.read(PATH, stored.digest) == b"new content"
    assert [f.name for f in (tmp_path / "root").rglob("*") if f.is_file()] == ["1-250-0123abcd.state.safetensors"]
    store.delete(PATH)
    store.delete(PATH)
    assert list((tmp_path / "root").iterdir()) == []
    with pytest.raises(NotFound):
        store.existing(PATH)


def test_a_damaged_or_missing_file_is_told(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    stored = store.write(PATH, b"content")
    (tmp_path / PATH).write_bytes(b"contend")
    with pytest.raises(Damaged, match="digest"):
        store.read(PATH, stored.digest)
    (tmp_path / PATH).unlink()
    with pytest.raises(Damaged, match="no such file"):
        store.read(PATH, stored.digest)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    stored = store.write(PATH, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write(PATH, b"new")
    assert store.read(PATH, stored.digest) == b"old"
    assert len([f for f in tmp_path.rglob("*") if f.is_file()]) == 1


@pytest.mark.parametrize(
    "path",
    [
        "../my-study/3/1-250-0123abcd.state.safetensors",
        "../3/1-250-0123abcd.state.safetensors",
        "my-study/../1-250-0123abcd.state.safetensors",
        "my-study/3/../../1-250-0123abcd.state.safetensors",
        "/my-study/3/1-250-0123abcd.state.safetensors",
        "file:///my-study/3/1-250-0123abcd.state.safetensors",
        "my-study/3/1-250-0123abcd.state.safetensors\n",
        "my-study/3/1-250-0123abcd.state.safetensors/x",
        "my-study/3/authorized_keys",
        "",
    ],
)
def test_other_paths_are_refused(tmp_path: Path, path: str) -> None:
    store = FolderStore(tmp_path / "root")
    for use in (store.locate, store.delete, store.existing, lambda p: store.read(p, ""), lambda p: store.write(p, b"")):
        with pytest.raises(InvalidInput, match="checkpoint store"):
            use(path)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_a_link_does_not_lead_out(tmp_path: Path) -> None:
    outside, store = tmp_path / "outside", FolderStore(tmp_path / "root")
    (outside / "3").mkdir(parents=True)
    (outside / PATH.partition("/")[2]).write_bytes(b"secret")
    store.root.mkdir()
    (store.root / "my-study").symlink_to(outside)
    with pytest.raises(InvalidInput, match="leads out"):
        store.existing(PATH)
    with pytest.raises(InvalidInput, match="leads out"):
        store.delete(PATH)
    (store.root / "circle").symlink_to(store.root / "circle")
    with pytest.raises(InvalidInput, match="leads out"):
        store.existing(path_of("circle", 3, 1, 250, "0123abcd"))


def test_only_own_old_files_are_listed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    stored = store.write(PATH, b"x")
    for foreign in ("my-study/3/model.safetensors", "my-study/3/notes.txt", "model.safetensors"):
        (tmp_path / foreign).write_bytes(b"mine")
    half = tmp_path / (PATH + ".writing")
    half.write_bytes(b"half")
    now = (tmp_path / PATH).stat().st_mtime
    assert store.files(now - 10) == []
    assert sorted(store.files(now + 10)) == [stored.path, stored.path + ".writing"]
    store.delete(PATH + ".writing")
    assert not half.exists() and (tmp_path / PATH).exists()
