"""Readers of image data sets on disk: IDX (MNIST, Fashion-MNIST; plain or gzipped) and CIFAR-10's binary version.

Sources: the format section of http://yann.lecun.com/exdb/mnist/ (magic 0, 0, type, number of dims, then the sizes as
big-endian 32-bit numbers, then the data) and of https://www.cs.toronto.edu/~kriz/cifar.html (records of one label byte
and 3,072 pixel bytes: red, green, blue planes of 32 x 32).

Nothing is unpickled: the Python version of CIFAR-10 is not supported. Only files with the names below are opened. Every
fault is a `DataFault` that gives the file, what was found and what was expected.
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner.errors import TunerError

Bytes = NDArray[np.uint8]

IDX_UNSIGNED_BYTE = 8
CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST = ("test_batch.bin",)
CLASSES = 10


class DataFault(TunerError):
    """The files on this machine are missing or damaged; another worker may have them."""


@dataclass(frozen=True)
class Images:
    """Images [n, channels, height, width] in uint8 and labels [n] in int64, for training and for validation."""

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]


def read_images(directory: str) -> Images:
    """Read the data set in a directory: MNIST's or Fashion-MNIST's four files, or CIFAR-10's six.

    Raises `DataFault` if neither exists, or if a file does not match its name.
    """
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        raise _fault(f"{directory!r} is not a directory on this worker; expected the one with the data files")
    if _find(folder, "train-images-idx3-ubyte") is not None:
        return Images(_read_mnist(folder, "train"), _read_mnist(folder, "t10k"))
    if (folder / CIFAR_TRAIN[0]).is_file():
        return Images(_read_cifar(folder, CIFAR_TRAIN), _read_cifar(folder, CIFAR_TEST))
    raise _fault(
        f"{directory!r} contains neither train-images-idx3-ubyte[.gz] (MNIST, Fashion-MNIST) "
        f"nor {CIFAR_TRAIN[0]} (CIFAR-10, binary version)"
    )


def read_idx(path: Path) -> Bytes:
    """Return the array of an IDX file of unsigned bytes; a name that ends in .gz is decompressed.

    Raises `DataFault` for another magic number or type, and for too few or too many bytes.
    """
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != IDX_UNSIGNED_BYTE or not content[3]:
        raise _fault(f"{path} begins with {content[:4].hex(' ') or 'nothing'}; expected 00 00 08 and a number of dims")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise _fault(f"{path} ends within its header: it has {len(content)} bytes; expected at least {header}")
    shape: tuple[int, ...] = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise _fault(f"{path} has {len(content)} bytes; expected {expected} for an array of {list(shape)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images, labels = (
        read_idx(_need(folder, f"{part}-images-idx3-ubyte")),
        read_idx(_need(folder, f"{part}-labels-idx1-ubyte")),
    )
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        shapes = f"{list(images.shape)} and {list(labels.shape)}"
        raise _fault(f"the {part} files in {folder} contain arrays of {shapes}; expected [n, height, width] and [n]")
    return _tensors(folder, images[:, None], labels)


def _read_cifar(folder: Path, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    parts = []
    for name in names:
        content = _content(_need(folder, name))
        if not content or len(content) % CIFAR_RECORD:
            raise _fault(f"{folder / name} has {len(content)} bytes; expected a multiple of {CIFAR_RECORD}")
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD))
    records = np.concatenate(parts)
    return _tensors(folder, records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])


def _tensors(folder: Path, images: Bytes, labels: Bytes) -> tuple[Tensor, Tensor]:
    if not len(images):
        raise _fault(f"a file in {folder} contains no images; expected at least one")
    if labels.max() >= CLASSES:
        raise _fault(f"a file in {folder} contains the label {labels.max()}; expected 0 to {CLASSES - 1}")
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _fault(f"{path} cannot be decompressed: {error}") from error
    except OSError as error:
        raise _fault(f"{path} cannot be read: {error.strerror}") from error


def _find(folder: Path, name: str) -> Path | None:
    """Return the file under its published name, possibly gzipped or with the dot that some archives use."""
    dotted = name.replace("-idx", ".idx")
    candidates = (folder / f"{stem}{suffix}" for stem in (name, dotted) for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _need(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise _fault(f"{folder} lacks the file {name}")
    return path


def _fault(message: str) -> DataFault:
    return DataFault(f"workload.params.directory: {message}")
