"""What all tests of a device process share: no compiling beside them, unless a test asks for it."""

import pytest

from tuner.worker.device import stack_choice


@pytest.fixture(autouse=True)
def nothing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_choice, "PAYS_S", float("inf"))
