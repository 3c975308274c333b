"""The examples are studies that the server accepts, under the name of their file."""

from pathlib import Path

import pytest

import tuner
from tuner.document import read_document
from tuner.study.catalogue import BUILT_IN_WORKLOADS, load_catalogue
from tuner.study.check import parse_study

FOLDER = Path(tuner.__file__).parent.parent / "examples"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_an_example_is_valid_and_listed(file: Path) -> None:
    spec = parse_study(read_document(file).values, load_catalogue(), BUILT_IN_WORKLOADS)
    assert spec.name == file.stem
    assert f"[{file.name}]({file.name})" in (FOLDER / "README.md").read_text()
