"""Whether a study has found what it was looking for: with `stop_on_target` it ends then, and does not go on."""

from sqlalchemy.orm import Session

from api.plans import Plan
from storage import trials


def reached(session: Session, *, study_id: int, plan: Plan) -> bool:
    """Whether the study ends because its best trial reached its target."""
    metric = plan.spec.metric
    if not metric.stop_on_target or metric.target is None:
        return False
    best = trials.best(session, study_id=study_id, minimize=plan.minimize)
    if best is None or best.value is None:
        return False
    return best.value <= metric.target if plan.minimize else best.value >= metric.target
