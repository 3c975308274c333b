"""Numbers as Plotly typed arrays: `{"dtype": "f4", "bdata": base64}`.

This takes a tenth of the size and time of JSON numbers, and is the only form that can carry NaN, which Plotly reads as
a gap. Little-endian on every machine, as Plotly expects.
"""

import base64
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Typed = dict[str, str]
"""A typed array; `shape` is "rows, columns" when it has two axes."""


def floats(values: ArrayLike) -> Typed:
    """Encode as float32 (7 digits): enough for drawing and hover text. Infinities become NaN, drawn as a gap."""
    array = np.asarray(values, dtype="<f8")
    with np.errstate(over="ignore"):  # values beyond float32 are off the figure anyway
        narrow = array.astype("<f4")
    return _typed("f4", np.where(np.isfinite(narrow), narrow, np.float32(np.nan)))


def integers(values: ArrayLike) -> Typed:
    """Encode whole numbers >= 0 in the smallest type that holds them all (one or two axes)."""
    array = np.asarray(values, dtype="<i8")
    top = int(array.max()) if array.size else 0
    for dtype, bits in (("u1", 8), ("u2", 16), ("u4", 32)):
        if top < 2**bits:
            return _typed(dtype, array.astype(f"<{dtype}"))
    return _typed("f8", array.astype("<f8"))


def decode(typed: Typed) -> NDArray[Any]:
    """Read back what `floats` or `integers` wrote; for notebooks and tests."""
    array = np.frombuffer(base64.b64decode(typed["bdata"]), dtype=np.dtype("<" + typed["dtype"]))
    return array.reshape([int(n) for n in typed["shape"].split(",")]) if "shape" in typed else array


def _typed(dtype: str, array: NDArray[Any]) -> Typed:
    out: Typed = {"dtype": dtype, "bdata": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")}
    if array.ndim == 2:
        out["shape"] = f"{array.shape[0]}, {array.shape[1]}"
    return out
