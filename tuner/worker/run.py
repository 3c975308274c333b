"""Starting a worker: its devices, the processes on each, and the agent that runs them until a signal arrives."""

import logging
import os
import signal


def default_threads() -> int:
    """Return the CPU threads of a device process: half the cores, at most 8."""
    return max(1, min(8, (os.cpu_count() or 1) // 2))


def split(device: str, width: int | None, processes: int | None, threads: int | None) -> tuple[int, int]:
    """Return the number of processes on a device, and the threads of each.

    Explicit values are used. A CPU worker without any uses the choice of the last probe on this machine.
    """
    from tuner.probe.choice import cores, cpu, latest

    if processes is not None:
        return processes, threads or max(1, cores() // processes)
    choice = latest(cpu()) if device == "cpu" and width is None and threads is None else None
    if choice is not None:
        return choice.best.processes, choice.best.threads
    return 1, threads or default_threads()


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
        width: slots of each device's stack; by default the choice of `tuner probe`, or else 32.
        workloads: modules or files (`problem.py`) that register workloads; the working directory comes first on their
            path.
        parent: drain and exit when this process is no longer our parent.
        threads: per device process; by default the cores divided by `processes`, or else half the cores, at most 8.
        checkpoints: root of the checkpoint store, shared with the server; without one, no checkpoints are written.
        checkpoint_every_s: seconds between two checkpoints of a trial; 10 by default.
        hang_s: seconds without a tick after which a device process that holds trials is terminated; 300 by default.
        processes: device processes per device, each with its own stack; by default the choice of the last
            `tuner probe` on this machine, if `width` and `threads` are not set either, or else 1.
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
        children += [DeviceProcess(*given, number, own_disk) for number in numbers]
    label = name or socket.gethostname()
    with Client(server, token) as client:
        agent = Agent(client, children, name=label, parent=parent, hang_s=hang_s or HANG_S)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
                signal.signal(number, lambda *_: agent.stop())
        return agent.run()
