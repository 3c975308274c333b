"""How numbers, spans and intervals are written."""

import math

import pytest

from tuner.terminal import formats
from tuner.wire.views import BatchRange


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.00213456, "0.002135"), (0.1, "0.1"), (1.5e-08, "1.5e-8"), (123456.7, "1.235e5"), (64.0, "64"), (0.0, "0")),
        *((-0.5, "-0.5"), (math.nan, "nan"), (math.inf, "inf"), (True, "true"), (64, "64"), ("cosine", "cosine")),
        *((None, "-"), (99999.0, "1e5"), (9999.0, "9999")),
    ],
)
def test_number(value: float | str | None, text: str) -> None:
    assert formats.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3660, "1 h 01 min")),
        *((100_000, "1 d 3 h"), (math.inf, "?"), (-1, "?")),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


def test_intervals_and_ranges() -> None:
    assert formats.interval(0.081234, 0.09) == "0.08123 to 0.09"
    assert formats.interval(120, math.inf) == "at least 120"
    assert formats.interval(-math.inf, 120) == "at most 120"
    assert formats.interval(-math.inf, math.inf) == "unknown"
    assert formats.batch_range(BatchRange(low=8, high=32)) == "8 to 32"
    assert formats.batch_range(BatchRange(low=8, high=8)) == "8"
    assert formats.batch_range(None) == "-"
    assert formats.count(20000.0) == "20,000"
    assert [formats.percent(share) for share in (None, 0.0, 0.9999, 1.0)] == ["-", "0 %", "99 %", "100 %"]


def test_a_configuration_shows_what_matters_first() -> None:
    params = {"optimizer": "muon", "beta": 0.95123, "schedule": "cosine", "batch_size": 32, "lr": 0.0213456}
    assert formats.configuration(params) == "lr=0.0213 batch_size=32 schedule=cosine beta=0.951"
    assert formats.configuration(params, ["lr", "beta"]) == "lr=0.0213 beta=0.951"
