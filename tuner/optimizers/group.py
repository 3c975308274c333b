"""Parameter groups of torch optimizers: what belongs there, and torch's name for the two betas.

torch keeps `betas` where the rules have `beta1` and `beta2`; its schedulers that cycle momentum read and write `betas`,
or `momentum` where there is one. Here `betas` is another view of the same two numbers, so nothing can drift apart.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.rule import FLOAT_TYPES

NOT_HYPERPARAMETERS = frozenset(
    # What torch and its learning-rate schedulers keep in a group beside the optimizer's own options.
    {"params", "param_names", "roles", "initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"}
)


class Group(dict[str, Any]):
    """A parameter group, or the defaults of one; `betas` is (beta1, beta2) where the rule has no `momentum`."""

    def _has_betas(self) -> bool:
        return super().__contains__("beta1") and super().__contains__("beta2") and not super().__contains__("momentum")

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (key == "betas" and self._has_betas())

    def __getitem__(self, key: str) -> Any:
        if key == "betas" and self._has_betas():
            return self["beta1"], self["beta2"]
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return `self[key]`, or the default where there is none."""
        return self[key] if key in self else default

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "betas" and self._has_betas():
            self["beta1"], self["beta2"] = value
        else:
            super().__setitem__(key, value)


def check_parameters(entries: Iterable[Any]) -> None:
    """Refuse types that the rules are not made for, and a parameter that is given twice.

    Raises:
        InvalidInput: one fault per type and per parameter given twice.
    """
    faults, seen = [], set()
    wrong: dict[torch.dtype, list[int]] = {}
    for index, entry in enumerate(entries):
        param = entry[1] if isinstance(entry, tuple) else entry
        if not isinstance(param, Tensor):
            continue  # torch refuses it in its own words
        if param.dtype not in FLOAT_TYPES:
            wrong.setdefault(param.dtype, []).append(index)
        if id(param) in seen:
            faults.append(Fault(f"params[{index}]", "the parameter is given twice"))
        seen.add(id(param))
    faults += [Fault(f"params[{found[0]}]", _wrong_type(dtype, len(found))) for dtype, found in wrong.items()]
    if faults:
        raise InvalidInput(faults)


def _wrong_type(dtype: torch.dtype, count: int) -> str:
    more = f", as that of {count - 1} more" if count > 1 else ""
    advice = ": keep the weights in float32 and train under torch.autocast" if dtype.is_floating_point else ""
    return f"its type is {dtype}{more}; allowed are float32 and float64{advice}"
