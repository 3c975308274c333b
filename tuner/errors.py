"""Every error that Tuner raises on purpose.

    TunerError
    ├── NotFound            no such study, trial, worker, workload
    ├── Conflict            the request is well formed, but the state of things forbids it
    │   ├── InvalidTransition
    │   └── NameTaken
    ├── InvalidInput        names every fault: field, value seen, what is allowed
    ├── NotAllowed          no token, a wrong token, or a request from a foreign page
    │   └── Forbidden       the caller is known, and their role does not suffice
    └── Unreachable         no answer from the server, or an answer that is not ours

Divergence and running out of memory are outcomes of a trial, not errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong with an input: `field` is a path such as `optimizers[1].lr.min`."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class TunerError(Exception):
    """Base of all errors raised on purpose; its text can be shown to a user."""


class NotFound(TunerError):
    """There is no such thing."""


class Conflict(TunerError):
    """The state of things forbids the request."""


class InvalidTransition(Conflict):
    """A study or trial cannot go from its present state to the wanted one."""


class NameTaken(Conflict):
    """Another study has that name."""


class InvalidInput(TunerError):
    """An input with one or more faults, all of them named."""

    def __init__(self, faults: Sequence[Fault] | str) -> None:
        self.faults: tuple[Fault, ...] = (Fault("", faults),) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class NotAllowed(TunerError):
    """The caller may not do this."""


class Forbidden(NotAllowed):
    """The caller is known, and their role does not suffice."""


class Unreachable(TunerError):
    """No server answered, or what answered is not a Tuner server."""
