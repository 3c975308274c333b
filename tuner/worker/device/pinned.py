"""Whether a device can run the program that a reproducible study is pinned to.

The program is built exactly or not at all: a device that differs in anything returns the trial and reports the
difference. Only the width is adopted, if the user did not set it.
"""

from tuner.errors import TunerError
from tuner.study.program import Program, difference, fingerprint


class OtherProgram(TunerError):
    """This device does not run the program to which a study is pinned."""


def check(wanted: Program, offered: Program) -> None:
    """Compare a study's pinned program with this device's program, or with the part of it that is known so far.

    Raises:
        OtherProgram: they differ; the message says how.
    """
    differs = difference(wanted, offered)
    if differs:
        raise OtherProgram(f"does not run program {fingerprint(wanted)}, which needs {differs}")


def check_whole(wanted: Program, offered: Program) -> None:
    """Compare two whole programs. Raises `OtherProgram` as `check` does, also if a key is missing in one of them."""
    check(wanted, offered)
    odd = sorted(wanted.keys() ^ offered.keys())
    if odd:
        raise OtherProgram(f"does not run program {fingerprint(wanted)}: only one of the two has {', '.join(odd)}")
