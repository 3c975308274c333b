"""Gradient descent: a fixed step against the gradient of the full batch.

Reference: Cauchy 1847, "Méthode générale pour la résolution des systèmes d'équations simultanées", C. R. Acad. Sci. 25;
rates in Nesterov 2004, Introductory Lectures on Convex Optimization, section 2.1.5.

    p ← p - lr · g

State: none.
Departures: none. The rule uses any batch it is given, but is meant for full batches (`sgd` also has weight decay).
Used with: lr just below 2 / L on a quadratic with largest curvature L; it diverges at 2 / L and above.
"""

from torch import Tensor

from tuner.optimizers.entries import learning_rate
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors
from tuner.optimizers.rules.shared.heavy_ball import descend


class GradientDescent(ElementwiseRule):
    """Gradient descent with a fixed step."""

    name = "gd"
    summary = "Gradient descent with a fixed step, for full batches"
    formula = "p ← p - lr · g"
    reference = "Cauchy 1847; Nesterov 2004, Introductory Lectures on Convex Optimization, section 2.1.5"
    hyperparameters = (
        learning_rate(
            0.5,
            1e-3,
            3.0,
            "as sgd: below 2 / L for standardised inputs; bounds are ours",
            description="learning rate: the step is lr times the gradient; 0 means no update",
        ),
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """None."""
        return ()

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        descend(param, grad, scalars["lr"])
