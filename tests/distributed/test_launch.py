"""adjoint launch: output by rank, a killed rank and a world that goes on to the same bits, Ctrl-C, and what is wrong."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adjoint.distributed import Alone
from adjoint.distributed.launch import launch, mpiexec
from adjoint.errors import ConfigError

HERE = Path(__file__).parent
TRAINS = HERE / "trains.py"


def has_runtime():
    try:
        return importlib.util.find_spec("mpi4py") is not None and bool(mpiexec())
    except ConfigError:
        return False


needs_mpi = pytest.mark.skipif(not has_runtime(), reason="needs mpi4py and an MPI runtime: pip install 'adjoint[mpi]'")


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1]))
    monkeypatch.setenv("ADJOINT_THREADS", "1")

    def call(*program, **options):
        lines = []
        return launch([str(p) for p in program], say=lines.append, **options), lines
    return call


def left_over():
    """Processes of these tests that are still there."""
    return subprocess.run(["pgrep", "-f", str(TRAINS)], capture_output=True, text=True, check=False).stdout.split()


@needs_mpi
def test_lines_say_their_rank_and_the_status_is_the_programs(run, tmp_path):
    program = tmp_path / "hello.py"
    program.write_text("import sys\nfrom adjoint.distributed import world\nrank = world().rank\nprint('hello of', rank)\n"
                       "sys.exit(3 * (len(sys.argv) > 1))\n")
    status, lines = run(program, ranks=2)
    assert status == 0 and sorted(lines) == ["hello of 0", "rank 1: hello of 1"]
    status, lines = run(program, "fail", ranks=2)
    assert status == 3 and "hello of 0" in lines


@needs_mpi
@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_rank_costs_no_committed_step_and_no_bit(run, tmp_path, rank):
    status, lines = run(TRAINS, tmp_path / "whole", 3, ranks=3)
    assert status == 0
    ended = {line.removeprefix("rank 1: ").removeprefix("rank 2: ") for line in lines if "ended at step" in line}
    assert len(ended) == 1 and ended.pop() == (expected := next(line for line in lines if line.startswith("ended at step 30")))
    status, lines = run(TRAINS, tmp_path / "killed", 3, 17, rank, ranks=3, max_restarts=1)
    assert status == 0 and expected in lines
    assert any("starting the world again (1 of 1)" in line for line in lines)
    assert not left_over()


@needs_mpi
def test_without_restarts_a_killed_rank_ends_the_world(run, tmp_path):
    status, lines = run(TRAINS, tmp_path, 3, 5, 1, ranks=2)
    assert status != 0 and not any("ended at step" in line for line in lines)
    assert not left_over()


@needs_mpi
def test_ctrl_c_lets_every_rank_save_and_exits_130(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "ADJOINT_THREADS": "1"}
    command = [sys.executable, "-m", "adjoint", "launch", "-n", "2", str(TRAINS), str(tmp_path), "100000"]
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)
    try:
        deadline = time.monotonic() + 40
        while not list(tmp_path.glob("digits-1/*.checkpoint*")) and not list(tmp_path.glob("digits-1/checkpoint*")):
            assert time.monotonic() < deadline and started.poll() is None
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        output, _ = started.communicate(timeout=40)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    steps = re.findall(r"ended at step (\d+) with (\w+)", output)
    assert started.returncode == 130, output
    assert len(steps) == 2 and steps[0] == steps[1], output
    assert not left_over()


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"no program 'nothing\.py'"):
        launch(["nothing.py"], ranks=2)
    with pytest.raises(ConfigError, match="0 ranks"):
        launch([str(TRAINS)], ranks=0)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"no mpiexec.*\n.*adjoint\[mpi\]"):
        launch([str(TRAINS)], ranks=2)
    assert Alone().size == 1
