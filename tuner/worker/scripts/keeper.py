"""The process that a script runs under: it ends with the worker, and takes the whole process group with it.

    python -P -m tuner.worker.scripts.keeper GRACE_S COMMAND ...

The worker holds the other end of its standard input. When that closes (the worker wants the script to end, or was
killed), the group gets SIGTERM, and SIGKILL after the grace. Its exit status is the script's, 128 + n after signal n,
and 127 where the command cannot be started. Standard library only, so that it starts at once.
"""

import os
import signal
import subprocess
import sys
import threading
import time

CANNOT_START = 127
SIGNALLED = 128
POLL_S = 0.02


def main() -> int:
    """Run the command until it ends, or until the worker wants it to."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meant for the script: this process sees it through
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        script = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_as_usual)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return CANNOT_START
    threading.Thread(target=_watch, args=(grace_s,), daemon=True).start()
    status = script.wait()
    return status if status >= 0 else SIGNALLED - status


def _as_usual() -> None:
    """Let signals do to the script what they do to any program: ignored ones would be inherited."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _watch(grace_s: float) -> None:
    while os.read(0, 1024):
        continue
    os.killpg(0, signal.SIGTERM)
    time.sleep(grace_s)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
