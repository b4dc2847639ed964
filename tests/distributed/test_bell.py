"""The bell that ends a rank's sleep: heard at once, harmless when it rings for nothing, absent where there is no loopback interface."""

import subprocess
import sys
import threading
import time

import bell_ranks
import pytest
import worlds

from adjoint.distributed.bell import Bell, place


def test_a_ring_ends_the_sleep_of_its_bell_alone():
    bell, other = Bell(), Bell()
    assert bell.port and bell.port != other.port and list(bell.address()) == [place(), bell.port]
    threading.Timer(0.05, lambda: other.ring(bell.port)).start()
    begin = time.monotonic()
    assert bell.wait(30.0) and 0.03 < time.monotonic() - begin < 20.0
    assert not bell.wait(0.0) and not other.wait(0.0)


def test_many_rings_before_a_sleep_are_one_and_nobody_is_rung_in_vain():
    bell = Bell()
    for _ in range(1000):
        bell.ring(bell.port)
    assert bell.wait(30.0) and not bell.wait(0.0)
    bell.ring(0)                                            # of a rank that has none: nothing happens
    begin = time.monotonic()
    assert not bell.wait(0.02) and time.monotonic() - begin > 0.015


PROGRAM = """
import time
from adjoint.distributed.bell import Bell
bell, begin = Bell(), time.monotonic()
bell.ring(bell.port)
print(bell.port, bell.wait(0.05), time.monotonic() - begin > 0.04)
"""


def test_without_a_loopback_interface_there_is_no_bell_and_sleeping_is_sleeping():
    if not worlds.private():
        pytest.skip("this system lets us have no namespaces")
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, env=worlds.environment(), check=False)
    assert found.stdout.split() == ["0", "False", "True"], found.stderr


@worlds.every_runtime
def test_letters_wake_ranks_under_mpiexec(runtime):
    status, output = worlds.run(runtime.ranks(2, bell_ranks.__file__))
    assert status == 0 and output.count(": right") == 2, output
