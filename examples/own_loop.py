"""A loop of your own over the trials of a study: `tuner submit examples/own-loop.yaml`, then run this.

Any code may stand in the body. This one fits a line by stochastic gradient descent in plain Python.
"""

import json
import random
import sys

import tuner

STEPS = 200


def train(trial) -> None:
    """Train one trial; it goes on from its checkpoint if it was interrupted."""
    params, draw = trial.params, random.Random(trial.seed)
    state = {"step": 0, "weight": 0.0, "speed": 0.0}
    checkpoint = trial.checkpoint_dir / "state.json"
    if checkpoint.exists():
        state = json.loads(checkpoint.read_text())
    while state["step"] < STEPS:
        batch = [draw.uniform(-1, 1) for _ in range(params.batch_size)]
        errors = [(state["weight"] - 3) * x + draw.gauss(0, 0.1) for x in batch]
        gradient = sum(2 * e * x for e, x in zip(errors, batch, strict=True)) / len(batch)
        state["speed"] = params.momentum * state["speed"] - params.lr * gradient
        state["weight"] += state["speed"]
        state["step"] += 1
        trial.report(step=state["step"], loss=sum(e * e for e in errors) / len(errors))
        if state["step"] % 50 == 0:
            checkpoint.write_text(json.dumps(state))
        if trial.should_stop:  # stopped, pruned, or its study was paused
            return
    trial.finish((state["weight"] - 3) ** 2)


def main() -> None:
    """Train trials until the study has ended. Run it several times, on several machines: each trial goes to one."""
    url = sys.argv[1] if len(sys.argv) > 1 else None
    for trial in tuner.Client(url).ask("own-loop"):
        train(trial)


if __name__ == "__main__":
    main()
