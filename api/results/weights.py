"""Where the weights of a trial are stored."""

from sqlalchemy.orm import Session

from storage import checkpoints
from storage.checkpoints import CheckpointRecord
from storage.trials import TrialRecord
from tuner.errors import NotFound


def stored_weights(session: Session, trial: TrialRecord) -> CheckpointRecord:
    """Find a trial's weights.

    Raises:
        NotFound: the trial has no weights.
    """
    found = checkpoints.weights(session, trial_id=trial.id)
    if found is None:
        raise NotFound(
            f"no weights of trial {trial.number}, which is {trial.state}; only the best completed trial of a study "
            "keeps them, and only where its worker had a checkpoint store"
        )
    return found
