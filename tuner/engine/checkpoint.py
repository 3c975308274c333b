"""A snapshot as bytes and back: safetensors with JSON in its header, never pickle.

The content depends only on the trial, not on its slot, its neighbours or the stack's width, so it restores bit for bit
into any slot of any stack. What all trials share, such as a frozen base, is not in it: digests tell whether the stack
that restores it has the same. Floats are stored in JSON as Python prints them, which parses back to the same bits. The
key is left out: it names the attempt, and the next attempt has a different key.
"""

import json
from typing import Any

from torch import Tensor

from tuner.engine.architecture import Tensors
from tuner.engine.progress import Progress
from tuner.engine.snapshot import Snapshot
from tuner.engine.trial import TrialSpec
from tuner.store import Damaged

FORMAT = 2
"""1: the same fields, but the trial saw its examples in another order."""
_HEADER = "tuner"


def encode(snapshot: Snapshot) -> bytes:
    """Serialise a snapshot. Its tensors may be on any device."""
    tensors = {"params": snapshot.params, "sums": snapshot.sums}
    tensors |= {f"slab.{i}": slab for i, slab in enumerate(snapshot.slabs)}
    if snapshot.pool is not None:
        tensors["pool"] = snapshot.pool
    tensors |= {f"extra.{name}": tensor for name, tensor in snapshot.extras.items()}
    header = {
        "format": FORMAT,
        "spec": _identity(snapshot.spec),
        "shared": dict(snapshot.shared),
        "micro_batch": snapshot.progress.micro_batch,
        "per_tick": snapshot.progress.per_tick,
        "progress": snapshot.progress.state(),
        "elapsed_s": snapshot.elapsed_s,
        "step": snapshot.step,
        "tick_in_step": snapshot.tick_in_step,
    }
    return encode_tensors(tensors, {_HEADER: json.dumps(header)})


def decode(content: bytes, spec: TrialSpec) -> Snapshot:
    """Parse a snapshot, for the trial from which it was taken.

    Raises:
        Damaged: it cannot be read, or belongs to another trial or format.
    """
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_HEADER])
        tensors = decode_tensors(content)
        if header["format"] != FORMAT:
            raise Damaged(f"the checkpoint has format {header['format']}; this version reads {FORMAT}")
        if header["spec"] != _identity(spec):
            raise Damaged("the checkpoint belongs to another configuration, seed or budget")
        return _snapshot(header, tensors, spec)
    except Damaged:
        raise
    except Exception as error:  # readers raise various exceptions for a damaged file
        raise Damaged(f"the checkpoint cannot be read: {type(error).__name__}: {error}") from error


def encode_tensors(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    """Write named tensors as a safetensors file."""
    from safetensors.torch import save  # the engine itself must run without safetensors

    content: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    return content


def decode_tensors(content: bytes) -> Tensors:
    """Read named tensors from a safetensors file. Raises the exceptions of safetensors."""
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
        shared=header.get("shared", {}),  # older ones have all tensors among the extras
        progress=Progress.of_state(spec, header["micro_batch"], header.get("per_tick", 1), header["progress"]),
        elapsed_s=header["elapsed_s"],
        step=header["step"],
        tick_in_step=header["tick_in_step"],
    )


def _identity(spec: TrialSpec) -> dict[str, Any]:
    """Return the fields that two attempts of one trial share, in the form parsed from JSON."""
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
