"""The catalogue as people read it, the same from a server as from the package alone."""

from collections.abc import Mapping

from tuner.study.catalogue import BUILT_IN_WORKLOADS, EXTERNAL, EXTERNAL_WORDS, load_catalogue
from tuner.study.hyperparameter import Hyperparameter
from tuner.study.space import Range
from tuner.wire.views import CatalogueView, HyperparameterView, NamedThing, OptimizerView, ScheduleView

METHODS = {
    "random": "independent draws; the same configurations under any parallelism",
    "quasirandom": "a scrambled Sobol sequence per optimizer: covers the space more evenly than independent draws",
    "tpe": "tree-structured Parzen estimator per optimizer (Optuna): proposes configurations near those that did well",
}


def catalogue_view(registered: Mapping[str, str] | None = None) -> CatalogueView:
    """List everything that a study document may name.

    `registered`: workloads that workers have registered, with their descriptions.
    """
    known = load_catalogue()
    workloads = {**(registered or {}), **BUILT_IN_WORKLOADS, EXTERNAL: EXTERNAL_WORDS}
    return CatalogueView(
        optimizers=[
            OptimizerView(
                name=info.name,
                summary=info.summary,
                formula=info.formula,
                reference=info.reference,
                state_per_parameter=info.state_per_parameter,
                memory=info.memory,
                needs_loss=info.needs_loss,
                hyperparameters=[_hyperparameter(h) for h in info.hyperparameters],
            )
            for info in known.optimizers.values()
        ],
        schedules=[
            ScheduleView(
                name=info.name,
                summary=info.summary,
                formula=info.formula,
                parameters=[_hyperparameter(p) for p in info.parameters],
            )
            for info in known.schedules.values()
        ],
        methods=[NamedThing(name=name, description=text) for name, text in METHODS.items()],
        workloads=[NamedThing(name=name, description=text) for name, text in sorted(workloads.items())],
    )


def _hyperparameter(h: Hyperparameter) -> HyperparameterView:
    search = h.search
    return HyperparameterView(
        name=h.name,
        default=h.default,
        description=h.description,
        allowed=h.allowed(),
        search=Range(search.min, search.max, search.scaling).describe() if search else "",
        swept=search.swept if search else False,
        source=search.source if search else "",
    )
