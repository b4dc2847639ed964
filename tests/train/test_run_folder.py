"""Run folders: numbered, locked, and with metrics that end where the checkpoint stands."""

import errno
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from adjoint.errors import CheckpointError, ConfigError
from adjoint.train import RunFolder, files, run_folder


@pytest.fixture(autouse=True)
def no_observer_left():
    yield
    files.observer = None


def test_numbers_count_up_and_the_latest_is_found(tmp_path):
    for number in (1, 2, 3):
        with RunFolder.create(tmp_path / "runs", "digits", {"seed": number}) as run:
            assert run.path == tmp_path / "runs" / f"digits-{number}"
    (tmp_path / "runs" / "digits-x").mkdir()
    (tmp_path / "runs" / "digits-99").write_text("a file")
    (tmp_path / "runs" / "digits-10").mkdir()
    with pytest.raises(ConfigError, match="there is no run digits-<number> with a checkpoint"):
        RunFolder.latest(tmp_path / "runs", "digits")
    for number in (1, 10, 2):
        with RunFolder.open(tmp_path / "runs" / f"digits-{number}") as run:
            assert not run.has_checkpoint()
            run.save(7, {"w": np.ones(3)}, {})
            assert run.has_checkpoint()
    assert RunFolder.latest(tmp_path / "runs", "digits").name == "digits-10"
    (tmp_path / "runs" / "digits-11").mkdir()
    assert RunFolder.latest(tmp_path / "runs", "digits").name == "digits-10"
    with RunFolder.create(tmp_path / "runs", "digits", {}) as run:
        assert run.path.name == "digits-100"
    with RunFolder.open(tmp_path / "runs" / "digits-2") as run:
        assert run.config() == {"seed": 2}


def test_a_program_that_is_started_again_finds_its_own_folders(tmp_path, monkeypatch):
    def create():
        with RunFolder.create(tmp_path, "a", {}) as run:
            return run

    def started(launch, generation):
        monkeypatch.setenv("ADJOINT_LAUNCH", launch)
        monkeypatch.setenv("ADJOINT_GENERATION", generation)
        run_folder._CREATED.clear()
    create().save(3, {"w": np.ones(3)}, {})                             # of no launch
    started("/tmp/launch-x", "0")
    assert [create().path.name for _ in range(2)] == ["a-2", "a-3"]
    assert RunFolder.latest(tmp_path, "a").name == "a-1"                # as ever: the last with a checkpoint
    started("/tmp/launch-y", "1")                                       # was killed before it had made any
    assert RunFolder.latest(tmp_path, "a").name == "a-1"
    assert create().path.name == "a-4"
    started("/tmp/launch-x", "1")
    assert RunFolder.latest(tmp_path, "a").name == "a-3"
    assert [create().path.name for _ in range(3)] == ["a-2", "a-3", "a-5"]
    (tmp_path / "a-5" / "config.json").unlink()                         # killed while it made it
    (tmp_path / "a-2" / "launch").write_bytes(b"\xff")
    started("/tmp/launch-x", "2")
    assert [create().path.name for _ in range(2)] == ["a-3", "a-6"]
    with RunFolder.create(tmp_path, "a", {}) as run:
        run.discard_if_unused()
    assert not run.path.exists()


def test_threads_that_start_at_once_get_different_folders(tmp_path):
    found, threads = [], []
    for _ in range(8):
        threads.append(threading.Thread(target=lambda: found.append(RunFolder.create(tmp_path, "a", {}))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert sorted(int(run.path.name[2:]) for run in found) == list(range(1, 9))
    for run in found:
        run.close()


def test_metrics_are_whole_lines(tmp_path):
    with RunFolder.create(tmp_path, "a", {}) as run:
        assert run.metrics() == []
        run.log({"epoch": 1, "loss": np.float32(0.5), "norms": {"0.weight": 1e-3}, "count": np.int64(3)})
        run.log({"epoch": 2, "loss": float("nan")})
        assert run.metrics() == [{"epoch": 1, "loss": 0.5, "norms": {"0.weight": 1e-3}, "count": 3},
                                 {"epoch": 2, "loss": None}]
        with open(run.path / "metrics.jsonl", "ab") as file:
            file.write(b'{"epoch": 3, "lo')
        assert len(run.metrics()) == 2
        with pytest.raises(TypeError, match="ndarray"):
            run.log({"epoch": 3, "norms": np.ones(3)})


def test_rewinding_forgets_what_the_checkpoint_does_not_know(tmp_path):
    with RunFolder.create(tmp_path, "a", {}) as run:
        for epoch in range(1, 6):
            run.log({"epoch": epoch})
        with open(run.path / "metrics.jsonl", "ab") as file:
            file.write(b'{"epoch": 2')
        assert [line["epoch"] for line in run.rewind(3)] == [1, 2, 3]
        run.log({"epoch": 4, "again": True})
        assert run.metrics()[-1] == {"epoch": 4, "again": True} and len(run.metrics()) == 4


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    for use in (lambda run: None, lambda run: run.log({"epoch": 1}), lambda run: run.save(1, {"w": np.ones(3)}, {})):
        with RunFolder.create(tmp_path, "a", {}) as run:
            use(run)
            used = len(list(run.path.iterdir())) > 2
            run.discard_if_unused()
            assert run.path.exists() == used


def test_checkpoints_live_in_the_folder(tmp_path):
    with RunFolder.create(tmp_path, "a", {}) as run:
        with pytest.raises(CheckpointError, match="no checkpoint"):
            run.load()
        run.save(7, {"w": np.ones(3)}, {"step": 7})
        assert run.load({"w": np.zeros(3)}).counter("step") == 7


def test_a_second_process_is_refused_and_a_dead_one_is_forgotten(tmp_path):
    program = ("import sys; from adjoint.train import RunFolder; run = RunFolder.open(sys.argv[1]); "
               "print('ready', flush=True); sys.stdin.read()")
    with RunFolder.create(tmp_path, "a", {}) as run:
        path = run.path
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
        assert f"another process ({os.getpid()}) is training" in done.stderr
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(ConfigError, match=f"another process \\({child.pid}\\)"):
            RunFolder.open(path)
        child.kill()
        child.wait()
        child.stdin.close()
    RunFolder.open(path).close()


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no run folder can be made here"):
        RunFolder.create(tmp_path / "file" / "runs", "a", {})
    for call in ("make_folder", "create", "write", "sync"):
        def full(name, path, call=call):
            if name == call:
                raise OSError(errno.EROFS, "Read-only file system")
        files.observer = full
        with pytest.raises(ConfigError, match="Read-only file system") as caught:
            RunFolder.create(tmp_path, "a", {})
        assert len(str(caught.value).splitlines()) == 3


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ConfigError, match="Permission denied"):
        RunFolder.create(tmp_path, "a", {})


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a b", "x" * 101, "a\0"])
def test_names_are_plain(tmp_path, name):
    with pytest.raises(ConfigError, match="name of a run"):
        RunFolder.create(tmp_path, name, {})


def test_what_is_no_run_folder(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError):
            RunFolder.latest(path, "digits")
    with pytest.raises(ConfigError, match="no run folder here"):
        RunFolder.open(tmp_path / "missing")
    with RunFolder.open(tmp_path) as run:
        for content in (b"{", b"[1]", b"\xff", b"[" * 100_000):
            (tmp_path / "config.json").write_bytes(content)
            with pytest.raises(ConfigError, match=r"config\.json"):
                run.config()
