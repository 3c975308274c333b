"""One of the processes in which a probe measures, controlled by `probing.py`.

    python -P -m tuner.worker.device.probe_process '{"workload": "digits-mlp", "workload_params": {}, "micro_batch": 8,
                                              "per_tick": 2, "device": "cpu", "threads": 1, "workloads": [],
                                              "cell_s": 0.5}'

Messages in, as JSON lines: {"prepare": [path, width]} and {"time": true}. Messages out: {"ready": {"batch_dependent":
false, "per_tick": 2}} (see `Bench`), {"prepared": phases or null} (see `Footprint`), {"tick_s": seconds};
{"fault": text} and exit if the workload's own code fails. It exits when stdin closes.
"""

import json
import logging
import os
import signal
import sys

import torch

from tuner import workloads
from tuner.engine.machine.allocator import keep_freed_memory
from tuner.probe.bench import Bench
from tuner.worker.channel import Json, private_streams, read_lines, write_line
from tuner.worker.device.device import import_workloads


def main() -> int:
    """Measure on request until stdin closes."""
    source, target = private_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wanted: Json = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    keep_freed_memory()
    torch.set_num_threads(wanted["threads"])
    try:
        import_workloads(wanted["workloads"])
        task = workloads.load(wanted["workload"], wanted["workload_params"])
        sizes = wanted["micro_batch"], wanted["device"], wanted["cell_s"], wanted["per_tick"]
        bench = Bench(task, *sizes)
        write_line(target, {"ready": {"batch_dependent": bench.batch_dependent, "per_tick": bench.per_tick}})
        for message in read_lines(source):
            if "prepare" in message:
                taken = bench.prepare(*message["prepare"])
                write_line(target, {"prepared": None if taken is None else taken.phases})
            else:
                write_line(target, {"tick_s": bench.tick_s()})
    except BrokenPipeError:
        pass
    except Exception as error:  # exceptions of the workload are shown to the user
        write_line(target, {"fault": f"{type(error).__name__}: {error}"})
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
