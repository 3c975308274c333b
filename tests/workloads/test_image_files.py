"""Readers of IDX and CIFAR-10 files: what was written is read, and every damage is named."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import idx, write_cifar, write_mnist

from tuner.workloads.image_files import DataFault, read_idx, read_images
from tuner.workloads.images import Standardise


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_read_as_it_was_written(tmp_path: Path, zipped: bool) -> None:
    content = write_mnist(tmp_path, zipped=zipped)
    found = read_images(str(tmp_path))
    for (images, labels), part in ((found.train, "train"), (found.valid, "t10k")):
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert (images[:, 0].numpy() == content[f"{part}-images-idx3-ubyte"]).all()
        assert (labels.numpy() == content[f"{part}-labels-idx1-ubyte"]).all()


def test_names_with_a_dot_are_found(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert len(read_images(str(tmp_path)).train[0]) == 40


def test_cifar_is_read_as_it_was_written(tmp_path: Path) -> None:
    content = write_cifar(tmp_path)
    found = read_images(str(tmp_path))
    assert found.train[0].shape == (40, 3, 32, 32) and found.valid[0].shape == (8, 3, 32, 32)
    third = content["data_batch_3.bin"]
    for record, image, label in zip(third, found.train[0][16:24], found.train[1][16:24], strict=True):
        assert int(label) == record[0]
        assert int(image[2, 5, 7]) == record[1 + 2 * 1024 + 5 * 32 + 7]
    assert found.valid[1].tolist() == content["test_batch.bin"][:, 0].tolist()


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes())) and None  # type: ignore[func-returns-value]


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / LABELS).unlink(), "lacks the file t10k-labels-idx1-ubyte"),
        (change(IMAGES, lambda b: b"\x1f\x8b" + b[2:]), "begins with 1f 8b 08 03; expected 00 00 08"),
        (change(IMAGES, lambda b: b[:2] + b"\x0d" + b[3:]), "begins with 00 00 0d 03"),
        (change(IMAGES, lambda b: b""), "begins with nothing"),
        (change(IMAGES, lambda b: b[:9]), "ends within its header: it has 9 bytes; expected at least 16"),
        (change(IMAGES, lambda b: b[:-1]), "has 31375 bytes; expected 31376 for an array of \\[40, 28, 28\\]"),
        (change(IMAGES, lambda b: b + b"\0"), "has 31377 bytes"),
        (change(IMAGES, lambda b: idx(np.zeros((40, 784), np.uint8))), "arrays of \\[40, 784\\] and \\[40\\]"),
        (change(LABELS, lambda b: idx(np.zeros(11, np.uint8))), "\\[12, 28, 28\\] and \\[11\\]"),
        (change(LABELS, lambda b: idx(np.full(12, 10, np.uint8))), "contains the label 10; expected 0 to 9"),
    ],
)
def test_damaged_mnist_files_are_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_mnist(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataFault, match=message):
        read_images(str(tmp_path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "data_batch_4.bin").unlink(), "lacks the file data_batch_4.bin"),
        (change("test_batch.bin", lambda b: b[:-5]), "test_batch.bin has 24579 bytes; expected a multiple of 3073"),
        (change("test_batch.bin", lambda b: b""), "has 0 bytes"),
        (change("data_batch_2.bin", lambda b: b"\xff" + b[1:]), "contains the label 255"),
    ],
)
def test_damaged_cifar_files_are_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_cifar(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataFault, match=message):
        read_images(str(tmp_path))


def test_damaged_archives_and_missing_directories_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(idx(np.arange(200, dtype=np.uint8)))
    for content in (whole[:-20], b"no archive", whole[:20] + b"\0\0\0\0" + whole[24:]):
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(DataFault, match=r"a\.gz cannot be decompressed"):
            read_idx(tmp_path / "a.gz")
    with pytest.raises(DataFault, match="contains neither train-images-idx3-ubyte"):
        read_images(str(tmp_path))
    with pytest.raises(DataFault, match="is not a directory on this worker"):
        read_images(str(tmp_path / "nowhere"))


def test_pickles_are_not_looked_at(tmp_path: Path) -> None:
    """CIFAR-10's Python version has the same names without .bin."""
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(DataFault, match="binary version"):
        read_images(str(tmp_path))


def test_standardised_images_have_mean_0_and_deviation_1() -> None:
    pixels = torch.randint(0, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels[:, 2] = 7  # a constant channel
    output = Standardise(*Standardise.statistics(pixels)).double()(pixels)
    assert output[:, :2].mean((0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert output[:, :2].std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1], abs=1e-6)
    assert float(output[:, 2].abs().max()) < 1e-6
