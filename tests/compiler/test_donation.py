"""Donated arrays: leaves that share memory, by whole arrays, parts or a single element, are refused; neighbours are not."""

from __future__ import annotations

import numpy as np
import pytest

import adjoint as ad
from adjoint.errors import DonationError


def updated(p, x):
    return [q + x for q in p], x


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_leaves_that_overlap_by_one_element_are_refused(order: tuple) -> None:
    memory = np.arange(9.0)
    halves = [memory[:5], memory[4:]]
    with pytest.raises(DonationError, match="leaves 0 and 1 share memory"):
        ad.compile(updated, donate=0)([halves[i] for i in order], 1.0)
    assert np.array_equal(memory, np.arange(9.0))


def test_leaves_that_overlap_across_others_are_refused() -> None:
    memory = np.arange(8.0)
    with pytest.raises(DonationError, match="share memory"):
        ad.compile(updated, donate=0)([memory, memory[:2], memory[4:6]], 1.0)
    with pytest.raises(DonationError, match="leaves 0 and 2 share memory"):
        ad.compile(updated, donate=0)([memory, np.zeros(3), memory[7:]], 1.0)


def test_neighbours_in_memory_are_no_overlap() -> None:
    memory = np.arange(8.0)
    held, _ = ad.compile(updated, donate=0)([memory[:4], memory[4:], memory[4:4]], 1.0)
    assert [x.tolist() for x in held] == [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], []]
    assert np.array_equal(memory, np.arange(8.0))
