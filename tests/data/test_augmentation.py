"""Augmentation and normalization: exact pictures, the chance of each, and the same chance after a resume."""

import numpy as np
import pytest

from adjoint.data import Batches, Flip, InTurn, Normalization, Shift
from adjoint.errors import ConfigError, DataError, ShapeError

IMAGES = np.arange(1.0, 2 * 3 * 4 * 5 + 1, dtype=np.float32).reshape(2, 3, 4, 5)


def shifted_by_loops(image, down, right):
    """image[i + down, j + right], zero outside; one pixel at a time."""
    found = np.zeros_like(image)
    height, width = image.shape[-2:]
    for i in range(height):
        for j in range(width):
            if 0 <= i + down < height and 0 <= j + right < width:
                found[..., i, j] = image[..., i + down, j + right]
    return found


def test_each_image_is_shifted_by_offsets_of_its_own():
    shift, seen = Shift(2, seed=3), []
    for count in range(120):
        for image, moved in zip(IMAGES, shift(IMAGES, count), strict=True):
            every = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if np.array_equal(moved, shifted_by_loops(image, i, j))]
            assert len(every) == 1
            seen += every
    assert len(set(seen)) == 25 and shift(IMAGES, 0).dtype == np.float32


def test_shifts_are_uniform():
    one = np.zeros((4000, 3, 3), np.float32)
    one[:, 1, 1] = 1.0
    places = Shift(1, seed=0)(one, 7).reshape(4000, 9).sum(axis=0)
    assert places.sum() == 4000 and np.abs(places - 4000 / 9).max() < 4 * np.sqrt(4000 * (1 / 9) * (8 / 9))


def test_a_flip_mirrors_its_share_of_images_and_no_others():
    images = np.repeat(IMAGES[:1], 4000, axis=0)
    mirrored = (Flip(seed=1)(images, 0) == images[..., ::-1]).all(axis=(1, 2, 3))
    kept = (Flip(seed=1)(images, 0) == images).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all() and abs(mirrored.mean() - 0.5) < 4 * np.sqrt(0.25 / 4000)
    assert np.array_equal(Flip(seed=1, chance=0.0)(images, 0), images)


@pytest.mark.parametrize("make", [lambda seed: Shift(2, seed=seed), lambda seed: Flip(seed=seed),
                                  lambda seed: InTurn(Shift(2, seed=seed), Flip(seed=seed))], ids=["shift", "flip", "in turn"])
def test_chance_is_a_function_of_seed_and_step(make):
    images, before = np.repeat(IMAGES, 8, axis=0), np.repeat(IMAGES, 8, axis=0)
    first = make(5)(images, 11)
    assert np.array_equal(first, make(5)(images, 11)) and np.array_equal(images, before)
    assert not np.array_equal(first, make(5)(images, 12)) and not np.array_equal(first, make(6)(images, 11))


def test_a_resumed_run_sees_the_same_augmented_batches():
    images, augment = np.repeat(IMAGES, 10, axis=0), InTurn(Shift(1, seed=2), Flip(seed=2))

    def walk(batches, count):
        for x, in batches:
            yield augment(x, count).copy(), batches.state()
            count += 1
    whole = list(walk(Batches(images, batch=4, seed=9), 0))
    again = Batches(images, batch=4, seed=9)
    again.restore(whole[1][1])
    for (x, _), (y, _) in zip(whole[2:], walk(again, 2), strict=True):
        assert np.array_equal(x, y)


def test_bad_augmentations_are_refused():
    for make in (lambda: Shift(-1, seed=0), lambda: Shift(1.5, seed=0), lambda: Shift(1, seed=-1), lambda: Flip(seed=0, chance=1.5),
                 lambda: Flip(seed=None), lambda: Flip(seed=0, chance=float("nan"))):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ShapeError, match="Reshape rows to images"):
        Shift(1, seed=0)(np.ones((2, 784)), 0)


@pytest.mark.mission(170)
def test_normalized_training_data_has_mean_zero_and_deviation_one(rng, figure):
    x = rng.normal(3.0, 5.0, (200, 4)) * [1.0, 10.0, 0.1, 1e6]
    z = Normalization.fit(x)(x)
    figure.equal(z.std(axis=0), np.ones(4), rel=1e-12)
    figure.equal(z.mean(axis=0), np.zeros(4), abs=1e-12)


@pytest.mark.mission(170)
def test_shift_and_flip_perturb_without_bias(figure):
    one = np.zeros((20_000, 3, 3), np.float32)
    one[:, 1, 0] = 1.0
    figure.equal(Flip(seed=2)(one, 0)[:, 1].mean(axis=0, dtype=np.float64), [0.5, 0.0, 0.5], abs=0.015)
    one = np.roll(one, 1, axis=2)
    figure.equal(Shift(1, seed=2)(one, 0).mean(axis=0, dtype=np.float64), np.full((3, 3), 1 / 9), abs=0.01)


def test_test_data_takes_the_numbers_of_the_training_data(rng):
    training, test = rng.normal(2.0, 3.0, (50, 2)), rng.normal(-7.0, 1.0, (9, 2))
    scale = Normalization.fit(training)
    assert np.allclose(scale(test), (test - training.mean(0)) / training.std(0), rtol=1e-14, atol=0)


def test_channels_and_everything_at_once():
    scale = Normalization.fit(IMAGES, axis=(0, 2, 3))
    assert scale.mean.shape == (1, 3, 1, 1) and scale(IMAGES).dtype == np.float32
    assert np.allclose(scale(IMAGES).mean(axis=(0, 2, 3)), 0.0, atol=1e-6)
    whole = Normalization.fit(IMAGES.astype(np.uint8), axis=None)
    assert whole.mean.shape == (1, 1, 1, 1) and whole(IMAGES.astype(np.uint8)).dtype == np.float64


def test_a_constant_feature_becomes_zero():
    x = np.full((7, 2), 0.1)
    x[:, 1] = np.arange(7)
    assert np.array_equal(Normalization.fit(x)(x)[:, 0], np.zeros(7))


def test_what_cannot_be_normalized_is_refused():
    for x in (np.ones((0, 2)), np.array([1.0, np.nan]), np.array(["a"]), np.array(1.0)):
        with pytest.raises(DataError):
            Normalization.fit(x)
    with pytest.raises(ShapeError, match="fitted to features of shape"):
        Normalization.fit(np.ones((3, 2)))(np.ones((3, 4)))
