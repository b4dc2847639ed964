"""The data sets that `adjoint train` knows: digits inside the package, Fashion-MNIST from its four original files.

Invariant: images are float32 in [0, 1], one row each, labels int64 in [0, classes).
May import: errors. Read next: batches.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError, explain
from .idx import read_idx

_DIGITS = Path(__file__).resolve().parent / "optdigits"
_DIGITS_SHA256 = {
    "train-images.idx.gz": "6a7de50758f3541a7d9315f6bbd7d40e24296092e495810afd4a2c8f1033dc05",
    "train-labels.idx.gz": "81ff3dbb230ab290db393ca6a36f215aab17a7620d7a961a004897817c022b53",
    "test-images.idx.gz": "c41c947a1014aa9bb82e371b01f16724f9ef929893351173edcc47aa0fc03930",
    "test-labels.idx.gz": "147c9192405199869317e6d9c62ea444f9770c3f8c6dd65035ba3a3690cc5460",
}
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_FASHION_HOME = "https://github.com/zalandoresearch/fashion-mnist"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, split by their authors into training and test examples.

    Shapes: train_x [train, pixels], train_y [train], test_x [test, pixels], test_y [test]; pixels is the product
    of image_shape.

    >>> digits = load_digits()
    >>> rest, held_x, held_y = digits.hold_out(256)
    >>> len(rest.train_x), len(held_x), digits.image_shape
    (3567, 256, (8, 8))
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]

    def hold_out(self, count: int, seed: int = 0) -> tuple[Dataset, np.ndarray, np.ndarray]:
        """Take `count` training examples away for validation: (the rest, validation x, validation y)."""
        total = len(self.train_x)
        if not 0 <= count < total:
            raise ConfigError(explain(f"hold_out: count is {count}, the training set has {total} examples.",
                                      remedy=f"Choose a count from 0 to {total - 1}."))
        order = np.random.Generator(np.random.Philox(seed)).permutation(total)
        kept, held = np.sort(order[count:]), np.sort(order[:count])
        rest = Dataset(self.name, self.train_x[kept], self.train_y[kept], self.test_x, self.test_y, self.classes,
                       self.image_shape)
        return rest, self.train_x[held], self.train_y[held]


def _labelled_images(images_path: Path, labels_path: Path, largest: int, image_shape: tuple[int, int], classes: int,
                     sha256: tuple[str | None, str | None]) -> tuple[np.ndarray, np.ndarray]:
    """One half of a data set as (x, y), after the checks that need both files or the meaning of their numbers."""
    images, labels = read_idx(images_path, 3, sha256[0]), read_idx(labels_path, 1, sha256[1])

    def refuse(path: Path, what: str, remedy: str) -> DataError:
        return DataError(explain(what, where=str(path), remedy=remedy))

    if images.shape[1:] != image_shape:
        raise refuse(images_path, f"its images have shape {images.shape[1:]}, expected {image_shape}.",
                     "Check that this file belongs to the data set that you named.")
    if len(images) != len(labels) or len(images) == 0:
        raise refuse(labels_path, f"{len(labels)} labels for {len(images)} images in {images_path.name}.",
                     "Take images and labels of the same half, training or test.")
    for name, path, found, bound in (("label", labels_path, labels, classes - 1),
                                     ("pixel", images_path, images, largest)):
        if found.max() > bound:
            row = int(np.flatnonzero(found.reshape(len(found), -1).max(1) > bound)[0])
            raise refuse(path, f"example {row} has a {name} {int(found[row].max())}; {name}s go from 0 to {bound}.",
                         "Fetch the file again from its original source.")
    x = images.reshape(len(images), -1).astype(np.float32)
    x /= np.float32(largest)
    return x, labels.astype(np.int64)


def load_digits() -> Dataset:
    """Optical Recognition of Handwritten Digits (UCI, CC BY 4.0): 3,823 training and 1,797 test images of 8 x 8 pixels.

    The test digits were written by other people than the training digits. Source: E. Alpaydin, C. Kaynak, Cascading
    Classifiers, Kybernetika 34 (1998); UCI Machine Learning Repository, DOI 10.24432/C50P49.

    >>> load_digits().test_x.shape, load_digits().test_y[:5]
    ((1797, 64), array([0, 1, 2, 3, 4]))
    """
    halves = []
    for half in ("train", "test"):
        names = (f"{half}-images.idx.gz", f"{half}-labels.idx.gz")
        halves.append(_labelled_images(_DIGITS / names[0], _DIGITS / names[1], 16, (8, 8), 10,
                                       (_DIGITS_SHA256[names[0]], _DIGITS_SHA256[names[1]])))
    return Dataset("digits", *halves[0], *halves[1], tuple("0123456789"), (8, 8))


def load_fashion_mnist(folder: str | os.PathLike) -> Dataset:
    """Fashion-MNIST (Zalando SE, MIT) from its four original `.gz` files: 60,000 and 10,000 images of 28 x 28 pixels.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset, 2017, arXiv 1708.07747.
    Raises: DataError naming the file that is missing, torn, exchanged or of another data set.
    """
    folder, halves = Path(folder), []
    for half in ("train", "t10k"):
        images, labels = folder / f"{half}-images-idx3-ubyte.gz", folder / f"{half}-labels-idx1-ubyte.gz"
        for path in (images, labels):
            if not path.exists():
                raise DataError(explain(f"Fashion-MNIST: the file {path.name} is missing.", where=str(path),
                                        remedy=f"Put the four original .gz files there; they are at {_FASHION_HOME}."))
        halves.append(_labelled_images(images, labels, 255, (28, 28), 10, (None, None)))
    return Dataset("fashion-mnist", *halves[0], *halves[1], _FASHION, (28, 28))
