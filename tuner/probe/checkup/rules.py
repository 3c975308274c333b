"""One update by one optimizer of each family: what a model cannot do (a second derivative, say) shows at once.

Families are told by what a rule demands of the engine, so a new rule of the catalogue has a family without being named.
"""

from collections.abc import Callable

from tuner.engine.stack import Stack
from tuner.engine.trial import Ended, TrialSpec
from tuner.optimizers.catalogue import catalogue, rule_class
from tuner.optimizers.rule import Rule
from tuner.probe.checkup.report import RuleTried

ELEMENTWISE = "elementwise"
_FAMILIES: dict[str, Callable[[type[Rule]], bool]] = {
    "curvature": lambda rule: rule.needs_curvature,
    "line search": lambda rule: rule.needs_loss,
    "averaging": lambda rule: rule.averages,
    ELEMENTWISE: lambda rule: rule.elementwise,
    "matrix": lambda rule: True,
}
"""The first that holds counts."""


def family_of(rule: type[Rule]) -> str:
    """Return the family of a rule."""
    return next(name for name, holds in _FAMILIES.items() if holds(rule))


def representatives() -> dict[str, str]:
    """Return the first optimizer of each family, in the catalogue's order."""
    found: dict[str, str] = {}
    for name in catalogue():
        found.setdefault(family_of(rule_class(name)), name)
    return found


def try_rules(stack: Stack) -> list[tuple[RuleTried, str | None]]:
    """Make one update, and an evaluation after it, with each; return also the traceback where one raised.

    The stack is empty, and as wide as there are families.
    """
    size, tried = stack.micro_batch, representatives()
    for name in tried.values():
        stack.admit(TrialSpec(name, {"optimizer": name, "batch_size": size}, 0, size))
    ended: dict[object, Ended] = {}
    while stack.busy:
        ended |= {event.key: event for event in stack.tick() if isinstance(event, Ended)}
    errors = {name: ended[name].error for name in tried.values()}
    return [(RuleTried(family, name, _last_line(errors[name])), errors[name]) for family, name in tried.items()]


def _last_line(error: str | None) -> str | None:
    return None if error is None else error.rstrip().splitlines()[-1]
