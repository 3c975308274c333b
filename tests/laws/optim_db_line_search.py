"""torch's own test configurations of LBFGS, told in our hyperparameters.

Convention: torch's `max_iter` is our `iterations`, its `max_eval` (5/4 of that) our `max_evaluations`; without
`line_search_fn` its step is fixed.
"""

from collections.abc import Callable, Mapping
from typing import Any


def _lbfgs(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    names = {"lr": "lr", "tolerance_grad": "tolerance_grad", "tolerance_change": "tolerance_change"}
    iterations = options.get("max_iter", 20)
    return "lbfgs", {
        "history": options.get("history_size", 100),
        "iterations": iterations,
        "max_evaluations": options.get("max_eval", iterations * 5 // 4),
        "line_search": "wolfe" if options.get("line_search_fn") == "strong_wolfe" else "fixed",
        **{ours: float(options[theirs]) for theirs, ours in names.items() if theirs in options},
    }


MAPPING: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]] | None]] = {"LBFGS": _lbfgs}
