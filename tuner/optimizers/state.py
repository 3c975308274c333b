"""What a rule remembers of its trials."""

from dataclasses import dataclass, field

from torch import Tensor

from tuner.optimizers.tensors import Tensors


@dataclass
class State:
    """What a rule remembers: zeros at the start, all of it in the parameters' type but `step`."""

    step: Tensor
    """Updates done, [T], float64."""
    counts: tuple[int, ...]
    """The same, known on the host: a rule that acts every n steps picks its trials without asking the device."""
    buffers: dict[str, Tensors] = field(default_factory=dict)
    """Of the parameters' own shapes: name -> parameter -> [T, ...]."""
    pools: dict[str, Tensors] = field(default_factory=dict)
    """Of other shapes, per parameter: name -> parameter -> [T, ...]."""
    trial: Tensors = field(default_factory=dict)
    """One for all parameters of a trial: name -> [T, ...]."""

    def advance(self) -> None:
        """Count an update."""
        self.step.add_(1)
        self.counts = tuple(count + 1 for count in self.counts)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but the step, not copied, by a name of its own, e.g. `buffers.exp_avg.weight`."""
        nested = {"buffers": self.buffers, "pools": self.pools, "trial": {"": self.trial}}
        return {
            f"{kind}.{name}.{key}".replace("..", "."): tensor
            for kind, group in nested.items()
            for name, tensors in group.items()
            for key, tensor in tensors.items()
        }
