"""What the tests with real device processes share: nothing is compiled beside their endless trials."""

import pytest


@pytest.fixture(autouse=True)
def no_compiler_for_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.path.parent.name == "worker":
        monkeypatch.setenv("CXX", "none")
