"""Workers: they fetch trials from the server, train them, and say what came out.

    agent.py      the conversation with the server (sync protocol); knows no torch
    outbox.py     reports and last words that the server has not acknowledged yet
    child.py      the agent's end of a device process: start, restart, messages
    device.py     the device process: `python -P -m tuner.worker.device`
    runner.py     what a device process does: a backlog of assignments and the stack that trains them
    checkpoints.py  when trials are checkpointed, and the thread that writes
    watchdog.py   ends device processes that stopped ticking
    warming.py    a second process that compiles (warm.py) for the stack to come
    channel.py    JSON lines between the two
    gpus.py       which GPUs there are, without loading torch

This package imports nothing on its own: the device process must not load what only the agent needs.
"""

import logging
import os
import signal


def default_threads() -> int:
    """Return the CPU threads of a device process: half the cores, at most 8."""
    return max(1, min(8, (os.cpu_count() or 1) // 2))


def run(
    server: str,
    token: str | None = None,
    name: str | None = None,
    devices: list[str] | None = None,
    width: int | None = None,
    workloads: list[str] | None = None,
    parent: int | None = None,
    threads: int | None = None,
    checkpoints: str | None = None,
    checkpoint_every_s: float | None = None,
    hang_s: float | None = None,
) -> int:
    """Run a worker until SIGTERM or SIGINT; return its exit status.

    Args:
        server: address of the server.
        token: its bearer token, where it wants one.
        name: a label for people; the machine's name by default.
        devices: e.g. `["cpu"]` or `["cuda:0", "cuda:1"]`; every GPU, else the CPU, by default.
        width: slots of each device's stack; by default what `tuner probe` chose, else 32.
        workloads: modules or files (`problem.py`) that register workloads; the working directory comes first on their
            path.
        parent: leave, drained, when this process is no longer our parent.
        threads: of each device process; half the cores, at most 8, by default.
        checkpoints: root of the checkpoint store, which the server sees too; no checkpoints without one.
        checkpoint_every_s: seconds between two checkpoints of a trial; 10 by default.
        hang_s: seconds without a tick after which a device process that holds trials is ended; 300 by default.

    Returns:
        0 after a drain (all that was held went back to the server), 1 when no device could start, 2 when the server
        does not let us in.
    """
    import socket

    from tuner import logs
    from tuner.client import Client
    from tuner.worker.agent import HANG_S, Agent
    from tuner.worker.child import CHECKPOINT_EVERY_S, DeviceProcess
    from tuner.worker.gpus import visible_gpus

    logs.configure()
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    chosen = devices or [f"cuda:{index}" for index in range(len(visible_gpus()))] or ["cpu"]
    threads = threads or default_threads()
    every_s = checkpoint_every_s or CHECKPOINT_EVERY_S
    children = [DeviceProcess(d, width, threads, workloads or [], checkpoints, every_s) for d in chosen]
    label = name or socket.gethostname()
    with Client(server, token) as client:
        agent = Agent(client, children, name=label, parent=parent, hang_s=hang_s or HANG_S)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        return agent.run()
