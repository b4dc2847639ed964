"""A parameter server in which a rank hangs: the launcher names it, whoever waits for whom, and however many are waited for."""

import re
import threading

import pytest
import worlds
from server_ranks import trained

from adjoint.distributed import run_threads, status
from adjoint.distributed.status import Place
from adjoint.distributed.watch import _Progress, accusation, hanging

PROGRAM = """
import sys, time
import numpy as np
from adjoint import distributed, nn, optim
world, case = distributed.world(), sys.argv[1]
options = {"shorter": {}, "asleep": {}, "server": {}, "backup": {"wait_for": 1}, "ahead": {"staleness": 1}}[case]
who = 0 if case == "server" else 1
x, rule = np.ones((24, 3)), optim.sgd(0.1)
parallel, model = distributed.ParameterServer(world, **options), nn.Linear(3, 1, rng=np.random.default_rng(0), dtype=np.float64)
model, state = parallel.agree(model, rule.init(model))
step = parallel.make_step(nn.squared_error, rule, compiled=False)
for k in range(12):
    if k == 4 and world.rank == who:
        if case == "shorter":
            sys.exit()
        time.sleep(60)
    model, state, *_ = step(model, state, *parallel.share(x, x[:, :1]))
parallel.settle(model, state)
"""


@worlds.one_runtime
@pytest.mark.parametrize("case, waits", [
    ("asleep", r"rank 1 on \S+, process \d+, has not entered parameter_server #\d+ \(step 5: gradients\), in which others wait"),
    ("shorter", r"rank 1 on \S+, process \d+, which has ended its program, has not entered parameter_server #\d+ \(step 5: gradients\)"),
    ("server", r"rank 0 on \S+, process \d+, has not entered parameter_server #\d+ \(step 5: the model\), in which others wait"),
    ("backup", r"rank 1 on \S+, process \d+, has not entered parameter_server #\d+ \(the end of all\), in which others wait"),
    ("ahead", r"rank 1 on \S+, process \d+, has not entered parameter_server #\d+ \(step \d+: \w.*\), in which others wait")])
def test_the_rank_that_hangs_is_named(runtime, tmp_path, case, waits):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended, lines = worlds.launched(runtime, "-n", "3", "--hang-seconds", "2", program, case)
    assert ended == 124 and any(re.match(r"launch: nothing has moved for [\d.]+ s: " + waits, line) for line in lines), lines
    if case != "shorter":
        assert any(line.startswith("launch: rank ") and 'program.py", line 16 in <module>' in line for line in lines), lines


def place(rank, entered, inside, step=""):
    return Place(rank, entered, inside, "parameter_server", step, f"n{rank}", rank, ())


def test_who_waits_is_not_accused_while_another_does_not():
    """A server waits for gradients, one worker for the model of the step before it, another for nothing."""
    server, behind, late = place(0, 9, True, "step 5: gradients"), place(1, 8, True, "step 4: the model"), place(2, 8, False)
    assert hanging([server, behind, late]) == ([late], server) and hanging([server, behind]) == ([behind], server)
    assert "rank 2 on n2, process 2, has not entered parameter_server #9 (step 5: gradients)" in accusation([server, behind, late], 3, 2.0)
    ahead = [place(0, 7, True, "step 11: gradients"), place(1, 7, False, "step 4: the model"), place(2, 7, True, "step 13: the model")]
    assert [each.rank for each in hanging(ahead)[0]] == [1]


def test_a_step_that_does_not_count_is_a_move(tmp_path):
    """Ranks that may be ahead of each other always look alike but for their steps."""
    progress, moves = _Progress(tmp_path, 1, 1.0), []
    for name in ("step 1", "step 2", "step 2", "step 3"):
        (tmp_path / "rank-0").write_text(f"7\t1\tparameter_server\t{name}\tn0\t1\t")
        progress.moved = 0.0
        progress.stalled(progress.looked + 10.0)
        moves.append(progress.moved > 0.0)
    assert moves == [True, True, False, True]


@pytest.mark.parametrize("options", [{}, {"wait_for": 1}, {"staleness": 1}, {"servers": 2}], ids=str)
def test_steps_count_where_all_ranks_wait_as_often(options, monkeypatch):
    """So that the numbers of all ranks are the same at the end."""
    said = {}

    def enter(collective, bucket="", *, counts=True):
        if collective == "parameter_server":
            said.setdefault(threading.current_thread().name, []).append((bucket, counts))
    monkeypatch.setattr(status, "enter", enter)
    run_threads(4, lambda world: trained(world, 4, **options), seconds=20)
    every = "wait_for" not in options and "staleness" not in options
    assert [sum(counts for _, counts in found) for found in said.values()] == [5 if every else 1] * 4
    for found in said.values():
        assert found[-1] == ("the end of all", True) and all(bucket.startswith("step ") for bucket, _ in found[:-1])
