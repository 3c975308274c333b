"""A workload's check-up before any study: what would fail, what would be slow, and what would train something else."""

from tuner.probe.checkup.checkup import check_up
from tuner.probe.checkup.report import Report, RuleTried

__all__ = ["Report", "RuleTried", "check_up"]
