"""Small image data sets on disk, in the real formats."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(
    folder: Path, *, zipped: bool = False, train: int = 40, valid: int = 12, size: int = 28
) -> dict[str, NDArray[np.uint8]]:
    """Write the four files with random images of size x size; return it: `train-` and `t10k-`, images and labels."""
    generator = np.random.default_rng(0)
    content = {}
    for part, count in (("train", train), ("t10k", valid)):
        content[f"{part}-images-idx3-ubyte"] = generator.integers(0, 256, (count, size, size), dtype=np.uint8)
        content[f"{part}-labels-idx1-ubyte"] = generator.integers(0, 10, count, dtype=np.uint8)
    for name, array in content.items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return content


def write_cifar(folder: Path, records: int = 8) -> dict[str, NDArray[np.uint8]]:
    """Write the six files of `records` random records; return them by name, [records, 3073]."""
    generator = np.random.default_rng(1)
    content = {}
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        labels = generator.integers(0, 10, (records, 1), dtype=np.uint8)
        pixels = generator.integers(0, 256, (records, 3072), dtype=np.uint8)
        content[name] = np.concatenate([labels, pixels], 1)
        (folder / name).write_bytes(content[name].tobytes())
    return content
