"""One step of our optimizers compared with the fastest public ones: time ratios with their spread.

    python benchmarks/optimizers.py [--quick] [--device cuda] [--threads N]

Peers: torch.optim (fused where it has a fused kernel) and pytorch_optimizer. Both sides step the same shapes with the
same gradients alternately in one process, so that other load affects both; start-up (state, compiling) is excluded.
Matrix optimizers use the same number of Newton-Schulz steps, in bfloat16, and the same refresh period on both sides.
The stack's figure is the masked pass over 64 slots against one flat fused step of as many elements. Prints one table,
writes results/optimizers.json, and ends with a line per promised figure.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from tuner.optimizers import build

warnings.filterwarnings("ignore")
Step = Callable[[], Any]
SLOTS = 64


class Race:
    """Steps of several sides, timed alternately."""

    def __init__(self, device: str, turns: int) -> None:
        self.device = device
        self.turns = turns
        self.rows: dict[str, dict[str, list[float]]] = {}

    def run(self, name: str, ours: Step, peers: dict[str, Step], steps: int) -> float:
        """Time all sides, `steps` at a time; return the median of our time divided by the fastest peer's."""
        sides = {"ours": ours, **peers}
        for step in sides.values():
            for _ in range(max(2, steps)):
                step()
        times: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(self.turns):
            order = list(sides) if turn % 2 == 0 else list(reversed(sides))
            for side in order:
                times[side].append(self._seconds(sides[side], steps) / steps)
        self.rows[name] = times
        best = min(peers, key=lambda side: statistics.median(times[side]))
        ratios = [own / peer for own, peer in zip(times["ours"], times[best], strict=True)]
        middle = statistics.median(ratios)
        print(
            f"{name:<22}{1e3 * statistics.median(times['ours']):>10.2f}{1e3 * statistics.median(times[best]):>10.2f}"
            f"{middle:>9.3f}{min(ratios):>9.3f}{max(ratios):>9.3f}  {best}"
        )
        return middle

    def _seconds(self, step: Step, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def transformer(layers: int, width: int, device: str) -> nn.Module:
    """Return a model with gradients; 8 layers of width 512 have 25.2 M parameters in 96 tensors."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.TransformerEncoderLayer(width, 8, 4 * width) for _ in range(layers)]).to(device)
    return graded(model)


def matrices(sizes: list[tuple[int, int]], device: str) -> nn.Module:
    """Return a model of plain matrices with gradients, for optimizers that only take matrices."""
    torch.manual_seed(0)
    model = nn.ParameterList([nn.Parameter(0.02 * torch.randn(size)) for size in sizes]).to(device)
    return graded(model)


def graded(model: nn.Module) -> nn.Module:
    """Give every parameter the same gradient on every side."""
    torch.manual_seed(1)
    for param in model.parameters():
        param.grad = 0.01 * torch.randn_like(param)
    return model


def elementwise(race: Race, device: str, steps: int) -> dict[str, float]:
    """Race elementwise rules on 25 M parameters."""
    import pytorch_optimizer

    def model() -> Any:
        return transformer(8, 512, device)

    found = {}
    pairs: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "adamw 25 M": ("adamw", {"lr": 1e-3}, {"torch fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True)}),
        "momentum 25 M": (
            "momentum",
            {"lr": 1e-2, "momentum": 0.9},
            {"torch fused": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True)},
        ),
        "lion 25 M": (
            "lion",
            {"lr": 1e-4},
            {"pytorch_optimizer": lambda p: pytorch_optimizer.Lion(p, lr=1e-4, foreach=True)},
        ),
    }
    for name, (rule, hp, peers) in pairs.items():
        found[name] = race.run(
            name,
            build(rule, model(), **hp).step,
            {peer: make(list(model().parameters())).step for peer, make in peers.items()},
            steps,
        )
    return found


def factored(race: Race, device: str, steps: int) -> dict[str, float]:
    """Race Adafactor on 25 M parameters."""
    import pytorch_optimizer

    def params() -> list[Tensor]:
        return list(transformer(8, 512, device).parameters())

    peers = {
        "torch": torch.optim.Adafactor(params(), lr=1e-2).step,
        "pytorch_optimizer": pytorch_optimizer.AdaFactor(params(), lr=1e-2, betas=(None, 0.999)).step,
    }
    return {"adafactor 25 M": race.run("adafactor 25 M", build("adafactor", params(), lr=1e-2).step, peers, steps)}


def matrix(race: Race, device: str, steps: int) -> dict[str, float]:
    """Race matrix rules on eight matrices of 512 to 1,024 rows and columns."""
    import pytorch_optimizer

    sizes = [(512, 512)] * 4 + [(1024, 512)] * 2 + [(512, 1024)] * 2

    def params() -> list[Tensor]:
        return list(matrices(sizes, device).parameters())

    def ours(rule: str, **hp: Any) -> Step:
        roles = {str(index): "matrix" for index in range(len(sizes))}
        named = [(str(index), param) for index, param in enumerate(params())]
        return build(rule, named, roles=roles, **hp).step  # type: ignore[arg-type]

    return {
        "muon": race.run(
            "muon",
            ours("muon", lr=0.02, weight_decay=0.1, precision="bfloat16"),
            {
                "torch": torch.optim.Muon(params(), lr=0.02, weight_decay=0.1).step,
                "pytorch_optimizer": pytorch_optimizer.Muon(
                    [{"params": params(), "use_muon": True}], lr=0.02, weight_decay=0.1
                ).step,
            },
            steps,
        ),
        "shampoo, refresh 10": race.run(
            "shampoo, refresh 10",
            ours("shampoo", lr=1e-3, refresh=10),
            {
                "pytorch_optimizer": pytorch_optimizer.Shampoo(
                    params(), lr=1e-3, preconditioning_compute_steps=10
                ).step,
                "pytorch_optimizer scalable": pytorch_optimizer.ScalableShampoo(
                    params(), lr=1e-3, start_preconditioning_step=1, preconditioning_compute_steps=10, block_size=1024
                ).step,
            },
            10,
        ),
        "soap, refresh 10": race.run(
            "soap, refresh 10",
            ours("soap", lr=3e-3, refresh=10),
            {"pytorch_optimizer": pytorch_optimizer.SOAP(params(), lr=3e-3, precondition_frequency=10).step},
            10,
        ),
    }


def stacked(race: Race, device: str, steps: int) -> dict[str, float]:
    """Race the masked pass of AdamW over 64 slots against torch's fused step over as many elements."""
    from tuner.engine.paths.compiled import MaskedUpdate
    from tuner.optimizers.rules.adamw import AdamW

    row = 25_165_824 // SLOTS
    rows = [torch.rand(SLOTS, row, device=device) * 0.01 for _ in range(4)]
    update = MaskedUpdate(AdamW({"flat": "vector"}), rows[0], torch.ones(row, dtype=torch.bool))
    due, counts = torch.ones(SLOTS, dtype=torch.bool, device=device), torch.ones(SLOTS, device=device)
    scalars = torch.full((SLOTS, len(update.scalar_names)), 0.5, device=device)
    param = nn.Parameter(torch.rand(SLOTS * row, device=device))
    param.grad = torch.rand_like(param)
    name = "64 slots, adamw"
    peer = torch.optim.AdamW([param], lr=1e-3, fused=True)
    ours = lambda: update.run(due, counts, scalars, rows[0], rows[1], rows[2:])  # noqa: E731
    return {name: race.run(name, ours, {"torch fused, flat": peer.step}, steps)}


def floor_ms(device: str) -> float:
    """Return the time to read 4 and write 3 numbers for each of 25.2 M parameters, at the rate of a scaling in place.

    A copy would be the wrong measure: most CPUs read what is about to be overwritten, so a copy moves three numbers.
    """
    numbers = torch.rand(25_219_072, device=device)
    times = []
    for _ in range(40):
        begin = time.perf_counter()
        numbers.mul_(0.999)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times) * 3.5


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less than 50 s")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    race = Race(options.device, 3 if options.quick else 15)
    steps = 2 if options.quick else 10
    print(f"{'ms per step':<22}{'ours':>10}{'peer':>10}{'ratio':>9}{'lowest':>9}{'highest':>9}  fastest peer")
    found: dict[str, float] = {}
    for part in (elementwise, factored, matrix, stacked):
        found |= part(race, options.device, steps)
    floor = floor_ms(options.device)
    print(f"\nfloor of an AdamW step on 25 M parameters (0.71 GB at the rate of scaling in place): {floor:.1f} ms")
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(),
               "threads": options.threads, "load": os.getloadavg(),
               "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()}  # fmt: skip
    path = (
        Path(__file__).parent / "results" / ("optimizers.json" if options.device == "cpu" else "optimizers-cuda.json")
    )
    record = {"machine": machine, "floor_ms": floor, "ratios": found, "seconds": race.rows}
    path.write_text(json.dumps(record, indent=1) + "\n")
    bounds = {"adamw 25 M": 1.05, "momentum 25 M": 1.05, "adafactor 25 M": 1.0, "64 slots, adamw": 1.3}
    bounds |= {name: 1.0 for name in ("muon", "shampoo, refresh 10", "soap, refresh 10")}
    for name, bound in bounds.items():
        value, label = found[name], name.replace(", ", "-").replace(" ", "-")
        print(f"bar {label} {value:.3f} <= {bound} {'ok' if value <= bound else 'short'}")


if __name__ == "__main__":
    main()
