"""Downloads come with their digest and name, whatever the store."""

import secrets
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.downloads import download
from tuner.errors import NotFound
from tuner.store import open_store, path_of

PATH = path_of("mine", 3, 1, 250, "0123abcd", "weights")


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_file_is_sent_as_it_was_stored(tmp_path: Path, kind: str) -> None:
    store = open_store(str(tmp_path) if kind == "folder" else f"memory://{secrets.token_hex(8)}")
    stored = store.write(PATH, b"weights")
    app = FastAPI()
    app.get("/weights")(lambda: download(store, PATH, filename="mine-3.safetensors", digest=stored.digest))
    answer = TestClient(app).get("/weights")
    assert (answer.status_code, answer.content) == (200, b"weights")
    assert answer.headers["etag"] == f'"{stored.digest}"'
    assert answer.headers["content-disposition"] == 'attachment; filename="mine-3.safetensors"'
    assert answer.headers["content-type"] == "application/octet-stream"
    store.delete(PATH)
    with pytest.raises(NotFound):
        download(store, PATH, filename="x", digest="")
