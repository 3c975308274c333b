"""A user's own training loop: trials of a study, one at a time, trained by whatever code stands in the loop's body.

    for trial in tuner.Client(url).ask("study"):
        for step in range(1000):
            loss = train(trial.params)
            trial.report(step=step, loss=loss)
            if trial.should_stop:
                break
        trial.finish(loss)

loop.py         iterating: what the end of the body, `break` and exceptions mean for the trial
trial.py        what the body sees of a trial
session.py      the sync protocol of one slot, in a thread of its own: leases, reports, orders
stay.py         one attempt in this process, until the server has acknowledged its end
curve.py        reported rows that are still to be sent, thinned where there are very many
leaving.py      the exception by which a loop's body is left
params.py       a configuration, by attribute and by key
folder.py       where a trial keeps its checkpoints on this machine

Torch is not loaded.
"""

from tuner.ask.loop import Loop
from tuner.ask.trial import Trial

__all__ = ["Loop", "Trial"]
