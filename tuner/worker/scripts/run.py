"""Starting a worker that runs a command per trial: its places, and the agent that serves them until a signal."""

import logging
import signal
import socket
from collections.abc import Sequence

from tuner import logs
from tuner.ask import folder
from tuner.client import Client
from tuner.worker.agent.agent import Agent
from tuner.worker.agent.gpus import visible_gpus
from tuner.worker.scripts.command import words_of
from tuner.worker.scripts.place import Place, Terms

GRACE_S = 10.0
MOST_PLACES = 64


def run(
    server: str,
    command: str,
    token: str | None = None,
    name: str | None = None,
    devices: Sequence[str] | None = None,
    slots: int = 1,
    study: str | None = None,
    timeout_s: float | None = None,
    grace_s: float = GRACE_S,
    parent: int | None = None,
) -> int:
    """Run a worker of scripts until SIGTERM or SIGINT, or until its study has ended; return its exit status.

    Args:
        server: address of the server.
        command: run for each trial; `{name}` stands for a value of its configuration (`command.py`).
        token: the server's bearer token, if it requires one.
        name: a label shown to users; the machine's name by default.
        devices: `cpu`, or `cuda:0`, ...; every GPU, or else the CPU, by default.
        slots: scripts at a time per device.
        study: take the trials of this study alone, and leave when it has ended; by default those of all external ones.
        timeout_s: seconds that a script may run; for ever by default.
        grace_s: seconds from SIGTERM to SIGKILL for a script that is told to end.
        parent: drain and exit when this process is no longer our parent.

    Returns:
        As `tuner.worker.run`.

    Raises:
        InvalidInput: the command is empty, or a quote in it is not closed.
    """
    logs.configure()
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    agent: Agent | None = None
    terms = Terms(
        words_of(command), folder.root(), timeout_s, grace_s, lambda: (agent.database if agent else None) or "unknown"
    )
    gpus = visible_gpus()
    chosen = list(devices) if devices else [f"cuda:{index}" for index in range(len(gpus))] or ["cpu"]
    places = [
        Place(f"{device}#{slot}" if slots > 1 else device, terms, _gpu(device, gpus))
        for device in chosen
        for slot in range(1, slots + 1)
    ][:MOST_PLACES]
    with Client(server, token) as client:
        agent = Agent(client, places, name=name or socket.gethostname(), parent=parent, study=study)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
                signal.signal(number, lambda *_: agent.stop())
        return agent.run()


def _gpu(device: str, gpus: Sequence[str]) -> str | None:
    """Return what a device's scripts see as CUDA_VISIBLE_DEVICES: its GPU alone; none on a CPU, if there are any."""
    kind, _, index = device.partition(":")
    if kind == "cuda" and index.isdecimal() and int(index) < len(gpus):
        return gpus[int(index)]
    return "" if kind == "cpu" and gpus else None
