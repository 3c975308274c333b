"""Small studies of the user's own code."""

from typing import Any

from tuner.client import Client
from tuner.wire.views import StudyDetail


def own_study(client: Client, **changes: Any) -> StudyDetail:
    """Submit a study with one hyperparameter."""
    document: dict[str, Any] = {
        "name": "own",
        "workload": "external",
        "metric": "loss",
        "parameters": {"x": {"min": 0.0, "max": 1.0}, "kind": {"values": ["a", "b"]}},
        "method": "random",
        "run_cap": 3,
    }
    return client.submit({**document, **changes})
