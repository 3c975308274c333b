"""Which tests run one after the other in one process: those of a file, or of files that share what is slow to start."""

from xdist.scheduler.loadfile import LoadFileScheduling

COMPILED, BROWSER = "compiled", "browser"
FILES_THAT_COMPILE = (
    "tests/engine/paths/test_compiled.py",
    "tests/engine/paths/test_compiled_extras.py",
    "tests/engine/paths/test_compiled_batches.py",
    "tests/engine/test_shared.py",
    "tests/engine/test_stack_equals_solo.py",
    "tests/engine/test_values.py",
    "tests/worker/device/test_runner.py",
    "tests/laws/test_treatments.py",
)
"""The compiler is loaded once for them, and what one of them has compiled lies on the disk for the next."""


def group(nodeid: str) -> str:
    """Return the group of a test: its file, `COMPILED`, or `BROWSER` for all that Chromium shows."""
    file = nodeid.split("::", 1)[0]
    if file in FILES_THAT_COMPILE:
        return COMPILED
    return BROWSER if file.startswith("tests/browser/") else file


class ByGroup(LoadFileScheduling):
    """`--dist loadfile`, by group."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
