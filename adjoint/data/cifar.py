"""CIFAR-10's "binary version": records of one label byte and 3,072 pixel bytes, the planes red, green and blue of 32 x 32.

Invariant: as datasets.py: images are float32 in [0, 1], one row each, labels int64 in [0, classes).
May import: errors, stored, datasets. Read next: augmentation.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .datasets import Dataset
from .stored import FETCH, LARGEST, inflate, read_stored, refuse

_IMAGE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_TRAINING, _TEST, _NAMES = "data_batch_1.bin.gz", "test_first2500.bin.gz", "batches.meta.txt"


def load_cifar10(folder: str | os.PathLike) -> Dataset:
    """A part of CIFAR-10: the first 10,000 training and the first 2,500 test images of 3 x 32 x 32, from two `.bin.gz` files.

    Shapes: x [examples, 3 * 32 * 32], planes of red, green and blue; reshape(-1, 3, 32, 32) gives images in PyTorch's layout.
    Raises: DataError naming the file that is missing, torn, or not what manifest.json lists.
    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    folder = Path(folder)
    classes = tuple(read_stored(folder / _NAMES).decode("ascii", "replace").split())
    if len(classes) != 10:
        raise refuse(folder / _NAMES, f"{len(classes)} names of classes, expected 10.", FETCH)
    training, test = (_records(folder / name, len(classes)) for name in (_TRAINING, _TEST))
    return Dataset("cifar10", *training, *test, classes, _IMAGE)


def _records(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of one file, after the checks that need only its own bytes."""
    content = inflate(read_stored(path), path, LARGEST)
    count, rest = divmod(len(content), _RECORD)
    if rest or count == 0:
        raise refuse(path, f"it holds {len(content)} bytes, which is no whole number of records of {_RECORD}.", FETCH)
    records = np.frombuffer(content, np.uint8).reshape(count, _RECORD)
    labels = records[:, 0]
    if labels.max() >= classes:
        row = int(np.argmax(labels >= classes))
        raise refuse(path, f"record {row} has a label {int(labels[row])}; labels go from 0 to {classes - 1}.", FETCH)
    x = records[:, 1:].astype(np.float32)
    x /= np.float32(255)
    return x, labels.astype(np.int64)
