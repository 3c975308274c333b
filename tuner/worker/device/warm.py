"""Compile a stack's programs into the shared cache, in a separate process, so that no running trial has to wait.

    python -P -m tuner.worker.device.warm '{"workload": "digits-mlp", "workload_params": {}, "micro_batch": 8,
                                            "width": 64, "optimizers": ["adamw", "muon"], "device": "cpu",
                                            "threads": 1, "workloads": []}'

Exit status 0 means that the programs are compiled: building the same stack elsewhere then takes seconds. The cache is
Inductor's (TORCHINDUCTOR_CACHE_DIR), which both processes share.
"""

import json
import logging
import os
import signal
import sys

import torch

from tuner import workloads
from tuner.engine import Stack, TrialSpec
from tuner.worker.channel import Json
from tuner.worker.device.device import import_workloads
from tuner.worker.device.warming import COMPILED, NOT_COMPILED


def main() -> int:
    """Compile the stack given by the first argument; return `NOT_COMPILED` if it falls back to eager or loop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; our parent stops us
    os.nice(10)
    wanted: Json = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    torch.set_num_threads(wanted["threads"])
    import_workloads(wanted["workloads"])
    task = workloads.load(wanted["workload"], wanted["workload_params"])
    size, width = wanted["micro_batch"], wanted["width"]
    stack = Stack(task, width=width, micro_batch=size, device=wanted["device"], path="compiled")
    if stack.path != "compiled":
        return NOT_COMPILED
    for name in wanted["optimizers"]:
        slot = stack.admit(TrialSpec(name, {"optimizer": name, "batch_size": size}, 0, 10 * size))
        stack.tick()
        if slot is not None and stack.slot_of(name) == slot:
            stack.evict(slot)
    return COMPILED


if __name__ == "__main__":
    sys.exit(main())
