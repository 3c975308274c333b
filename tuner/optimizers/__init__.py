"""Update rules on stacked trials, one per file, and the three ways to use them.

The engine drives the rules of `rule_class(name)` itself; `Stacked` steps plain stacked tensors; `build` makes a
torch.optim.Optimizer. `catalogue()` says what there is. Needs torch alone.
"""

from tuner.optimizers.build import build
from tuner.optimizers.catalogue import catalogue
from tuner.optimizers.roles import infer_roles
from tuner.optimizers.stacked import Stacked

__all__ = ["Stacked", "build", "catalogue", "infer_roles"]
