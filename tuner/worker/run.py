"""Starting a worker: its devices, the processes on each, and the agent that runs them until a signal arrives."""

import logging
import signal

MOST_PROCESSES = 8
"""Device processes that are started on a CPU without being asked for."""
PROCESS_BYTES = 2**30
"""Memory that must be free for each of them."""


def split(device: str, width: int | None, processes: int | None, threads: int | None) -> tuple[int, int | None]:
    """Return the number of processes on a device, and the threads of each; None if they divide the cores by their work.

    Explicit values are used. A CPU worker without any uses the choice of the last probe on this machine, or else one
    process per core, as far as the memory allows.
    """
    from tuner.probe.choice import cores, cpu, latest
    from tuner.probe.free import free_memory

    if device != "cpu":
        return processes or 1, threads or max(1, min(8, cores() // (processes or 1)))
    if processes is not None:
        return processes, threads
    choice = latest(cpu()) if width is None and threads is None else None
    if choice is not None:
        return choice.best.processes, choice.best.threads
    free = free_memory()
    fitting = MOST_PROCESSES if free is None else max(1, free // PROCESS_BYTES)
    return min(max(1, cores() // (threads or 1)), MOST_PROCESSES, fitting), threads


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
    processes: int | None = None,
    own_disk: bool = False,
) -> int:
    """Run a worker until SIGTERM or SIGINT; return its exit status.

    Args:
        server: address of the server.
        token: its bearer token, if it requires one.
        name: a label shown to users; the machine's name by default.
        devices: e.g. `["cpu"]` or `["cuda:0", "cuda:1"]`; every GPU, or else the CPU, by default.
        width: slots of every stack; measured by default.
        workloads: modules or files (`problem.py`) that register workloads; the working directory comes first on their
            path.
        parent: drain and exit when this process is no longer our parent.
        threads: per device process; by default the cores, divided among the processes that have work.
        checkpoints: root of the checkpoint store, shared with the server; without one, no checkpoints are written.
        checkpoint_every_s: seconds between two checkpoints of a trial; 10 by default.
        hang_s: seconds without a tick after which a device process that holds trials is terminated; 300 by default.
        processes: device processes per device, each with its own stacks; by default one on a GPU, and on a CPU the
            choice of the last `tuner probe` on this machine, or else one per core, at most 8.
        own_disk: `checkpoints` is this worker's own directory, which neither the server nor other workers see.

    Returns:
        0 after a drain (all trials held went back to the server), 1 if no device could start, 2 if the server rejects
        us, 78 if `workloads` cannot be imported: one line on standard error says why.
    """
    import socket

    from tuner import logs
    from tuner.client import Client
    from tuner.worker.agent.agent import HANG_S, Agent
    from tuner.worker.agent.child import CHECKPOINT_EVERY_S, DeviceProcess
    from tuner.worker.agent.gpus import visible_gpus

    logs.configure()
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    chosen = devices or [f"cuda:{index}" for index in range(len(visible_gpus()))] or ["cpu"]
    every_s = checkpoint_every_s or CHECKPOINT_EVERY_S
    children = []
    for device in chosen:
        count, each = split(device, width, processes, threads)
        numbers = range(1, count + 1) if count > 1 else [None]
        given = (device, width, each, workloads or [], checkpoints, every_s)
        children += [DeviceProcess(*given, number, own_disk, count) for number in numbers]
    label = name or socket.gethostname()
    with Client(server, token) as client:
        agent = Agent(client, children, name=label, parent=parent, hang_s=hang_s or HANG_S)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
                signal.signal(number, lambda *_: agent.stop())
        return agent.run()
