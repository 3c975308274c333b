"""The state that a rule keeps for its trials."""

from dataclasses import dataclass, field

from torch import Tensor

from tuner.optimizers.tensors import Tensors


@dataclass
class State:
    """The state of a rule: zeros at the start, everything except `step` in the parameters' type."""

    step: Tensor
    """Updates done, [T], float64."""
    counts: tuple[int, ...]
    """The same, on the host: a rule that acts every n steps picks its trials without querying the device."""
    buffers: dict[str, Tensors] = field(default_factory=dict)
    """State of the parameters' own shapes: name -> parameter -> [T, ...]."""
    pools: dict[str, Tensors] = field(default_factory=dict)
    """State of other shapes, per parameter: name -> parameter -> [T, ...]."""
    trial: Tensors = field(default_factory=dict)
    """State of a whole trial: name -> [T, ...]."""

    def advance(self) -> None:
        """Count an update."""
        self.step.add_(1)
        self.counts = tuple(count + 1 for count in self.counts)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything except the step, not copied, each under its own name, e.g. `buffers.exp_avg.weight`."""
        nested = {"buffers": self.buffers, "pools": self.pools, "trial": {"": self.trial}}
        return {
            f"{kind}.{name}.{key}".replace("..", "."): tensor
            for kind, group in nested.items()
            for name, tensors in group.items()
            for key, tensor in tensors.items()
        }
