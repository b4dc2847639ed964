"""Snapshots: the newest whole one of any worker is gone on from, to the same bits; what is torn, stale or foreign is not."""

import shutil

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import DataParallel, ParameterServer, run_threads
from adjoint.errors import CheckpointError, CommunicationError, ConfigError
from adjoint.tree import flatten

X = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
Y = np.argmax(X, axis=1)


class Stop(Exception):
    pass


def fitted(stop=None, resume=False, decide=None, **options):
    """fit, which stops when step `stop` begins; the bits of the model."""
    def augment(x, step):
        if step == stop:
            raise Stop
        return x
    model = nn.mlp(3, 4, 3, activation=nn.relu, rng=np.random.default_rng(0))
    done = train.fit(model, (X, Y), optimizer=optim.adam(1e-2), epochs=4, batch=6, augment=augment, resume=resume, compiled=False,
                     stop=decide, **options)
    return done, b"".join(np.asarray(x).tobytes() for x in flatten(done.model)[0])


def steps_of(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("snapshot-*"))


@pytest.mark.parametrize("stop", [0, 1, 4, 9, 15])
def test_a_run_that_ends_anywhere_goes_on_to_the_same_bits(stop, tmp_path):
    whole, bits = fitted()
    with train.RunFolder.create(tmp_path, "run", {}) as folder:
        with pytest.raises(Stop):
            fitted(stop, snapshots=train.Snapshots(tmp_path), folder=folder)
        assert steps_of(tmp_path) == [stop][:stop]                      # every step done is there, and one file for a worker
        done, found = fitted(resume=True, snapshots=train.Snapshots(tmp_path), folder=folder)
    assert found == bits and done.steps == whole.steps == 16
    assert [line["loss"] for line in done.history] == [line["loss"] for line in whole.history]


def test_without_a_folder_the_snapshot_has_the_history_so_a_stop_counts_all_epochs(tmp_path):
    stop_at_three = lambda history: len(history) == 3
    whole, bits = fitted(decide=stop_at_three)
    with pytest.raises(Stop):
        fitted(9, decide=stop_at_three, snapshots=train.Snapshots(tmp_path))
    done, found = fitted(resume=True, decide=stop_at_three, snapshots=train.Snapshots(tmp_path))
    assert found == bits and done.steps == whole.steps == 12
    assert [line["loss"] for line in done.history] == [line["loss"] for line in whole.history]


@pytest.mark.parametrize("options", [{}, {"servers": 2}], ids=["one server", "two servers"])
def test_a_parameter_server_goes_on_with_the_optimizer_of_its_servers(options, tmp_path):
    def program(c, stop, resume, folder):
        return fitted(stop, resume, parallel=ParameterServer(c, **options), snapshots=train.Snapshots(folder))
    whole = run_threads(4, lambda c: program(c, None, False, tmp_path / "whole"), seconds=60)
    with pytest.raises(CommunicationError, match="Stop"):
        run_threads(4, lambda c: program(c, 7, False, tmp_path / "part"), seconds=60)
    assert steps_of(tmp_path / "part") in ([6], [7])        # of rank 0 alone; it may end while it writes the seventh
    again = run_threads(4, lambda c: program(c, None, True, tmp_path / "part"), seconds=60)
    assert [found for _, found in again] == [bits for _, bits in whole] and again[0][0].steps == 16


def test_every_third_step(tmp_path):
    with pytest.raises(Stop):
        fitted(11, snapshots=train.Snapshots(tmp_path, every=3))
    assert steps_of(tmp_path) == [9]
    assert fitted(resume=True, snapshots=train.Snapshots(tmp_path, every=3))[1] == fitted()[1]


@pytest.mark.parametrize("ahead", [0, 2])
def test_ranks_go_on_from_the_one_that_was_ahead_on_its_own_machine(ahead, tmp_path):
    """Each rank has a folder of its own; one has written a step more than the others."""
    def program(c, stop, resume):
        parallel, snapshots = DataParallel(c, exact_reduce=True, shards=3), train.Snapshots(tmp_path / str(c.rank))
        return fitted(stop, resume, parallel=parallel, snapshots=snapshots)
    whole = run_threads(3, lambda c: program(c, None, False), seconds=60)
    for steps in (6, 7):
        run_threads(3, lambda c, steps=steps: ended(program, c, steps), seconds=60)
        for rank in range(3):
            shutil.copytree(tmp_path / str(rank), tmp_path / f"{steps}-{rank}")
    for rank in range(3):
        shutil.rmtree(tmp_path / str(rank))
        shutil.copytree(tmp_path / f"{7 if rank == ahead else 6}-{rank}", tmp_path / str(rank))
    assert [steps_of(tmp_path / str(rank)) for rank in range(3)] == [[7 if rank == ahead else 6] for rank in range(3)]
    for (done, found), (_, expected) in zip(run_threads(3, lambda c: program(c, None, True), seconds=60), whole, strict=True):
        assert found == expected and done.steps == 16


def ended(program, c, steps):
    with pytest.raises(Stop):
        program(c, steps, False)


def test_what_is_torn_is_passed_over_and_what_is_another_model_is_refused(tmp_path):
    kept = train.Snapshots(tmp_path)
    assert kept.load() is None
    for rank, step in ((0, 6), (1, 7)):
        kept.begin(rank, anew=False)
        kept.save(step, {"w": np.full(2, float(step))}, {"step": step})
    assert kept.load().counter("step") == 7
    torn = tmp_path / "snapshot-0000000007-1.safetensors"
    torn.write_bytes(torn.read_bytes()[:-3])
    with pytest.warns(train.CheckpointWarning, match="a snapshot cannot be used"):
        assert kept.load({"w": np.ones(2)}).tensors["w"][0] == 6.0
    torn.unlink()
    with pytest.raises(CheckpointError, match="another architecture"):
        kept.load({"w": np.ones(3)})
    kept.begin(0, anew=True)
    assert kept.load() is None
    with pytest.raises(ConfigError, match="every is 0"):
        train.Snapshots(tmp_path, every=0)


def test_a_world_started_again_reads_only_what_its_own_launch_has_written(tmp_path, monkeypatch):
    monkeypatch.setenv("ADJOINT_LAUNCH", "/tmp/adjoint-launch-one")
    train.Snapshots(tmp_path).save(9, {"w": np.ones(2)}, {"step": 9})
    monkeypatch.setenv("ADJOINT_LAUNCH", "/tmp/adjoint-launch-two")
    assert train.Snapshots(tmp_path).load().counter("step") == 9         # the user asks to go on with an earlier run
    monkeypatch.setenv("ADJOINT_GENERATION", "1")
    assert train.Snapshots(tmp_path).load() is None                      # a rank has died before it could forget that run


def test_what_fit_cannot_use_is_said():
    with pytest.raises(ConfigError, match="snapshots is str, expected Snapshots"):
        fitted(snapshots="runs")
    for model, stop, problem in ((nn.Linear, None, "model is the class Linear"), (nn.Sequential(), 3, "stop is 3, expected a function")):
        with pytest.raises(ConfigError, match=problem):
            train.fit(model, (X, Y), optimizer=optim.adam(1e-2), epochs=1, stop=stop)
