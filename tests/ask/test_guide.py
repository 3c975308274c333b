"""The loops of the guide to code of one's own run as printed; its commands do in `tests/acceptance`."""

import re
from pathlib import Path
from typing import Any

import pytest
from own_studies import own_study

import tuner
from tuner.client import Client
from tuner.document import parse_document

GUIDE = Path(tuner.__path__[0]).parent / "docs" / "own-loop.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def of(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def document() -> dict[str, Any]:
    (text,) = of("yaml")
    return parse_document(text, "own-loop.md").values


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_its_loops_train_their_studies(tuned: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "Client", lambda: tuned, raising=False)
    first, second = of("python")
    tuned.submit(document())
    scope: dict[str, Any] = {}
    exec(compile(first, "own-loop.md", "exec"), scope)
    assert {trial.state for trial in tuned.trials("own")} == {"completed"}
    lr_and_batch = {"lr": {"min": 1e-3, "max": 0.1, "scaling": "log"}, "batch_size": {"values": [16, 32]}}
    own_study(tuned, name="own-noise", run_cap=4, parameters=lr_and_batch)
    exec(compile(second, "own-loop.md", "exec"), scope)
    assert {trial.state for trial in tuned.trials("own-noise")} == {"completed"}
    (advice,) = tuned.batch_advice("own-noise").items
    assert advice.noise_scale is not None and advice.noise_scale.steps == 20 and advice.noise_scale.value > 0
