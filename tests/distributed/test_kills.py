"""Ranks and mpiexec killed while a world starts, writes or ends: it goes on to the same bits, or says who was the first to end."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import worlds

from adjoint.distributed.processes import Family, belongs, end_all
from adjoint.distributed.status import Place
from adjoint.distributed.watch import first_of

DOOMED = Path(__file__).with_name("doomed.py")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What one process that nobody disturbs prints."""
    ended, output = worlds.run([sys.executable, DOOMED, tmp_path_factory.mktemp("whole")])
    assert ended == 0, output
    return re.search(r"ended at step 20 with \w+", output)[0]


def moments(runtime, *names):
    """Where mpiexec itself is what ranks are started under, it is killed only once."""
    return [name for name in names if runtime.name == "mpich" or not name.startswith("mpiexec")]


@worlds.every_runtime
def test_kills_at_any_moment_cost_no_committed_step_and_no_bit(runtime, tmp_path, undisturbed):
    kills = moments(runtime, "imports:1", "joined:0", "compiles:1", "writes:0", "replaces:1", "parent:1", "mpiexec:0", "last:0")
    ended, lines = worlds.launched(runtime, "-n", "2", "--max-restarts", len(kills), DOOMED, tmp_path, *kills, seconds=200)
    assert ended == 0, lines
    assert f"20 committed, 20 resumed; {undisturbed}" in lines, lines
    said = [line for line in lines if "starting it again" in line]
    assert len(said) == len(kills), lines
    for kill, line in zip(kills, said, strict=True):
        moment, rank = kill.split(":")
        named = {"parent": "was killed", "mpiexec": "mpiexec was killed"}.get(moment, rf"rank {rank} on \S+, process \d+, ")
        assert re.search(named, line), lines
    assert not list(tmp_path.glob(".*"))                # no snapshot that was not finished


@worlds.one_runtime
@pytest.mark.parametrize("moment, where", [("imports", "not yet in the world"), ("last", "after all_reduce #")])
def test_without_restarts_the_rank_that_was_killed_is_named(runtime, tmp_path, moment, where):
    ended, lines = worlds.launched(runtime, "-n", "2", DOOMED, tmp_path, f"{moment}:1")
    assert ended == 9, lines
    assert re.fullmatch(rf"launch: the world has ended with status 9: .*rank 1 on \S+, process \d+, {where}.* was the first to end; "
                        "it is not started again", lines[-1]), lines


@worlds.one_runtime
def test_a_rank_that_ends_all_leaves_its_status(runtime, tmp_path):
    """mpiexec ends what is between it and the ranks too: nobody has killed that."""
    program = tmp_path / "program.py"
    program.write_text("import time\nfrom adjoint.distributed import world\nw = world()\nif w.rank:\n    w.abort(7)\ntime.sleep(60)\n")
    ended, lines = worlds.launched(runtime, "-n", "3", program)
    assert ended == 7 and lines[-1].startswith("launch: the world has ended with status 7"), lines
    assert "was killed" not in lines[-1], lines


def test_only_a_process_of_the_launch_is_ended(tmp_path):
    """Its program's own programs too; another's process is not, whatever a page says."""
    own = subprocess.Popen([sys.executable, "-S", "-c", "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', "
                            "'import time; print(1, flush=True); time.sleep(60)'])"], env={**os.environ, "ADJOINT_LAUNCH": str(tmp_path)},
                           stdout=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    with own, other:
        try:
            assert own.stdout.readline() == b"1\n"
            assert belongs(own.pid, tmp_path) and not belongs(other.pid, tmp_path)
            end_all(tmp_path)
            assert own.wait(10) == -9 and own.stdout.read() == b"" and other.poll() is None
        finally:
            own.kill()
            other.kill()


def test_the_first_to_end_is_told_from_those_that_are_ended_for_it():
    world = subprocess.Popen(["sh", "-c", "PMI_RANK=0 sleep 60 & PMI_RANK=1 sleep 60 & wait"])
    family = Family(world, 2)
    with world:
        try:
            deadline = time.monotonic() + 10
            while not family.is_whole:
                family.look(0.05)
                assert time.monotonic() < deadline
            process = {rank: process for process, rank in family.ranks.items()}
            assert first_of(family, [], set(), {}) == ""
            os.kill(process[1], 9)
            family.look(10)
            os.kill(process[0], 9)
            family.look(10)
            here = socket.gethostname()
            assert first_of(family, [Place(1, 7, True, "all_reduce", "a..b", here, process[1], ())], set(), {}) == (
                f": rank 1 on {here}, process {process[1]}, inside all_reduce #7 (a..b), was the first to end")
            assert f": rank 0 on {here}, process {process[0]}, not yet in the world, was" in first_of(family, [], {1}, {})
            assert first_of(family, [], {0, 1}, {}) == "" and not family.orphaned
        finally:
            family.close()
            world.kill()
