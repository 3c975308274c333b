"""What a user without Tuner runs: Optuna with SQLite in N processes, or a plain loop over given trials. A script.

    python benchmarks/_sweep_peer.py JOB.json

The job names workload, search space, budget and number of processes. torch is imported once, then the processes are
forked (on a GPU: spawned). Every trial is a plain PyTorch loop with torch.optim; it starts from the same weights, sees
the same examples in the same order, and is evaluated and reported at the same points as Tuner's. The plain loop prints
its final losses as JSON.
"""

import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn

from tuner import workloads

Params = dict[str, Any]


class Training:
    """A task, its budget, and the order of its examples."""

    def __init__(self, job: dict[str, Any]) -> None:
        for source in job["workloads"]:
            workloads.import_user_workloads(source)
        self.task = workloads.load(job["workload"], job["workload_params"])
        self.device, self.budget, self.evaluations = job["device"], job["budget"], job["evaluations"]
        self.weights_seed = job["weights_seed"]
        self.train = tuple(torch.as_tensor(part).to(self.device) for part in self.task.train)
        self.valid = tuple(part.to(self.device) for part in self.task.valid)
        self.order = torch.from_numpy(np.load(job["order"])).to(self.device)

    def run(self, params: Params, report: Callable[[float, int], None]) -> float:
        """Train one configuration; return its validation loss at the end, not finite if it diverged."""
        model = self.task.build_model(self.weights_seed).to(self.device)
        batch, loss_of = params["batch_size"], self.task.loss
        steps = self.budget // batch
        due = {max(1, -(-self.budget * turn // (self.evaluations * batch))) for turn in range(1, self.evaluations)}
        optimizers = list(optimizers_for(model, params))
        schedulers = [] if params["schedule"] == "constant" else [scheduled(o, params, steps) for o in optimizers]
        value = math.nan
        for step, index in enumerate(self.order[: steps * batch].view(steps, batch), 1):
            inputs, *targets = (part[index] for part in self.train)
            loss = loss_of(model(inputs), *targets)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
            if step in due or step == steps:
                value = self.evaluate(model)
                report(value, step)
                if not math.isfinite(value):
                    return value
        return value

    def evaluate(self, model: nn.Module) -> float:
        """Return the validation loss; compute the other metrics too."""
        model.eval()
        with torch.no_grad():
            inputs, *targets = self.valid
            output = model(inputs)
            for metric in (self.task.metrics or {}).values():
                float(metric(output, *targets))
            value = float(self.task.loss(output, *targets))
        model.train()
        return value


def optimizers_for(model: nn.Module, params: Params) -> Iterator[torch.optim.Optimizer]:
    """Give the optimizers of torch.optim for a configuration."""
    name, lr, decay = params["optimizer"], params["lr"], params["weight_decay"]
    if name in ("sgd", "momentum", "nesterov"):
        momentum, nesterov = params.get("momentum", 0.0), name == "nesterov"
        yield torch.optim.SGD(
            model.parameters(), lr, momentum=momentum, weight_decay=decay, nesterov=nesterov, fused=True
        )
        return
    betas, eps = (params["beta1"], params["beta2"]), params["eps"]
    if name == "adamw":
        yield torch.optim.AdamW(model.parameters(), lr, betas, eps, decay, fused=True)
        return
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    hidden = [p for p in model.parameters() if p.dim() == 2 and p is not head.weight]
    others = [p for p in model.parameters() if p.dim() != 2 or p is head.weight]
    yield torch.optim.Muon(hidden, lr, decay, params["momentum"])
    yield torch.optim.AdamW(others, lr * params["fallback_lr_ratio"], betas, eps, decay, fused=True)


def scheduled(optimizer: torch.optim.Optimizer, params: Params, total: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Attach a schedule: a warm-up, then linear, cosine, or constant with a linear fall at the end."""
    warm, name = params["warmup"] * total, params["schedule"]
    start = (1 - params["cooldown"]) * total if name == "wsd" else warm

    def factor(t: int) -> float:
        progress = min(max((t - start) / (total - start), 0.0), 1.0)
        shape = 0.5 + 0.5 * math.cos(math.pi * progress) if name == "cosine" else 1 - progress
        return min(1.0, (t + 1) / max(warm, 1.0)) * shape

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def suggested(trial: Any, spaces: dict[str, dict[str, Any]]) -> Params:
    """Ask Optuna for a configuration of one of the optimizers."""
    names = list(spaces)
    optimizer = trial.suggest_categorical("optimizer", names) if len(names) > 1 else names[0]
    params: Params = {"optimizer": optimizer}
    for name, domain in spaces[optimizer].items():
        label = f"{optimizer}_{name}"
        if "value" in domain:
            params[name] = domain["value"]
        elif "values" in domain:
            params[name] = trial.suggest_categorical(label, domain["values"])
        elif domain["scaling"] == "reverse_log":
            params[name] = 1 - trial.suggest_float(label, 1 - domain["max"], 1 - domain["min"], log=True)
        else:
            params[name] = trial.suggest_float(label, domain["min"], domain["max"], log=domain["scaling"] == "log")
    return params


def optimise(job: dict[str, Any], number: int) -> None:
    """Run one process's share of the study."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(job["threads"])
    training = Training(job)

    def objective(trial: optuna.Trial) -> float:
        value = training.run(suggested(trial, job["spaces"]), trial.report)
        if not math.isfinite(value):
            raise optuna.TrialPruned
        return value

    share = job["trials"] // job["processes"] + (number < job["trials"] % job["processes"])
    sampler = optuna.samplers.RandomSampler(seed=number)
    patient = {
        "connect_args": {"timeout": 60}
    }  # as Optuna advises: with the default processes fail on a locked database
    storage = optuna.storages.RDBStorage(job["storage"], engine_kwargs=patient)
    study = optuna.load_study(study_name=job["name"], storage=storage, sampler=sampler)
    study.optimize(objective, n_trials=share)


def main() -> None:
    """Run the job."""
    job = json.loads(Path(sys.argv[1]).read_text())
    if job["kind"] == "loop":
        torch.set_num_threads(job["threads"])
        training = Training(job)
        print(json.dumps([training.run(params, lambda value, step: None) for params in job["configurations"]]))
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name=job["name"], storage=job["storage"])
    if job["processes"] == 1:
        optimise(job, 0)
        return
    context = multiprocessing.get_context("fork" if job["device"] == "cpu" else "spawn")
    processes = [context.Process(target=optimise, args=(job, number)) for number in range(job["processes"])]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process of the study failed")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # as Tuner's workers end: taking torch down in order is slow
