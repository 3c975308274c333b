"""Compile a stack's programs into the shared cache and time them, in a separate process, beside the training.

    python -P -m tuner.worker.device.warm '{"workload": "digits-mlp", "workload_params": {}, "micro_batch": 8,
                                            "workload_values": [], "model": "0123456789ab",
                                            "rules": {"x": {"optimizer": "adamw"}},
                                            "batch": null, "per_tick": 2, "width": 64,
                                            "base": ["eager", 64], "nice": 15,
                                            "device": "cpu", "threads": 1, "workloads": [], "parent": 17}'

`rules` are parameters of a trial by the name of the rule's program.

What it finds goes into the machine's choices (`probe/choice.py`), where every device process sees it. The cache is
Inductor's (TORCHINDUCTOR_CACHE_DIR): building the same stack elsewhere then takes seconds. Invariants: one such process
of a machine works at a time; it stops when its parent has gone; a rule that fails is left out, the others not.
"""

import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext

from tuner.probe.choice import Cell, Compiled, cache_file, key, learn, locked, stored
from tuner.worker.channel import Json
from tuner.worker.device.warming import COMPILED, NOT_COMPILED

log = logging.getLogger(__name__)

PARENT_CHECK_S = 0.5
TURNS = 2
"""Times that the compiled stack and the one that it may replace are measured, in turns: what else runs on the machine
would decide if one had been measured alone."""


def main() -> int:
    """Compile the stack given by the first argument; return `NOT_COMPILED` if it falls back to eager or loop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; our parent stops us
    wanted: Json = json.loads(sys.argv[1])
    os.nice(wanted["nice"])
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    threading.Thread(target=_end_with, args=(wanted["parent"],), daemon=True).start()
    with _turn():
        try:
            return _compile(wanted)
        except Exception as error:  # the workload's own code runs here too
            log.warning("not compiled: %s: %s", type(error).__name__, error, extra={"action": "warm"})
            return NOT_COMPILED


def _end_with(parent: int) -> None:
    """End this process at once when its parent has gone: nobody would stop it."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(NOT_COMPILED)


def _turn() -> AbstractContextManager[None]:
    """Wait for our turn, before torch takes memory. Where the cache cannot be written nobody waits."""
    path = cache_file().with_name("compiling.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return nullcontext()
    return locked(path)


def _compile(wanted: Json) -> int:
    import torch

    from tuner import workloads
    from tuner.engine import Stack, TrialSpec
    from tuner.probe.bench import place_of
    from tuner.probe.first_look import steps_every, tick_s
    from tuner.probe.memory import fill
    from tuner.worker.device.device import import_workloads
    from tuner.worker.device.stack_choice import COMPILER

    torch.set_num_threads(wanted["threads"])
    import_workloads(wanted["workloads"])
    task = workloads.load(wanted["workload"], wanted["workload_params"], wanted["workload_values"])
    size, width, device = wanted["micro_batch"], wanted["width"], torch.device(wanted["device"])
    values, per_tick, batch = wanted["workload_values"], wanted["per_tick"], wanted["batch"]
    name = key(wanted["workload"], wanted["workload_params"], size, place_of(device), per_tick, values)
    found = stored(name)
    known = found.of_model(wanted["model"]) if found is not None else None
    same = [one for one in known.compiled if (one.width, one.threads) == (width, wanted["threads"])] if known else []
    ready = {rule for one in same for rule in one.rules}
    missing = {rule: params for rule, params in wanted["rules"].items() if rule not in ready}
    if not missing:
        return COMPILED  # another process was here before
    ticks = steps_every(batch, per_tick)
    same_kind: Json = {"micro_batch": size, "per_tick": per_tick, "device": device, "batch": batch}

    begin = time.process_time()
    importlib.import_module(COMPILER)
    imported = time.process_time() - begin

    def build() -> Stack:
        return Stack(task, width=width, path="compiled", **same_kind)

    stack = build()
    if stack.path != "compiled":
        return NOT_COMPILED
    compiled = []
    for rule, params in missing.items():
        try:
            slot = stack.admit(TrialSpec(rule, {**params, "batch_size": stack.tick_examples}, 0, 10**9))
            stack.tick()
        except Exception as error:  # a rule that refuses this model, or the compiler on it: the others go on
            log.warning("not compiled: %s", error, extra={"action": "warm", "rule": rule})
            continue
        if slot is not None and stack.slot_of(rule) == slot:
            stack.evict(slot)
        compiled.append(rule)
    if not compiled:
        return NOT_COMPILED
    path, base_width = wanted["base"]
    base = Stack(task, width=base_width, path=path, **same_kind)
    rivals = (stack, base)
    for rival in rivals:
        fill(rival, str(missing[compiled[0]]["optimizer"]), ticks_per_step=ticks)
    turns = [[tick_s(rival, ticks) for rival in rivals] for _ in range(TURNS)]
    cells = [
        Cell(rival.path, rival.width, min(times), 1, wanted["threads"])
        for rival, times in zip(rivals, zip(*turns, strict=True), strict=True)
    ]
    begin = time.process_time()
    torch.compiler.reset()
    build().close()
    built = time.process_time() - begin
    one = Compiled(width, wanted["threads"], tuple(compiled), built, imported)
    learn(name, *cells, model=wanted["model"], compiled=one)
    return COMPILED


if __name__ == "__main__":
    sys.exit(main())
