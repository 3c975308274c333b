"""The device process: runs the engine on one device, as its worker's agent asks.

    python -P -m tuner.worker.device.device --device cpu --width 32 --threads 1 --workloads problem.py

Messages in, as JSON lines on stdin: {"assign": {...}}, and with [trial, attempt] each: "stop" (without a word), "pause"
(end it as `paused`, its state stored), "go_on" (do not pause it after all) and "kept" (the server knows of its latest
checkpoint). Messages out, on stdout: `hello` first, with what can be run here, then those of
`runner.py`, and `alive` every few seconds. It leaves when stdin
closes, so it never outlives its agent. User code runs here: its directory comes first on the module path, its prints go
to stderr, and nothing of the server (nor `api` or `storage`, names that the user's project may have) is imported.
"""

import argparse
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

import torch

from tuner import logs, workloads
from tuner.engine.machine.allocator import keep_freed_memory
from tuner.engine.machine.hardware import hardware
from tuner.errors import InvalidInput
from tuner.probe.choice import cores
from tuner.store import SHARED
from tuner.worker import mistakes
from tuner.worker.channel import Json, private_streams, read_lines, write_line
from tuner.worker.device.checkpoints import Checkpoints
from tuner.worker.device.runner import Runner
from tuner.worker.device.stack_choice import Given

ALIVE_S = 2.0
"""How often the tick loop reports that it is alive: silence means that it hangs."""
DRAIN_S = 0.9
"""How long the last checkpoints may take when the agent hangs up."""


def main() -> int:
    """Run until stdin closes; return 1 when the device is not there, `mistakes.STATUS` for unusable `--workloads`."""
    options = _options()
    source, target = private_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the agent decides when we leave
    logs.configure()
    torch.set_num_threads(options.threads or max(1, cores() // options.processes))
    keep_freed_memory()
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        logging.getLogger(__name__).error("no usable GPU for device %s", options.device)
        return 1
    mistake = mistake_in(options.workloads)
    if mistake is not None:
        print(mistake, file=sys.stderr, flush=True)  # noqa: T201 - for the user's eyes, in the terminal or the log
        return mistakes.STATUS
    try:
        checkpoints = _checkpoints(options.checkpoints, options.checkpoint_every, options.own_disk)
        store = {"checkpoints": checkpoints is not None, "scope": checkpoints.scope if checkpoints else SHARED}
        write_line(target, {"hello": _hello(options.device) | store})
        _serve(source, target, options, checkpoints)
    except BrokenPipeError:
        return 0  # the agent is gone
    # Everything is sent and stored, and the agent is waiting: an orderly shutdown of the interpreter and torch is slow.
    logging.shutdown()
    os._exit(0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs trials on one device.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, help="slots of every stack; default: measured")
    parser.add_argument("--threads", type=int, help="default: the cores, divided among the processes that have work")
    parser.add_argument("--processes", type=int, default=1, help="how many share the device, this one included")
    parser.add_argument("--checkpoints", help="root of the checkpoint store")
    parser.add_argument("--checkpoint-every", type=float, default=10.0, help="seconds")
    parser.add_argument("--own-disk", action="store_true", help="nobody else sees the checkpoint store")
    parser.add_argument("--workloads", nargs="*", default=[], help="modules or files that register workloads")
    return parser.parse_args()


def import_workloads(sources: list[str]) -> list[str]:
    """Import a user's workload modules and files; the working directory and each file's own come first.

    Returns:
        The names that they registered.
    """
    found = []
    sys.path.insert(0, os.getcwd())
    for source in sources:
        if source.endswith(".py"):
            sys.path.insert(0, str(Path(source).resolve().parent))
        found += workloads.import_user_workloads(source)
    return found


def mistake_in(sources: list[str]) -> str | None:
    """Import a user's workloads; return one line on the first source that cannot be imported, or None."""
    for source in sources:
        try:
            import_workloads([source])
        except (Exception, SystemExit) as error:  # the user's own code runs here
            return mistakes.line(source, error)
    return None


def _checkpoints(root: str | None, every_s: float, own_disk: bool) -> Checkpoints | None:
    """Open the store; a worker whose store cannot be used trains without checkpoints."""
    if root is None:
        return None
    try:
        return Checkpoints(root, every_s, own_disk)
    except (OSError, InvalidInput) as error:
        logging.getLogger(__name__).error("no checkpoints: %s", error, extra={"action": "checkpoint", "root": root})
        return None


def _hello(device: str) -> Json:
    known = [
        {"name": name, "description": description, **workloads.takes(name)}
        for name, description in workloads.known().items()
    ]
    return {"workloads": known, "description": hardware(torch.device(device))}


def _serve(source: IO[str], target: IO[str], options: argparse.Namespace, checkpoints: Checkpoints | None) -> None:
    inbox: queue.SimpleQueue[Json | None] = queue.SimpleQueue()

    def listen() -> None:
        for message in read_lines(source):
            inbox.put(message)
        inbox.put(None)

    threading.Thread(target=listen, name="inbox", daemon=True).start()

    def send(message: Json) -> None:
        write_line(target, message)

    given = Given(options.width, options.threads, options.processes, tuple(options.workloads))
    runner = Runner(send, options.device, given, checkpoints)
    warm_up()
    try:
        obey(inbox, runner, send)
    finally:
        runner.close()


def warm_up() -> None:
    """Let torch load what its first stack needs, which takes a second, before there is work."""
    one = torch.ones(1, 1)
    torch.func.vmap(torch.func.grad(torch.sum))(one)


class Inbox(Protocol):
    """The agent's messages; None when there will be no more. `queue.SimpleQueue` is one."""

    def empty(self) -> bool:
        """Whether `get` would wait."""

    def get(self, *, timeout: float | None = None) -> Json | None:
        """Wait for the next message, or `queue.Empty` after so many seconds."""


def obey(inbox: Inbox, runner: Runner, send: Callable[[Json], None]) -> None:
    """Train until None comes."""
    alive_at = time.monotonic()
    while True:
        while not (runner.busy and inbox.empty()):
            try:
                message = inbox.get(timeout=None if runner.busy else runner.patience_s)
            except queue.Empty:
                runner.prepare()
                continue
            if message is None:
                runner.drain(DRAIN_S)
                return
            tell(runner, message)
        runner.step()
        if time.monotonic() - alive_at > ALIVE_S:
            alive_at = time.monotonic()
            send({"alive": True})


def tell(runner: Runner, message: Json) -> None:
    """Pass a message of the agent on."""
    if "assign" in message:
        runner.assign(message["assign"])
        return
    acts = {"stop": runner.stop, "pause": runner.pause, "go_on": runner.go_on, "kept": runner.kept}
    for name, (trial, attempt) in message.items():
        acts[name]((trial, attempt))


if __name__ == "__main__":
    sys.exit(main())
