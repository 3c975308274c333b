"""`import tuner` brings the public packages on first use."""

import sys

import pytest

import tuner


@pytest.mark.parametrize("name", ["noise", "optimizers", "schedules"])
def test_packages_are_there_after_importing_tuner_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tuner, name, raising=False)  # as in a process that has imported no more than tuner
    assert getattr(tuner, name) is sys.modules[f"tuner.{name}"]


def test_every_public_name_is_listed_and_found() -> None:
    assert set(tuner.__all__) <= set(dir(tuner))
    assert all(getattr(tuner, name) is not None for name in tuner.__all__)
    with pytest.raises(AttributeError, match="no attribute 'optimisers'"):
        tuner.optimisers  # noqa: B018
