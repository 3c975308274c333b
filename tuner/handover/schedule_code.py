"""Learning-rate schedules as Python source: a function `lr_factor(t)` of the updates done, in plain arithmetic.

The functions give the same factors as `tuner.schedules.multiplier`; a test compares them. They read `total_steps`, and
`math` where they need it.
"""

from collections.abc import Mapping

from tuner.study.hyperparameter import Scalar

Numbers = Mapping[str, Scalar]
PROGRESS = "progress = min(1, max(0, (t - warmup) / (total_steps - warmup)))"
COOLDOWNS = {
    "linear": "1 - progress",
    "1-sqrt": "1 - math.sqrt(progress)",
    "cosine": "(1 + math.cos(math.pi * progress)) / 2",
}


def function(name: str, numbers: Numbers, still: int = 0) -> list[str]:
    """Write the lines of `lr_factor` for a schedule with its parameters; none for a constant learning rate.

    The factor is 0 for the first `still` updates.
    """
    if name == "constant" and not numbers["warmup"]:
        return ["def lr_factor(t):", *_still(still), "    return 1.0"] if still else []
    body = _body(name, numbers)
    if body is None:
        told = "".join(f", {key}={value!r}" for key, value in numbers.items())
        body = [f'return tuner.schedules.multiplier("{name}", t, total_steps{told})']
    return [
        "def lr_factor(t):",
        f'    """Return the factor of the learning rate after t updates: schedule {name}."""',
        *_still(still),
        *(f"    {line}" for line in body),
    ]


def _still(still: int) -> list[str]:
    return [f"    if t < {still}:  # only the moments build up", "        return 0.0"] if still else []


def _body(name: str, n: Numbers) -> list[str] | None:
    """Write the function's body, or return None for a form that only Tuner has."""
    if name == "one_cycle":
        return [
            f"peak, last = {n['rise']!r} * total_steps - 1, total_steps - 1",
            "share = (1 - math.cos(math.pi * min(1, max(0, t / max(peak, 1e-9))))) / 2",
            "if t < peak:",
            f"    return {n['start_factor']!r} + (1 - {n['start_factor']!r}) * share",
            "share = (1 - math.cos(math.pi * min(1, (t - peak) / max(last - peak, 1e-9)))) / 2",
            f"return 1 + ({n['end_factor']!r} - 1) * share",
        ]
    warm = [f"warmup = {n['warmup']!r} * total_steps"] if n["warmup"] else []
    rise = "min(1, (t + 1) / max(1, warmup)) * " if n["warmup"] else ""
    progress = PROGRESS if n["warmup"] else "progress = min(1, t / total_steps)"
    if name == "constant":
        return [*warm, "return min(1, (t + 1) / max(1, warmup))"]
    if name == "wsd":
        start = [f"start = total_steps - {n['cooldown']!r} * total_steps"]
        progress = "progress = min(1, max(0, (t - start) / max(total_steps - start, 1e-9)))"
        return [*warm, *start, progress, f"return {rise}{_above(n, COOLDOWNS[str(n['cooldown_shape'])])}"]
    if name == "inverse_sqrt":
        since = "max(0, t - warmup)" if warm else "t"
        return [*warm, f"return {rise}(1 + {since} / ({n['timescale']!r} * total_steps)) ** -0.5"]
    decay = _decay(name, n)
    return None if decay is None else [*warm, progress, f"return {rise}{decay}"]


def _decay(name: str, n: Numbers) -> str | None:
    """Write the decay as a function of `progress`, without the warm-up."""
    match name:
        case "linear":
            return _above(n, "1 - progress")
        case "polynomial":
            return _above(n, f"(1 - progress) ** {n['power']!r}")
        case "cosine" if n["cycles"] == 1:
            return _above(n, "(1 + math.cos(math.pi * progress)) / 2")
        case "exponential":
            return f"{n['final_factor']!r} ** progress"
        case "step":
            return f"{n['gamma']!r} ** math.floor(progress / {n['step_share']!r} + 1e-9)"
        case "multistep":
            passed = ", ".join(repr(n[key]) for key in ("milestone1", "milestone2", "milestone3"))
            return f"{n['gamma']!r} ** sum(progress + 1e-9 >= milestone for milestone in ({passed}))"
    return None


def _above(n: Numbers, share: str) -> str:
    return f"({n['floor']!r} + (1 - {n['floor']!r}) * ({share}))" if n["floor"] else f"({share})"
