"""Mini-batches: every example once an epoch, shuffled by (seed, epoch), resumed to the same examples."""

import doctest

import numpy as np
import pytest

import adjoint.data.batches
from adjoint.data import Batches
from adjoint.errors import ConfigError, DataError


def make(examples=23, **options):
    x = np.arange(examples * 3, dtype=np.float32).reshape(examples, 3)
    return Batches(x, np.arange(examples), **{"batch": 5, "seed": 7, **options})


def epoch_of(batches):
    return [(x.copy(), y.copy()) for x, y in batches]


def labels_of(batches):
    return np.concatenate([y for _, y in epoch_of(batches)]).tolist()


@pytest.mark.parametrize("last, lengths", [("keep", [5, 5, 5, 5, 3]), ("drop", [5, 5, 5, 5])])
def test_last_short_batch(last, lengths):
    batches = make(last=last)
    assert len(batches) == len(lengths)
    for epoch in range(3):
        assert batches.epoch == epoch
        seen = epoch_of(batches)
        assert [len(y) for _, y in seen] == lengths
        labels = np.concatenate([y for _, y in seen])
        assert len(set(labels)) == sum(lengths)
        for x, y in seen:
            assert np.array_equal(x[:, 0], 3 * y)


def test_epochs_and_seeds_differ_and_repeat():
    first, second = make(), make()
    orders = [labels_of(first) for _ in range(4)]
    assert orders == [labels_of(second) for _ in range(4)]
    assert len(set(map(tuple, orders))) == 4 and orders[0] != labels_of(make(seed=8))


def test_the_order_of_an_epoch_never_changes_between_versions():
    assert labels_of(make(examples=10)) == GOLDEN


GOLDEN = [8, 4, 1, 6, 3, 2, 7, 5, 9, 0]


def test_every_position_is_reached_equally_often():
    places = np.zeros((6, 6))
    batches = Batches(np.arange(6), batch=6, seed=1)
    for _ in range(6000):
        for (x,) in batches:
            places[np.arange(6), x] += 1
    assert np.abs(places / 1000 - 1).max() < 0.15


def test_resume_gives_the_same_examples_at_every_point():
    reference = make()
    expected = [y for _ in range(3) for _, y in epoch_of(reference)]
    for stop in range(len(expected)):
        batches, seen = make(), 0
        while seen < stop:
            for _ in batches:
                seen += 1
                if seen == stop:
                    break
        resumed = make(seed=99)
        resumed.restore(batches.state())
        rest = []
        while len(rest) < len(expected) - stop:
            rest += [y for _, y in epoch_of(resumed)]
        assert all(np.array_equal(a, b) for a, b in zip(expected[stop:], rest, strict=True))


def test_a_loop_that_breaks_goes_on_in_the_same_epoch():
    batches, whole = make(), [y for _, y in epoch_of(make())]
    for _, y in batches:
        assert np.array_equal(y, whole[0])
        break
    assert batches.state() == {"seed": 7, "epoch": 0, "cursor": 1}
    assert all(np.array_equal(y, expected) for (_, y), expected in zip(epoch_of(batches), whole[1:], strict=True))


def test_batches_are_contiguous_reused_buffers_and_sources_stay_unchanged():
    x = np.asfortranarray(np.arange(40.0).reshape(8, 5))
    before, addresses = x.copy(), set()
    for (batch,) in Batches(x[::2, ::-1], batch=3, last="drop"):
        addresses.add(batch.ctypes.data)
        assert batch.flags.c_contiguous and batch.dtype == x.dtype
        batch[:] = -1
    assert len(addresses) == 1 and np.array_equal(x, before)


def test_without_shuffling_the_order_is_that_of_the_arrays():
    assert labels_of(make(shuffle=False)) == list(range(23))


def test_a_batch_larger_than_the_data_is_one_short_batch():
    assert [len(y) for _, y in make(examples=4, batch=64)] == [4]


@pytest.mark.parametrize("options, message", [
    ({"batch": 0}, "batch is 0"), ({"batch": -1}, "batch"), ({"batch": 2.0}, "batch"), ({"batch": True}, "batch"),
    ({"seed": -1}, "seed"), ({"seed": 2**63}, "seed"), ({"seed": 0.5}, "seed"), ({"last": "pad"}, "last"),
    ({"batch": 24, "last": "drop"}, "none of the 23"),
])
def test_options_outside_their_range(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


@pytest.mark.parametrize("arrays", [(np.zeros(3), np.zeros(4)), (np.zeros((0, 2)),), (np.float64(1.0),)])
def test_arrays_that_do_not_belong_together(arrays):
    with pytest.raises(DataError, match="same number of examples"):
        Batches(*arrays, batch=2)
    with pytest.raises(ConfigError, match="no arrays"):
        Batches(batch=2)


@pytest.mark.parametrize("state", [
    None, {}, {"seed": 1, "epoch": 0}, {"seed": 1, "epoch": 0, "cursor": 5}, {"seed": 1, "epoch": -1, "cursor": 0},
    {"seed": 1, "epoch": 2**63, "cursor": 0}, {"seed": "1", "epoch": 0, "cursor": 0},
    {"seed": 1, "epoch": 0, "cursor": True}, {"seed": 1, "epoch": 0, "cursor": 0, "more": 1},
])
def test_a_foreign_state_changes_nothing(state):
    batches = make()
    with pytest.raises(DataError, match=r"Batches\.restore"):
        batches.restore(state)
    assert batches.state() == {"seed": 7, "epoch": 0, "cursor": 0}


def test_example_in_the_docstring():
    assert doctest.testmod(adjoint.data.batches, extraglobs={"np": np}).failed == 0


def test_with_replacement_every_draw_is_uniform_and_independent_of_the_others():
    batches = Batches(np.arange(10), batch=5, seed=1, replace=True)
    drawn = np.concatenate([np.array(x) for _ in range(2000) for x, in batches])
    assert len(drawn) == 20_000
    counts = np.bincount(drawn, minlength=10)
    assert np.abs(counts - 2000).max() < 4 * np.sqrt(20_000 * 0.1 * 0.9)
    again = np.mean(drawn[1:] == drawn[:-1])            # a partition would give 1/9 within an epoch less, never 1/10
    assert abs(again - 0.1) < 4 * np.sqrt(0.09 / 20_000)
    epochs = drawn.reshape(2000, 10)
    assert np.mean([len(set(epoch)) for epoch in epochs]) < 7           # 10 (1 - 0.9^10) = 6.51


def test_with_replacement_a_restored_walk_goes_on():
    batches = Batches(np.arange(11), batch=3, seed=4, replace=True, last="drop")
    first = [np.array(x) for x, in batches]
    batches = Batches(np.arange(11), batch=3, seed=4, replace=True, last="drop")
    next(iter(batches))
    other = Batches(np.arange(11), batch=3, seed=0, replace=True, last="drop")
    other.restore(batches.state())
    assert len(first) == 3 and np.array_equal([np.array(x) for x, in other], first[1:])


def test_replacement_needs_a_shuffle():
    with pytest.raises(ConfigError, match="replacement"):
        Batches(np.arange(4), batch=2, replace=True, shuffle=False)
