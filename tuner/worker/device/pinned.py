"""Whether a device can run the program that a reproducible study is pinned to.

The program is built exactly or not at all: a device that differs in anything gives the trial back and says in what.
Only the width is taken over, where the user left it free.
"""

from tuner.errors import TunerError
from tuner.study.program import Program, difference, fingerprint


class OtherProgram(TunerError):
    """This device does not run the program that a study is pinned to."""


def check(wanted: Program, offered: Program) -> None:
    """Compare what a study is pinned to with what this device runs, or with the part of it that is known yet.

    Raises:
        OtherProgram: they differ; the message says where.
    """
    differs = difference(wanted, offered)
    if differs:
        raise OtherProgram(f"does not run program {fingerprint(wanted)}, which needs {differs}")


def check_whole(wanted: Program, offered: Program) -> None:
    """Compare two whole programs. Raises `OtherProgram` as `check` does, also where a key is missing in one of them."""
    check(wanted, offered)
    odd = sorted(wanted.keys() ^ offered.keys())
    if odd:
        raise OtherProgram(f"does not run program {fingerprint(wanted)}: the two do not both say {', '.join(odd)}")
