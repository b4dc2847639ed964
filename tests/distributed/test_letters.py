"""Letters: posted without waiting, taken from whoever's are there, watched for beside a computation; in threads and under MPI."""

import numpy as np
import pytest
import server_ranks
import worlds

from adjoint.distributed import Alone, run_threads
from adjoint.errors import CommunicationError

PROGRAMS = [("letters", 1), ("letters", 2), ("letters", 4), ("nothing", 2), ("watched", 2)]


@pytest.mark.parametrize(("name", "n"), PROGRAMS)
def test_in_threads(name, n):
    assert run_threads(n, getattr(server_ranks, name), seconds=20) == ["right"] * n


@worlds.every_runtime
@pytest.mark.parametrize(("name", "n"), PROGRAMS[1:])
def test_under_mpiexec(runtime, name, n):
    status, output = worlds.run(runtime.ranks(n, server_ranks.__file__, name))
    assert status == 0 and output.count(": right") == n, output


def test_a_letter_that_does_not_come_names_who_was_waited_for():
    with pytest.raises(CommunicationError, match=r"rank 0 has waited 0.1 s for rank 1, 2"):
        run_threads(3, lambda c: c.arrived([1, 2]) if c.rank == 0 else None, seconds=0.1)


def test_who_waits_for_letters_stops_when_another_rank_fails():
    said = []

    def program(c):
        if c.rank == 1:
            raise ValueError("out of coffee")
        try:
            c.arrived([1])
        except CommunicationError as error:
            said.append(str(error))
            raise
    with pytest.raises(CommunicationError, match="rank 1 of 2 failed: ValueError: out of coffee"):
        run_threads(2, program, seconds=10)
    assert said == ["rank 0 stops: rank 1 has failed: ValueError: out of coffee"]


def test_alone_there_is_nobody_to_write_to():
    alone = Alone()
    alone.flush()
    for call in (lambda: alone.post(np.ones(1), 1), lambda: alone.arrived([1]), lambda: alone.watching(1, print)):
        with pytest.raises(CommunicationError, match="a world of one rank has no rank 1"):
            call()
