"""The command of a script trial, with the values of its configuration in it.

The command is split once, as a shell would split it, and then each `{name}` in a word is replaced by the value: a value
stays within its word, whatever it contains. `{{` and `}}` stand for braces.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from tuner.errors import Fault, InvalidInput
from tuner.study.hyperparameter import Scalar

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
SECRETS = ("TUNER_TOKEN", "TUNER_TOKEN_FILE", "TUNER_HEADERS", "TUNER_DATABASE_URL")
"""What a script has no use for."""
TRIAL, REPORTS, PARAM = "TUNER_TRIAL", "TUNER_REPORTS", "TUNER_PARAM_"


def words_of(command: str) -> list[str]:
    """Split a command. Raises `InvalidInput` if it is empty or a quote is not closed."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput([Fault("--command", f"{error}")]) from error
    if not words:
        raise InvalidInput([Fault("--command", "is empty; give e.g. 'python train.py --lr {lr}'")])
    return words


def filled(words: list[str], values: Mapping[str, Scalar]) -> list[str]:
    """Put values in place of their names. Raises `InvalidInput` for a name that the trial does not have."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in values:
            told = f"names {{{match[1]}}}; the trial has {', '.join(values)}"
            raise InvalidInput([Fault("--command", told)])
        return written(values[match[1]])

    return [PLACEHOLDER.sub(value, word) for word in words]


def written(value: Scalar) -> str:
    """Write a value as an argument: text as it is, numbers with all their digits, `true` and `false`."""
    return value if isinstance(value, str) else json.dumps(value)


def environment_of(
    params: Mapping[str, Scalar], base: Mapping[str, str], *, trial: Path, reports: Path, gpu: str | None
) -> dict[str, str]:
    """Return the environment of a script: the worker's without its secrets, and the trial."""
    found = {name: value for name, value in base.items() if name not in SECRETS and not name.startswith(PARAM)}
    for name, value in params.items():
        found[PARAM + re.sub(r"\W", "_", name).upper()] = written(value).replace("\0", "")
    found |= {TRIAL: str(trial), REPORTS: str(reports)}
    if gpu is not None:
        found["CUDA_VISIBLE_DEVICES"] = gpu
    return found
