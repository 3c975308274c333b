"""Update rules on stacked trials, one per file, and the three ways to use them.

The engine uses the rules of `rule_class(name)` directly; `Stacked` steps plain stacked tensors; `build` returns a
torch.optim.Optimizer. `catalogue()` lists all optimizers. Needs only torch.
"""

from tuner.optimizers.build import build
from tuner.optimizers.catalogue import catalogue
from tuner.optimizers.roles import infer_roles
from tuner.optimizers.stacked import Stacked

__all__ = ["Stacked", "build", "catalogue", "infer_roles"]
