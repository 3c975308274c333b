"""Which GPU a script sees, and which options of `tuner worker` go together."""

from pathlib import Path

import pytest

from tuner.errors import InvalidInput
from tuner.terminal.serving import check_script_options
from tuner.worker.scripts.command import environment_of, filled, words_of
from tuner.worker.scripts.run import _gpu


def test_each_place_sees_its_own_gpu_alone() -> None:
    gpus = ["0", "2", "GPU-5f"]
    assert [_gpu(f"cuda:{index}", gpus) for index in range(3)] == gpus
    assert _gpu("cpu", gpus) == "", "a script on the CPU sees none"
    assert _gpu("cpu", []) is None and _gpu("cuda:7", gpus) is None
    seen = environment_of({}, {"CUDA_VISIBLE_DEVICES": "0,2"}, trial=Path("t"), reports=Path("r"), gpu="2")
    assert seen["CUDA_VISIBLE_DEVICES"] == "2"


def test_values_stay_within_their_word() -> None:
    words = words_of("run --a={a} '{b} and {a}' {{b}} {c}")
    values = {"a": "x y", "b": 1e-05, "c": False}
    assert filled(words, values) == ["run", "--a=x y", "1e-05 and x y", "{b}", "false"]


@pytest.mark.parametrize(
    ("command", "scripts", "engines", "field"),
    [
        (None, {"--slots": 2}, {}, "--slots"),
        ("true", {}, {"--width": 8}, "--width"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    command: str | None, scripts: dict[str, object], engines: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_script_options(command, scripts, engines)
    assert [fault.field for fault in caught.value.faults] == [field]
    check_script_options("true", {"--slots": 2}, {"--width": None})
