"""How noisy gradients are, and which batch size that implies. Pure functions on numbers.

`NoiseScale` and `Meter` measure tr Sigma / |G|^2, `critical_from_run` predicts a critical batch size from one run,
`fit_tradeoff` fits one to runs at several batch sizes, and `advise` turns trials into a recommendation with its
uncertainty. Noise scale and critical batch size are different quantities, and names here always state which is meant.
Only numpy is needed (and torch inside `Meter`).
"""

from tuner.noise.advice import Advice, advise
from tuner.noise.critical import CriticalBatch, critical_from_run
from tuner.noise.estimator import Estimate, NoiseScale, estimate_from_rows
from tuner.noise.learning_rate import LearningRate
from tuner.noise.measurement import Measurement
from tuner.noise.meter import Meter
from tuner.noise.prior import Kind
from tuner.noise.sums import NoiseSums
from tuner.noise.temperature import TemperatureFit, fit_temperature
from tuner.noise.throughput import Throughput
from tuner.noise.tradeoff import Tradeoff, fit_tradeoff

__all__ = [
    "NoiseScale",
    "Estimate",
    "NoiseSums",
    "estimate_from_rows",
    "Meter",
    "CriticalBatch",
    "critical_from_run",
    "Tradeoff",
    "fit_tradeoff",
    "TemperatureFit",
    "fit_temperature",
    "Measurement",
    "Throughput",
    "LearningRate",
    "Kind",
    "Advice",
    "advise",
]
