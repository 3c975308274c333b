"""Numbers as users hold them: Python's own, NumPy's scalars, tensors of one element."""

from typing import Any


def plain(value: Any) -> Any:
    """Return Python's own number or text for a NumPy or torch scalar or an array of one element; else the value."""
    if getattr(value, "shape", None) is not None and hasattr(value, "item"):
        sizes = {int(size) for size in value.shape}
        return value.item() if sizes <= {1} else value
    return value
