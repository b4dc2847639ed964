"""Data files: what ships is what UCI published, and every malformed file is one clear DataError."""

import functools
import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import adjoint.data.idx
from adjoint.data import load_digits, load_fashion_mnist
from adjoint.data.idx import read_idx, write_idx
from adjoint.errors import ConfigError, DataError

PACKAGE_DATA = Path(adjoint.data.idx.__file__).parent / "optdigits"
FASHION_NAMES = [f"{half}-{kind}-ubyte.gz" for half in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx_bytes(array, ndim=None, shape=None):
    """An idx stream; ndim and shape may lie about the array."""
    shape = array.shape if shape is None else shape
    head = bytes([0, 0, 8, len(shape) if ndim is None else ndim])
    return head + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path):
    """A small folder in the form of Fashion-MNIST: 7 training and 5 test images."""
    rng = np.random.default_rng(0)
    for half, count in (("train", 7), ("t10k", 5)):
        write_idx(tmp_path / f"{half}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(tmp_path / f"{half}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    return tmp_path


def test_digits_are_those_that_uci_published():
    digits = load_digits()
    assert digits.train_x.shape == (3823, 64) and digits.test_x.shape == (1797, 64)
    assert digits.train_x.dtype == np.float32 and digits.train_y.dtype == np.int64
    assert digits.train_x.min() == 0 and digits.train_x.max() == 1
    assert np.array_equal(np.unique(digits.train_x * 16), np.arange(17))
    assert np.bincount(digits.train_y).tolist() == [376, 389, 380, 389, 387, 376, 377, 387, 380, 382]
    assert np.bincount(digits.test_y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (digits.train_x[0] * 16)[:8].tolist() == [0, 1, 6, 15, 12, 1, 0, 0] and digits.train_y[0] == 0


def test_one_nearest_neighbour_has_the_published_accuracy():
    digits = load_digits()
    train, test = digits.train_x * 16, digits.test_x * 16
    squares = (train * train).sum(1)[None, :] - 2 * (test @ train.T)
    accuracy = np.mean(digits.train_y[squares.argmin(1)] == digits.test_y)
    assert round(100 * accuracy, 2) == 98.00


def test_the_files_take_less_than_200_kilobytes():
    assert sum(path.stat().st_size for path in PACKAGE_DATA.iterdir()) < 200_000


def test_a_changed_package_file_is_noticed(tmp_path):
    stored = bytearray((PACKAGE_DATA / "train-labels.idx.gz").read_bytes())
    stored[9] ^= 1          # the operating-system byte of the gzip header: everything still unpacks
    (tmp_path / "labels.gz").write_bytes(stored)
    assert len(read_idx(tmp_path / "labels.gz", 1)) == 3823
    with pytest.raises(DataError, match="checksum"):
        read_idx(tmp_path / "labels.gz", 1, "0" * 64)


def test_fashion_mnist_reads_its_four_files(fashion):
    dataset = load_fashion_mnist(fashion)
    assert dataset.train_x.shape == (7, 784) and dataset.test_y.tolist() == [0, 1, 2, 3, 4]
    assert dataset.image_shape == (28, 28) and dataset.classes[9] == "Ankle boot"
    assert dataset.train_x.dtype == np.float32 and dataset.train_x.max() <= 1


@pytest.mark.parametrize("name", FASHION_NAMES)
def test_a_missing_file_is_named(fashion, name):
    (fashion / name).unlink()
    with pytest.raises(DataError, match=name) as caught:
        load_fashion_mnist(fashion)
    assert "zalandoresearch" in str(caught.value) and len(str(caught.value).splitlines()) <= 4


@functools.cache
def corruptions():
    """(what is done to the stored bytes, what the error says)."""
    zeros = np.zeros((5, 28, 28), np.uint8)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 28, 28), np.uint8)
    plain = idx_bytes(pixels)
    return {
        "empty": (b"", "starts with nothing"),
        "not gzip": (b"hello, this is text", "damaged"),
        "not compressed": (plain, "damaged"),
        "truncated gzip": (gzip.compress(plain)[:-200], "damaged"),
        "truncated trailer": (gzip.compress(plain)[:-3], "damaged"),
        "wrong gzip checksum": (gzip.compress(plain)[:-8] + b"\0" * 8, "damaged"),
        "wrong magic": (gzip.compress(b"\0\0\x0d" + plain[3:]), "starts with 00 00 0d 03"),
        "labels for images": (gzip.compress(idx_bytes(np.zeros(5, np.uint8))), "starts with 00 00 08 01"),
        "head cut": (gzip.compress(plain[:9]), "not an idx file"),
        "too few elements": (gzip.compress(plain[:-1]), "promises 3920 elements"),
        "too many elements": (gzip.compress(plain + b"\0"), "and more"),
        "bomb": (gzip.compress(idx_bytes(np.zeros((2000, 28, 28), np.uint8))), "believed"),
        "huge promise": (gzip.compress(idx_bytes(pixels, shape=(2**32 - 1,) * 3)), "believed"),
        "other image size": (gzip.compress(idx_bytes(pixels[:, :27].copy())), "shape"),
        "no images": (gzip.compress(idx_bytes(zeros[:0])), "5 labels for 0 images"),
        "fewer images than labels": (gzip.compress(idx_bytes(pixels[:4])), "5 labels for 4 images"),
    }


@pytest.mark.parametrize("case", corruptions())
def test_malformed_images(fashion, case):
    stored, message = corruptions()[case]
    (fashion / "t10k-images-idx3-ubyte.gz").write_bytes(stored)
    with pytest.raises(DataError, match=message) as caught:
        load_fashion_mnist(fashion)
    text = str(caught.value)
    assert "t10k-" in text and len(text.splitlines()) == 3 and "array(" not in text


def test_every_truncation_is_rejected(tmp_path):
    stored = gzip.compress(idx_bytes(np.arange(30, dtype=np.uint8).reshape(5, 3, 2)))
    for length in range(len(stored)):
        (tmp_path / "images.gz").write_bytes(stored[:length])
        with pytest.raises(DataError):
            read_idx(tmp_path / "images.gz", 3)


def test_a_label_outside_its_range_is_named(fashion):
    write_idx(fashion / "train-labels-idx1-ubyte.gz", np.array([0, 1, 2, 10, 4, 5, 6], np.uint8))
    with pytest.raises(DataError, match="example 3 has a label 10; labels go from 0 to 9"):
        load_fashion_mnist(fashion)


def test_folders_and_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.gz")
    for name in ("pipe.gz", "."):
        with pytest.raises(DataError):
            read_idx(tmp_path / name, 1)


def test_writing_gives_the_same_bytes_and_reads_back(tmp_path):
    array = np.random.default_rng(2).integers(0, 17, (5, 4, 3), np.uint8)
    first, second = write_idx(tmp_path / "a.gz", array), write_idx(tmp_path / "b.gz", array)
    assert first == second and np.array_equal(read_idx(tmp_path / "a.gz", 3, first), array)


def test_hold_out_splits_without_loss_and_repeats():
    digits = load_digits()
    rest, x, y = digits.hold_out(500, seed=4)
    assert len(x) == len(y) == 500 and len(rest.train_x) == 3323
    assert sorted([*rest.train_y, *y]) == sorted(digits.train_y)
    assert np.array_equal(digits.hold_out(500, seed=4)[1], x) and not np.array_equal(digits.hold_out(500, seed=5)[1], x)
    with pytest.raises(ConfigError, match="3823"):
        digits.hold_out(3823)
