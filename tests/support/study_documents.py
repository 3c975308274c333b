"""A small valid study document to start from."""

from typing import Any


def study_document(**changes: Any) -> dict[str, Any]:
    """A small valid study document."""
    document: dict[str, Any] = {
        "name": "small",
        "workload": "digits-mlp",
        "optimizers": ["sgd", "adamw"],
        "parameters": {"batch_size": {"values": [16, 32]}},
        "method": "random",
        "run_cap": 4,
        "parallel": 4,
        "budget": {"examples_per_trial": 640},
    }
    return {**document, **changes}
