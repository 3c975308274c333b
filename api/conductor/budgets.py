"""What a study may use, and whether it has: examples, wall-clock time, device time, money.

Examples are promised to a trial when it is made and given back when it ends early, in the transaction that does so: no
number of servers and users makes a study pass its budget by one. Times are looked at again and again; what runs when
one is used up is stopped.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from api.plans import Plan
from storage import usage
from storage.usage import Times
from tuner.errors import Conflict
from tuner.study.reading import in_words
from tuner.study.spec import Budget


def room(session: Session, *, study_id: int, plan: Plan) -> int | None:
    """Return how many more trials the budget of examples allows; None: any number. Exact while the study is held."""
    budget = plan.spec.budget
    if budget.examples is None or budget.examples_per_trial is None:
        return None
    left = budget.examples - usage.examples(session, study_id=study_id)
    return max(0, left // budget.examples_per_trial)


def reason(session: Session, *, study_id: int, plan: Plan, in_flight: int, now: datetime) -> str | None:
    """Return which budget ends a study, in words: it is used up, or nothing is under way and it has no room."""
    budget = plan.spec.budget
    if any(most is not None for most in (budget.wall_clock, budget.device_hours, budget.cost)):
        found = used_up(usage.times(session, study_id=study_id, now=now), budget)
        if found is not None:
            return found
    if in_flight == 0 and room(session, study_id=study_id, plan=plan) == 0:
        most, each = f"{budget.examples:,}", f"{budget.examples_per_trial:,}"
        return f"the budget of {most} examples has no room for another trial of {each}"
    return None


def check_examples(session: Session, *, study_id: int, plan: Plan) -> None:
    """Raise `Conflict` if more examples are promised than the budget has. Call it after trials were made or revived."""
    most = plan.spec.budget.examples
    if most is not None and (promised := usage.examples(session, study_id=study_id)) > most:
        raise Conflict(
            f"the budget of {most:,} examples has no room: the trials would have {promised:,}; "
            "raise budget.examples first"
        )


def used_up(used: Times, budget: Budget) -> str | None:
    """Return which budget of time or money is used up, in words; None while there is some left."""
    if budget.wall_clock is not None and used.wall_clock_s >= budget.wall_clock:
        return f"the budget of {in_words(budget.wall_clock)} (wall_clock) is used up"
    hours = used.device_hours
    if budget.device_hours is not None and hours >= budget.device_hours:
        return f"the budget of {budget.device_hours:g} device hours is used up"
    if budget.cost is not None and hours * (budget.price_per_device_hour or 0.0) >= budget.cost:
        return f"the budget of {budget.cost:g} (cost) is used up"
    return None
