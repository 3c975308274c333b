"""A snapshot as bytes and back: safetensors with JSON in its header, never pickle.

What is written depends on the trial alone, not on its slot, its neighbours or the stack's width, so the bytes restore
bit for bit into any of them. Floats travel in JSON as Python prints them, which reads back to the same bits. The key is
left out: it names the attempt, and the next attempt has another one.
"""

import json
from typing import Any

from torch import Tensor

from tuner.engine.architecture import Tensors
from tuner.engine.progress import Progress
from tuner.engine.snapshot import Snapshot
from tuner.engine.trial import TrialSpec
from tuner.store import Damaged

FORMAT = 1
_HEADER = "tuner"


def encode(snapshot: Snapshot) -> bytes:
    """Write a snapshot down. Its tensors may live on any device."""
    tensors = {"params": snapshot.params, "sums": snapshot.sums}
    tensors |= {f"slab.{i}": slab for i, slab in enumerate(snapshot.slabs)}
    if snapshot.pool is not None:
        tensors["pool"] = snapshot.pool
    tensors |= {f"extra.{name}": tensor for name, tensor in snapshot.extras.items()}
    header = {
        "format": FORMAT,
        "spec": _identity(snapshot.spec),
        "micro_batch": snapshot.progress.micro_batch,
        "progress": snapshot.progress.state(),
        "elapsed_s": snapshot.elapsed_s,
        "step": snapshot.step,
        "tick_in_step": snapshot.tick_in_step,
    }
    return encode_tensors(tensors, {_HEADER: json.dumps(header)})


def decode(content: bytes, spec: TrialSpec) -> Snapshot:
    """Read a snapshot back, for the trial that it was taken of.

    Raises:
        Damaged: it cannot be read, or is of another trial or format.
    """
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_HEADER])
        tensors = decode_tensors(content)
        if header["format"] != FORMAT:
            raise Damaged(f"the checkpoint has format {header['format']}; this version reads {FORMAT}")
        if header["spec"] != _identity(spec):
            raise Damaged("the checkpoint is of another configuration, seed or budget")
        return _snapshot(header, tensors, spec)
    except Damaged:
        raise
    except Exception as error:  # whatever is wrong with a file, its readers say it in their own ways
        raise Damaged(f"the checkpoint cannot be read: {type(error).__name__}: {error}") from error


def encode_tensors(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    """Write named tensors as a safetensors file."""
    from safetensors.torch import save  # the engine itself runs where safetensors is absent

    content: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    return content


def decode_tensors(content: bytes) -> Tensors:
    """Read named tensors from a safetensors file. Raises what safetensors raises."""
    from safetensors.torch import load

    tensors: dict[str, Tensor] = load(content)
    return tensors


def _snapshot(header: dict[str, Any], tensors: Tensors, spec: TrialSpec) -> Snapshot:
    slabs = sorted((name for name in tensors if name.startswith("slab.")), key=lambda name: int(name[5:]))
    extras = {name.removeprefix("extra."): tensors[name] for name in tensors if name.startswith("extra.")}
    return Snapshot(
        spec=spec,
        params=tensors["params"],
        sums=tensors["sums"],
        slabs=tuple(tensors[name] for name in slabs),
        pool=tensors.get("pool"),
        extras=extras,
        progress=Progress.of_state(spec, header["micro_batch"], header["progress"]),
        elapsed_s=header["elapsed_s"],
        step=header["step"],
        tick_in_step=header["tick_in_step"],
    )


def _identity(spec: TrialSpec) -> dict[str, Any]:
    """What two attempts of one trial have in common, as it reads back from JSON."""
    identity = {
        "params": dict(sorted(spec.params.items())),
        "seed": spec.seed,
        "examples": spec.examples,
        "rungs": list(spec.rungs),
        "report_every": spec.report_every,
        "divergence_factor": spec.divergence_factor,
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain
