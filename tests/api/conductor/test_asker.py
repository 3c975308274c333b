"""The sampler process dies, hangs or is stopped: it is replaced within a deadline, and says why."""

import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from api.conductor.asker import Asker, SamplerFailed
from tuner.search.methods import propose
from tuner.search.request import AskRequest, Observation, Search
from tuner.study.space import Range

SEARCH = Search(
    method="random", seed=1, family="sgd", domains={"lr": Range(0.001, 1.0, "log", False)}, minimize=True, startup=3
)
REQUEST = AskRequest(SEARCH, [0, 1], {})
ANSWERS = 'import sys\nfor line in sys.stdin: print(\'{"configurations": [{"lr": 0.5}]}\', flush=True)'


def command(tmp_path: Path, first: str) -> tuple[str, ...]:
    """A sampler that does something else in its first life."""
    script = tmp_path / "sampler.py"
    marker = tmp_path / "lived"
    script.write_text(
        f"import os, pathlib, sys, time\nmarker = pathlib.Path({str(marker)!r})\n"
        f"if not marker.exists():\n    marker.touch()\n    {first}\n{ANSWERS}\n"
    )
    return sys.executable, str(script)


def test_a_stopped_process_is_killed_at_the_deadline_and_replaced() -> None:
    asker = Asker(20.0)
    expected = asker.ask(REQUEST)
    assert asker._process is not None
    stopped, asker._deadline_s = asker._process.pid, 0.2
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(SamplerFailed, match=r"did not answer within 0\.2 s when asked for a configuration of sgd"):
        asker.ask(REQUEST)
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)
    asker._deadline_s = 20.0
    assert asker.ask(REQUEST) == expected
    asker.close()


def test_a_process_that_reads_nothing_does_not_block_a_large_request(tmp_path: Path) -> None:
    asker = Asker(0.2, command=command(tmp_path, "time.sleep(60)"))
    large = replace(REQUEST, search=replace(SEARCH, family="x" * 1_000_000))
    with pytest.raises(SamplerFailed, match="did not answer"):
        asker.ask(large)
    asker._deadline_s = 20.0
    assert asker.ask(large) == [{"lr": 0.5}]
    asker.close()


def test_a_process_that_dies_once_is_started_again_unnoticed(tmp_path: Path) -> None:
    asker = Asker(20.0, command=command(tmp_path, "sys.exit(3)"))
    assert asker.ask(REQUEST) == [{"lr": 0.5}]
    asker.close()
    with pytest.raises(SamplerFailed, match="shutting down"):
        asker.ask(REQUEST)


def test_a_process_that_always_dies_is_said_to() -> None:
    asker = Asker(20.0, command=(sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(SamplerFailed, match="died while asked for a configuration of sgd"):
        asker.ask(REQUEST)
    asker.close()


def test_a_killed_process_is_told_everything_again_and_proposes_the_same() -> None:
    asker = Asker(60.0)
    search, history = replace(SEARCH, method="tpe"), {}
    for number in range(6):
        asked = AskRequest(search, [number], dict(history))
        if number == 3:
            assert asker._process is not None
            os.kill(asker._process.pid, signal.SIGKILL)
        if number == 5:  # a process that holds something else than the server believes
            asker._feed._held[next(iter(asker._feed._held))].digest ^= 1
        (chosen,) = asker.ask(asked)
        assert [chosen] == propose(asked)
        history[number] = Observation(chosen, float(chosen["lr"]))
    asker.close()


def test_a_process_that_never_takes_in_a_history_is_said_to(tmp_path: Path) -> None:
    asker = Asker(20.0, command=(sys.executable, "-c", "while input(): print('{\"lost\": true}', flush=True)"))
    with pytest.raises(SamplerFailed, match="does not take in the history of sgd"):
        asker.ask(REQUEST)
    asker.close()


def test_a_server_with_many_open_files_asks_as_well() -> None:
    """Its pipes have numbers above what `select` takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1050)]
    asker = Asker(30.0)
    try:
        assert len(asker.ask(REQUEST)) == 2
        assert asker._process is not None and asker._process.stdout is not None
        assert asker._process.stdout.fileno() > 1023
    finally:
        asker.close()
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
