"""The planner's formulas against the simulator that runs the schedules, and against worked figures."""

import pytest

from adjoint.distributed import ALGORITHMS, Links, Simulator
from adjoint.distributed.planner import COSTS, forecast
from adjoint.errors import ConfigError

ETHERNET = Links(50e-6, 117.7e6)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 13, 16])
def test_a_formula_is_the_time_of_its_schedule(name, n):
    size = 1_000_000
    simulated = Simulator(n, ETHERNET).run(ALGORITHMS[name](n, size), bytes_per_element=4)
    assert COSTS[name](n, 4.0 * size, ETHERNET) == pytest.approx(float(simulated), rel=1e-4)


@pytest.mark.mission(58)
def test_splitting_the_load_pays_where_the_wire_allows(figure):
    """ResNet-50's 102 MB and 250 ms on 10 Gbit/s, hidden behind the backward pass: 64 workers are nearly 64 times as fast."""
    fast = {f.strategy: f for f in forecast(64, compute=0.25, size=102e6, links=Links(25e-6, 1177e6), overlap=2 / 3)}
    figure.equal(fast["ring"].efficiency, 0.25 / (0.25 + 2 * 63 * (25e-6 + 102e6 / 64 / 1177e6) - 1 / 6), rel=1e-9)
    figure.at_least(fast["ring"].efficiency, 0.9)
    figure.at_most(fast["parameter_server"].efficiency, 0.025)


@pytest.mark.mission(59)
def test_a_step_is_sending_computing_and_returning(figure):
    """One worker and its server: size / bandwidth there and back, and n t_c between."""
    examples, seconds, size = 64, 1e-3, 4e6
    step = forecast(2, compute=examples * seconds, size=size, links=ETHERNET)
    server = next(f for f in step if f.strategy == "parameter_server")
    figure.equal(server.computing, 0.064)
    figure.equal(server.communicating, 2 * (50e-6 + 4e6 / 117.7e6))
    figure.equal(server.seconds, 0.064 + 2 * (50e-6 + 4e6 / 117.7e6))


def test_jitter_waits_for_the_slowest_and_backup_workers_for_the_k_th():
    slow = forecast(8, compute=1.0, size=0.0, links=Links(0.0, 1.0), jitter=1.0)
    assert all(f.seconds == pytest.approx(2.717857, rel=1e-6) for f in slow)
    backup, = forecast(8, compute=1.0, size=0.0, links=Links(0.0, 1.0), jitter=1.0, wait_for=6)
    assert backup.strategy == "parameter_server" and backup.seconds == pytest.approx(1.217857, rel=1e-6)
    assert backup.efficiency == pytest.approx(6 / 8 / 1.217857, rel=1e-6)


def test_one_worker_sends_nothing_and_bad_numbers_are_refused():
    assert {f.efficiency for f in forecast(1, compute=1.0, size=1e9, links=ETHERNET)} == {1.0}
    for options in ({"compute": 0.0}, {"compute": 1.0, "jitter": 2.0}, {"compute": 1.0, "overlap": -1.0}):
        with pytest.raises(ConfigError, match="forecast"):
            forecast(4, size=1.0, links=ETHERNET, **options)
