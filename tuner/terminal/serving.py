"""Checks around a running server: its data directory is writable, its workloads are there, it ends with its parent."""

import errno
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from tuner.errors import Fault, InvalidInput, TunerError

PROBE_BYTES = 1 << 20
PARENT_CHECK_S = 0.5


def check_data_dir(path: Path) -> None:
    """Create the data directory and write to it once. Raises `TunerError` if that fails (permissions, full disk)."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
    except OSError as error:
        remedy = "free some space there" if error.errno == errno.ENOSPC else "choose another with --data-dir"
        reason = (error.strerror or str(error)).lower()
        raise TunerError(f"cannot write to the data directory {path}: {reason}; {remedy}") from error


def check_workloads(sources: Sequence[str]) -> None:
    """Check that files and modules with workloads are there and parse, without running them.

    Raises `InvalidInput`: a worker that cannot import them would only end, and be started again.
    """
    for source in sources:
        if not source.endswith(".py"):
            package = source.partition(".")[0]
            if PathFinder.find_spec(package, [os.getcwd(), *sys.path]) is None:
                raise InvalidInput([Fault("--workloads", f"no module {package!r} here or among the installed ones")])
            continue
        try:
            compile(Path(source).read_bytes(), source, "exec")
        except OSError as error:
            raise InvalidInput([Fault("--workloads", f"{source}: {(error.strerror or '').lower()}")]) from error
        except (SyntaxError, ValueError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            raise InvalidInput([Fault("--workloads", f"{source}{line}: is not Python: {why}")]) from error


def check_script_options(command: str | None, scripts: Mapping[str, object], engines: Mapping[str, object]) -> None:
    """Refuse options that would do nothing: those of the engine beside a script, and the other way round."""
    useless, why = scripts, "does nothing without --command; leave it out"
    if command is not None:
        useless, why = engines, "does nothing with --command, whose script trains; leave it out"
    if faults := [Fault(name, why) for name, given in useless.items() if given]:
        raise InvalidInput(faults)


def check_database_option(url: str | None) -> None:
    """Raise `InvalidInput` if a database's URL on the command line carries a password."""
    kind, _, rest = (url or "").partition("://")
    if not kind.startswith("sqlite") and (":" in rest.rpartition("@")[0] or "password=" in rest):
        why = "contains a password, which every user of this machine can read in the process list"
        raise InvalidInput([Fault("--db", f"{why}; set TUNER_DATABASE_URL instead, or PGPASSWORD")])


def end_with(parent: int) -> None:
    """End this process, as SIGTERM does, once the process `parent` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
