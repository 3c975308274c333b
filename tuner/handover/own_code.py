"""A configuration as Python to paste beside the user's own training code, which knows what its names mean."""

from collections.abc import Mapping

from tuner.study.hyperparameter import Scalar


def configuration(number: int, params: Mapping[str, Scalar]) -> str:
    """Write the configuration of the trial with this number as a dict."""
    lines = [f"    {name!r}: {value!r}," for name, value in params.items()]
    return "\n".join([f"# Trial {number}, trained by your own code.", "params = {", *lines, "}"])
