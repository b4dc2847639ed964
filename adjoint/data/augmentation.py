"""Augmentation: training images moved, cut and mirrored by chance, where the chance of a step is a function of (seed, step) alone.

Invariant: the same (seed, step) gives the same images, in any run and after any resume; labels are never touched.
May import: errors. Read next: batches.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ConfigError, ShapeError, explain


def _words(seed: int, count: int, stream: int, number: int) -> np.ndarray:
    """Random 32-bit words of one step, Philox's own, which NumPy guarantees; stream keeps a shift from drawing what a flip drew."""
    return np.random.Philox(key=[seed, (count << 8) | stream]).random_raw(number) >> np.uint64(32)


def _checked_seed(name: str, seed: Any) -> int:
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 1 << 62:
        raise ConfigError(explain(f"{name}: seed is {seed!r}, expected an integer from 0 to 2**62 - 1.", remedy="For instance seed=0."))
    return int(seed)


def _images(name: str, x: np.ndarray) -> np.ndarray:
    if np.ndim(x) < 3:
        raise ShapeError(explain(f"{name}: the batch has shape {np.shape(x)}, expected images [batch, ..., height, width].",
                                 remedy="Reshape rows to images first: x.reshape(-1, 3, 32, 32)."))
    return x


class Shift:
    """Images moved by up to `pixels` in both directions, zeros where nothing was: the crop of a zero-padded image, at its own size.

    shift(x, step) -> images of the same shape; each image draws its own two offsets, uniform in -pixels..pixels. With pixels 4 on CIFAR
    this is the random crop with padding of He et al., arXiv 1512.03385, section 4.2.
    Shapes: x [batch, ..., height, width].

    >>> image = np.arange(1.0, 5.0).reshape(1, 2, 2)
    >>> Shift(1, seed=0)(image, 5).tolist()
    [[[3.0, 4.0], [0.0, 0.0]]]
    """

    def __init__(self, pixels: int, *, seed: int) -> None:
        if not isinstance(pixels, (int, np.integer)) or isinstance(pixels, bool) or pixels < 0:
            raise ConfigError(explain(f"Shift: pixels is {pixels!r}, expected a whole number of at least 0.",
                                      remedy="4 is usual for images of 32 x 32."))
        self.pixels, self.seed = int(pixels), _checked_seed("Shift", seed)

    def __call__(self, x: np.ndarray, count: int) -> np.ndarray:
        """The batch of step `count`."""
        height, width = _images("Shift", x).shape[-2:]
        most = self.pixels
        offsets = (_words(self.seed, count, 0, 2 * len(x)) * np.uint64(2 * most + 1)) >> np.uint64(32)
        down, right = offsets.reshape(2, len(x)).tolist()
        around = [(0, 0)] * (x.ndim - 2) + [(most, most)] * 2
        padded = np.pad(x, around)
        cuts = np.empty_like(x)
        for cut, image, i, j in zip(cuts, padded, down, right, strict=True):
            cut[...] = image[..., i:i + height, j:j + width]
        return cuts


class Flip:
    """Images mirrored left to right, each with the given chance.

    flip(x, step) -> images of the same shape. Shapes: x [batch, ..., height, width].

    >>> Flip(seed=0, chance=1.0)(np.array([[[1.0, 2.0]]]), 0).tolist()
    [[[2.0, 1.0]]]
    """

    def __init__(self, *, seed: int, chance: float = 0.5) -> None:
        if not 0 <= chance <= 1:
            raise ConfigError(explain(f"Flip: chance is {chance!r}, expected a number from 0 to 1.", remedy="Half of the images: 0.5."))
        self.chance, self.seed = float(chance), _checked_seed("Flip", seed)

    def __call__(self, x: np.ndarray, count: int) -> np.ndarray:
        """The batch of step `count`."""
        chosen = _words(self.seed, count, 1, len(_images("Flip", x))) < self.chance * 2.0 ** 32
        mirrored = np.array(x)
        mirrored[chosen] = x[chosen][..., ::-1]
        return mirrored


class InTurn:
    """Several augmentations one after the other: together(x, step) = last(... first(x, step) ..., step).

    >>> together = InTurn(Shift(1, seed=0), Flip(seed=0, chance=1.0))
    >>> together(np.arange(1.0, 5.0).reshape(1, 2, 2), 5).tolist()
    [[[4.0, 3.0], [0.0, 0.0]]]
    """

    def __init__(self, *augmentations: Any) -> None:
        self.augmentations = augmentations

    def __call__(self, x: np.ndarray, count: int) -> np.ndarray:
        """The batch of step `count`."""
        for augmentation in self.augmentations:
            x = augmentation(x, count)
        return x
