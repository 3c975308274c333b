"""Checks around a running server: its data directory is writable, and it ends with its parent."""

import errno
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

from tuner.errors import TunerError

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


def has_password(database_url: str) -> bool:
    """Return whether a database's URL carries a password: after the user's name, or in its query."""
    kind, _, rest = database_url.partition("://")
    return not kind.startswith("sqlite") and (":" in rest.rpartition("@")[0] or "password=" in rest)


def end_with(parent: int) -> None:
    """End this process, as SIGTERM does, once the process `parent` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
