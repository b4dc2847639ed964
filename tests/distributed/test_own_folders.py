"""Ranks whose snapshots lie in folders of their own, as on machines that share no disk: all resume from the one that has gone furthest."""

import os
import shutil

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import DataParallel, run_threads

X = np.random.default_rng(0).standard_normal((24, 3))
Y = X[:, :1] * 2


def trained(folder, epochs, *, resume):
    """(weights as bytes, losses of the epochs) of every rank, and the first step that each made."""
    def program(c):
        made = []
        done = train.fit(nn.Linear(3, 1, rng=np.random.default_rng(0), dtype=np.float64), (X, Y), optimizer=optim.adam(0.1), batch=12,
                         loss=nn.squared_error, epochs=epochs, parallel=DataParallel(c, exact_reduce=True), resume=resume, compiled=False,
                         augment=lambda x, step: (made.append(step), x)[1], snapshots=train.Snapshots(folder / str(c.rank)))
        assert made == list(range(made[0], done.steps)) and done.steps == 2 * epochs
        return (done.model.weight.tobytes(), [row["loss"] for row in done.history]), made[0]
    found = run_threads(3, program, seconds=60.0)
    return [result for result, _ in found], [first for _, first in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"), 6, resume=False)[0]


@pytest.mark.parametrize("kept", [1, 2])
def test_ranks_without_snapshots_begin_where_the_furthest_stands(tmp_path, whole, kept):
    """Only one rank has its folder yet, and not rank 0: no step is made again, and the bits are those of an undisturbed run."""
    trained(tmp_path, 3, resume=False)
    for rank in {0, 1, 2} - {kept}:
        shutil.rmtree(tmp_path / str(rank))
    assert trained(tmp_path, 6, resume=True) == (whole, [6] * 3)


def test_a_rank_with_older_snapshots_goes_on_from_newer_ones(tmp_path, whole):
    trained(tmp_path, 2, resume=False)
    shutil.copytree(tmp_path / "0", tmp_path / "old")
    assert trained(tmp_path, 4, resume=True)[1] == [4] * 3
    shutil.rmtree(tmp_path / "0")
    os.rename(tmp_path / "old", tmp_path / "0")
    assert trained(tmp_path, 6, resume=True) == (whole, [8] * 3)
