"""adjoint launch: output by rank, killed and hanging ranks and a world that goes on to the same bits, Ctrl-C, and what is wrong."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import worlds

from adjoint.distributed import Alone, status
from adjoint.distributed.engine import Engine
from adjoint.distributed.launch import arguments, launch
from adjoint.distributed.status import Place
from adjoint.distributed.watch import accusation
from adjoint.errors import ConfigError

TRAINS = Path(__file__).with_name("trains.py")

HELLO = """
import sys
from adjoint.distributed import world
rank = world().rank
print('hello of', rank)
sys.exit(3 * ('fail' in sys.argv))
"""
HANGS = """
import os, signal, sys, time
import numpy as np
from adjoint.distributed import all_reduce, status, world
from adjoint.distributed.launch import generation
w = world()
for k in range(8):
    if k == 5 and w.rank == 1 and generation() == 0:
        if "stopped" in sys.argv:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)
    status.enter("all_reduce", "conv3.w..conv5.b")
    all_reduce(np.ones(3), w)
    status.leave()
print("done", flush=True)
"""


def write(tmp_path, text):
    program = tmp_path / "program.py"
    program.write_text(text)
    return program


@worlds.every_runtime
def test_lines_say_their_rank_and_the_status_is_the_programs(runtime, tmp_path):
    program = write(tmp_path, HELLO)
    ended, lines = worlds.launched(runtime, "-n", "2", program)
    assert ended == 0 and sorted(lines) == ["hello of 0", "rank 1: hello of 1"]
    ended, lines = worlds.launched(runtime, "-n", "2", program, "fail")
    assert ended == 3 and "hello of 0" in lines


@worlds.one_runtime
def test_the_program_of_the_page_trains_and_says_so(runtime, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "distributed.md"
    program = re.search(r"```python\n(import numpy.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    shorter = program.replace("epochs=20", "epochs=5").replace("runs/", f"{tmp_path}/")
    ended, lines = worlds.launched(runtime, "-n", "2", write(tmp_path, shorter))
    assert ended == 0 and len(lines) == 1 and int(re.fullmatch(r"test accuracy (\d+)%", lines[0])[1]) > 50, lines


@worlds.one_runtime
def test_a_killed_rank_goes_on_from_the_last_checkpoint_to_the_same_bits(runtime, tmp_path):
    ended, lines = worlds.launched(runtime, "-n", "3", TRAINS, tmp_path / "whole", "2")
    found = {re.sub(r"^rank \d: ", "", line) for line in lines if "ended at step" in line}
    assert ended == 0 and len(found) == 1 and (expected := found.pop()).startswith("ended at step 20"), lines
    ended, lines = worlds.launched(runtime, "-n", "3", "--max-restarts", "1", TRAINS, tmp_path / "killed", "2", "11", "0")
    assert ended == 0 and expected in lines, lines
    assert any("starting it again (1 of 1)" in line for line in lines)


@worlds.one_runtime
def test_a_rank_killed_before_the_first_checkpoint_begins_at_the_beginning_again(runtime, tmp_path):
    """Not with a run that another launch has left there."""
    ended, lines = worlds.launched(runtime, "-n", "2", TRAINS, tmp_path, "1")
    assert ended == 0 and (expected := lines[-1].rpartition(": ")[2]).startswith("ended at step 10"), lines
    ended, lines = worlds.launched(runtime, "-n", "2", "--max-restarts", "1", TRAINS, tmp_path, "1", "0", "0")
    assert ended == 0 and any("starting it again (1 of 1)" in line for line in lines), lines
    assert {re.sub(r"^rank 1: ", "", line) for line in lines if "ended at step" in line} == {expected}, lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits-1", "digits-2"]


@worlds.every_runtime
def test_random_kills_cost_no_committed_step_and_no_bit(runtime):
    """The short form of python -m benchmarks.kills, which also prints the seconds."""
    ended, output = worlds.run([runtime.python, "-m", "benchmarks.kills", "--kills", "2", "--starts", "1", "--ranks", "2", "--epochs", "4",
                                "--seed", "3"], seconds=250)
    assert ended == 0, output
    assert "2 kills; committed steps lost: 0;" in output and output.endswith("the same bits\n"), output


@worlds.one_runtime
def test_without_restarts_a_killed_rank_ends_the_world(runtime, tmp_path):
    ended, lines = worlds.launched(runtime, "-n", "2", TRAINS, tmp_path, "3", "5", "1")
    assert ended == 9 and not any("ended at step" in line for line in lines), lines


@worlds.every_runtime
@pytest.mark.parametrize("how", ["asleep", "stopped"])
def test_a_rank_that_hangs_is_named(runtime, tmp_path, how):
    ended, lines = worlds.launched(runtime, "-n", "3", "--hang-seconds", "2", "--max-restarts", "1", write(tmp_path, HANGS), how)
    named = r"launch: nothing has moved for [\d.]+ s: rank 1 on \S+, process \d+, has not entered all_reduce #6 \(conv3\.w\.\.conv5\.b\)"
    assert ended == 0 and any(re.match(named, line) for line in lines), lines
    assert sorted(lines)[-2:] == ["rank 1: done", "rank 2: done"]
    assert "launch: a rank hangs in the world; starting it again (1 of 1)" in lines
    where = "program.py\", line 11 in <module>" if how == "asleep" else "it does not answer"
    assert any(line.startswith("launch: rank 1: ") and where in line for line in lines), lines


HOSTS = """
import socket, time
import numpy as np
from adjoint.distributed import all_reduce_in_place, world
from adjoint.distributed.launch import generation
w = world()
if socket.gethostname() == "n1" and generation() == 0:
    time.sleep(60)
print(w.rank, "on", socket.gethostname(), all_reduce_in_place(np.ones(1000), w)[0], flush=True)
"""
# Called as ssh is; every machine is this one under another name.
SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec unshare --uts sh -c "hostname $host && $*"
"""


@worlds.one_runtime
def test_machines_are_used_evenly_and_one_that_hangs_is_left_out(runtime, tmp_path):
    if runtime.name != "mpich" or not worlds.private():
        pytest.skip("machines are names for this one: that needs MPICH's mpiexec and private namespaces")
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    ended, lines = worlds.launched(
        runtime, "-n", "4", "--nnodes", "2", "--hosts", "n0,n1,n2", "--max-restarts", "1", "--hang-seconds", "2", write(tmp_path, HOSTS),
        HYDRA_LAUNCHER="ssh", HYDRA_LAUNCHER_EXEC=str(tmp_path / "ssh"), MPIR_CVAR_CH4_NETMOD="ofi", FI_PROVIDER="tcp", FI_TCP_IFACE="lo")
    assert ended == 0 and lines[0] == "launch: 4 ranks on n0, n1; what they send each other is not encrypted: trust the network", lines
    assert re.search(r"rank 2 on n1, process \d+, and rank 3 on n1, process \d+, have not entered all_reduce", lines[1]), lines
    assert "launch: without n1 from now on" in lines
    assert set(lines[-4:]) == {"0 on n0 4.0", "rank 1: 1 on n0 4.0", "rank 2: 2 on n2 4.0", "rank 3: 3 on n2 4.0"}, lines


def test_a_hang_is_told_from_a_cut_network():
    places = [Place(rank, 7, True, "all_reduce", "", f"n{rank}", 1, ()) for rank in range(2)]
    assert accusation(places, 2, 3.0).endswith("every rank has entered all_reduce #7; the network between them may be cut")
    assert "rank 2, of which nothing is seen from here, has not entered all_reduce #7" in accusation(places, 3, 3.0)
    early = Place(2, 7, False, "all_reduce", "", "n2", 1, ())
    assert "rank 2 on n2, process 1, has not entered" in accusation([*places, early], 3, 3.0)


@worlds.every_runtime
@pytest.mark.parametrize("number, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_lets_every_rank_save_and_exits_130(runtime, tmp_path, number, expected):
    command = [runtime.python, "-m", "adjoint", "launch", "-n", "2", TRAINS, tmp_path, "100000"]
    with worlds.started(command) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("digits-1/checkpoint*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        os.kill(worlds.inside(process), number)
        output, _ = process.communicate(timeout=40)
    steps = re.findall(r"ended at step (\d+) with (\w+)", output)
    assert process.returncode == expected, output
    assert len(steps) == 2 and steps[0] == steps[1], output


@worlds.one_runtime
def test_success_needs_the_completion_record_of_rank_0(runtime, tmp_path):
    leaves = write(tmp_path, "import os\nfrom adjoint.distributed import world\nif world().rank == 0:\n    from mpi4py import MPI\n"
                             "    MPI.Finalize()\n    os._exit(0)\n")
    ended, lines = worlds.launched(runtime, "-n", "2", leaves)
    assert ended == 1 and lines[0] == "launch: mpiexec reports success, but rank 0 has not ended its program"


def test_pages_are_read_while_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("ADJOINT_LAUNCH", str(tmp_path))
    monkeypatch.setattr(status, "_page", None)
    monkeypatch.setattr(status.atexit, "register", lambda *rest: None)
    monkeypatch.setattr(status, "ASKS", None)
    status.join(0)
    assert str(status.places(tmp_path)[0]) == "no collective yet"
    status.enter("all_reduce", "a..b")
    status.enter("inner")
    status.leave()
    place = status.places(tmp_path)[0]
    assert (place.entered, place.inside, str(place)) == (1, True, "all_reduce #1 (a..b)")
    status.leave()
    assert not status.places(tmp_path)[0].inside
    Engine(Alone()).add_up(np.ones(2), "c..d")                          # a sum of the communication thread is one, with its bucket
    place = status.places(tmp_path)[0]
    assert (place.entered, place.inside, str(place)) == (2, False, "all_reduce #2 (c..d)")
    status.enter("x" * 100, "y" * 200)
    assert (len(status.places(tmp_path)[0].collective), len(status.places(tmp_path)[0].bucket)) == (80, 160)
    status.leave()
    (tmp_path / "rank-1").write_bytes(b"torn")
    assert len(status.places(tmp_path)) == 1


def test_machines_are_named_to_either_mpiexec(tmp_path):
    for said, expected in (("mpiexec (Open MPI) 5.0.11", ["--host", "a:2,b:2"]), ("HYDRA", ["-hosts", "a,b", "-ppn", "2", "-n", "4"])):
        fake = tmp_path / said.split()[0] / "mpiexec"
        fake.parent.mkdir()
        fake.write_text(f"#!/bin/sh\necho '{said}'\n")
        fake.chmod(0o755)
        found = " ".join(arguments(str(fake), 4, 2, ["a", "b"]))
        assert " ".join(expected) in found and found.endswith("-n 4")


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    for problem, options in (("0 ranks", {"ranks": 0}), ("-1 restarts", {"ranks": 1, "max_restarts": -1}),
                             ("5 ranks cannot be dealt evenly to 2", {"ranks": 5, "hosts": "a,b"}),
                             ("2 machines are asked for, 0 are named", {"ranks": 4, "nodes": 2}),
                             ("3 machines are asked for, 2 are named", {"ranks": 3, "nodes": 3, "hosts": "a,b"}),
                             ("0 s until a rank hangs", {"ranks": 2, "hang_seconds": 0.0})):
        with pytest.raises(ConfigError, match=problem):
            launch([str(TRAINS)], **options)
    with pytest.raises(ConfigError, match=r"no program 'nothing\.py'"):
        launch(["nothing.py"], ranks=2)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"no mpiexec.*\n.*adjoint\[mpi\]"):
        launch([str(TRAINS)], ranks=2)
    (tmp_path / "mpiexec").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "mpiexec").chmod(0o755)
    with pytest.raises(ConfigError, match="does not run"):
        launch([str(TRAINS)], ranks=2)
