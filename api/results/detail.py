"""A study as its rows show it: its document, its counts, its best trial, what runs it and how it failed."""

from collections import Counter

from api.notices import failure_groups
from api.results.reading import Reading
from api.views import study_fields, trial_view
from storage import attempts, trials
from storage.studies import Progress
from tuner.study.program import in_words
from tuner.wire.views import RunningProgram, StudyDetail


def study_detail(reading: Reading) -> StudyDetail:
    """Show a study with its document and its failures; `api/present.py` adds what only the moment knows."""
    session, study, plan = reading.session, reading.study, reading.plan
    counts = Counter(trial.state for trial in reading.trials)
    used, computed = reading.board.slots(session, reading.trials)
    progress = Progress({str(state): count for state, count in counts.items()}, 0)
    best = trials.best(session, study_id=study.id, minimize=plan.minimize)
    return StudyDetail.model_validate(
        {
            **study_fields(study, plan),
            "counts": counts,
            "examples_done": sum(trial.examples for trial in reading.trials),
            "slot_utilisation": used / computed if computed else None,
            "running_programs": [
                RunningProgram(fingerprint=r.fingerprint, words=in_words(r.program), trials=r.trials, devices=r.devices)
                for r in attempts.running(session, study_id=study.id)
            ],
            "best": trial_view(session, study, best) if best else None,
            "failures": failure_groups(session, study, progress),
            "document": study.document,
        }
    )
