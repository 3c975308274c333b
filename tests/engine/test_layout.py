"""Every row and every parameter starts at a multiple of 64 bytes, and views are the buffer itself."""

import pytest
import torch

from tuner.engine.layout import ALIGNMENT_BYTES, Layout

SHAPES = {"weight": torch.Size([3, 5]), "scale": torch.Size([]), "bias": torch.Size([17])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alignment_and_views(dtype: torch.dtype) -> None:
    layout = Layout(SHAPES, dtype)
    flat = layout.allocate(4, torch.device("cpu"))
    values = {name: torch.randn(shape, dtype=dtype) for name, shape in SHAPES.items()}
    layout.write(flat[2], values)
    for name, view in layout.views(flat).items():
        assert view.shape == (4, *SHAPES[name])
        assert torch.equal(view[2], values[name])
        assert all(row.data_ptr() % ALIGNMENT_BYTES == 0 for row in view)
    assert {name: view.shape for name, view in layout.slot_views(flat[2]).items()} == SHAPES
    assert float(flat.abs().sum()) == pytest.approx(float(sum(value.abs().sum() for value in values.values())))
