"""The TCP relay that stands in for shaped links: right sums, its rate kept, every byte counted, no rank waited for that has gone."""

import numpy as np
import pytest

from adjoint.distributed import run_threads
from adjoint.errors import CommunicationError
from benchmarks import relay

RATE = 12.5e6           # bytes a second: 100 Mbit/s


@pytest.mark.alone
def test_links_carry_their_rate_and_a_server_has_but_one():
    found = relay.measured(4, 1_000_000, 2, RATE)["rows"]
    bound = 2 * 3 / 4 * 1e6 / RATE
    ring, server = (min(found[name]["seconds"]) for name in ("ring", "parameter_server"))
    assert ring > bound - 2 * relay.CATCH_UP and server > 2 * 3 * 1e6 / RATE - 2 * relay.CATCH_UP
    assert ring < 3 * bound and server > 2 * ring                       # busy machines only add to the ring
    for sent, up, down in found["ring"]["counters"]:
        assert 1_500_000 <= sent <= 1_500_100 and 1.0 <= up / sent <= 1.01 and 0.999 <= down / sent <= 1.01


def test_messages_that_come_before_they_are_asked_for_are_kept():
    line = relay.Relay(3, 1e9)

    def program(world):
        rank = relay.Relayed(world, line.port)
        if rank.rank:
            rank.exchange(np.full(100_000 * rank.rank, rank.rank, np.float64), 0, None, -1)
            rank.exchange(np.array([7.0 * rank.rank]), 0, None, -1)
            return None
        found = []
        for source, size in ((2, 200_000), (1, 100_000), (1, 1), (2, 1)):
            place = np.empty(size)
            rank.exchange(None, -1, place, source)
            found.append(sorted(set(place.tolist())))
        return found
    assert run_threads(3, program, seconds=20)[0] == [[2.0], [1.0], [7.0], [14.0]]
    line.close()


def test_who_waits_for_a_line_that_was_closed_gets_an_error():
    line = relay.Relay(2, 1e9)

    def program(world):
        rank = relay.Relayed(world, line.port)
        if rank.rank:
            rank.exchange(np.ones(1), 0, None, -1)
            rank.close()
            return
        rank.exchange(None, -1, np.empty(1), 1)                         # both are there
        line.close()
        rank.exchange(None, -1, np.empty(1), 1)
    with pytest.raises(CommunicationError, match=r"the line was closed|reset"):
        run_threads(2, program, seconds=20)
