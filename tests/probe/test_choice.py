"""What probes found: which measurement is the best, and what is kept."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tuner.probe import choice, free
from tuner.probe.choice import Cell, Choice
from tuner.worker import run
from tuner.worker.run import split


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tuner" / "probe.json"


def test_the_fewest_slots_of_the_nearly_fastest_are_chosen() -> None:
    cells = (Cell("loop", 1, 1.0), Cell("eager", 4, 1.04), Cell("eager", 8, 2.0), Cell("loop", 8, 1.99))
    assert Choice(cells).best == cells[1]
    assert Choice((*cells, Cell("compiled", 8, 1.9))).best.path == "compiled"
    assert Choice(cells[2:]).best == cells[3]
    two = Cell("eager", 4, 1.5, processes=2)
    assert (two.slots, two.rate) == (8, 8 / 1.5) and Choice((*cells, two)).best == two
    assert Choice((*cells, Cell("eager", 4, 2.0, processes=2))).best == cells[1]


def test_a_given_width_gets_the_fastest_path_measured_at_or_below_it() -> None:
    found = Choice((Cell("loop", 2, 1.0), Cell("eager", 2, 2.0), Cell("loop", 8, 3.0), Cell("eager", 8, 2.0)))
    assert [found.path_at(width) for width in (1, 2, 7, 8, 100)] == ["loop", "loop", "loop", "eager", "eager"]


def test_a_process_takes_what_was_measured_with_its_own_threads() -> None:
    cells = (Cell("loop", 2, 1.0, 1, 2), Cell("eager", 4, 1.0, 2, 1))
    assert Choice(cells).with_threads(1) == Choice(cells[1:]) and Choice(cells).with_threads(2) == Choice(cells[:1])
    assert Choice(cells).with_threads(3) is None


def test_choices_are_kept_by_everything_that_changes_the_speed(cache: Path) -> None:
    found = Choice((Cell("loop", 1, 0.25), Cell("eager", 4, 0.5, 2, 3, 1000)))
    keys = [choice.key(*parts) for parts in (("w", {"a": 1}, 8, "x"), ("w", {"a": 2}, 8, "x"), ("w", {"a": 1}, 4, "x"))]
    keys.append(choice.key("w", {"a": 1}, 8, "another place"))
    assert len(set(keys)) == 4 and choice.stored(keys[0]) is None and choice.latest("x") is None
    choice.store(keys[0], found)
    choice.store(keys[1], Choice(found.cells[:1]))
    assert choice.stored(keys[0]) == found and choice.stored(keys[1]) == choice.latest("x") == Choice(found.cells[:1])
    assert choice.latest("another place") is None and sorted(cache.parent.iterdir()) == [
        cache,
        cache.with_suffix(".lock"),
    ]


@pytest.mark.parametrize(
    "cells", [3, [], [{"path": "loop"}], [{**asdict(Cell("loop", 1, 1.0)), "width": 0}], [{"what": 1}]]
)
def test_what_cannot_be_read_or_is_of_another_form_counts_as_absent(cache: Path, cells: object) -> None:
    name = choice.key("w", {}, 8, choice.cpu())
    choice.store(name, Choice((Cell("loop", 1, 1.0),)))
    for damage in ("{", "[]", json.dumps({name: cells}), json.dumps({name: {"at": 1.0, "cells": cells}})):
        cache.write_text(damage)
        assert choice.stored(name) is None and choice.latest(choice.cpu()) is None
    choice.store(name, Choice((Cell("loop", 1, 1.0),)))
    assert choice.stored(name) is not None


def test_a_choice_made_with_another_torch_is_not_taken(cache: Path) -> None:
    stale = json.loads(choice.key("w", {}, 8, choice.cpu())) | {"torch": "1.0"}
    choice.store(json.dumps(stale, sort_keys=True), Choice((Cell("loop", 1, 1.0),)))
    assert choice.latest(choice.cpu()) is None and choice.stored(choice.key("w", {}, 8, choice.cpu())) is None


def test_a_worker_starts_as_many_processes_as_the_last_probe_chose(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any probe: one per core, as far as the memory allows."""
    monkeypatch.setattr(choice, "cores", lambda: 6)
    monkeypatch.setattr(free, "free_memory", lambda: 4 * run.PROCESS_BYTES)
    assert split("cpu", None, None, None) == split("cpu", 8, None, None) == (4, None)
    assert split("cpu", None, None, 3) == (2, 3) and split("cuda:0", None, None, None) == (1, 6)
    monkeypatch.setattr(free, "free_memory", lambda: None)
    assert split("cpu", None, None, None) == (6, None)
    choice.store(choice.key("w", {}, 8, choice.cpu()), Choice((Cell("eager", 4, 0.5, 3, 5),)))
    choice.learn(
        choice.key("w", {}, 16, choice.cpu()), Cell("eager", 4, 0.5, 1, 1), model="m"
    )  # what a worker saw on the way
    assert split("cpu", None, None, None) == (3, 5)
    assert split("cpu", None, 1, None) == (1, None) and split("cpu", None, 2, 7) == (2, 7)
