"""The first step of a parameter server: what differs between ranks is refused on all of them, by one collective."""

import threading

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import ParameterServer, run_threads, status, synchronized
from adjoint.errors import AdjointError

X = np.linspace(-1.0, 1.0, 36).reshape(12, 3)        # as many examples for each of two or three workers
Y = X[:, :1]
POLICIES = [{}, {"wait_for": 1}, {"staleness": 1}, {"servers": 2}]


def layer(seed=0):
    return nn.Linear(3, 1, rng=np.random.default_rng(seed), dtype=np.float64)


def steps(parallel, model, *, loss=nn.squared_error, rate=0.1, agreed=True, compiled=False, count=3):
    """A training of a few steps."""
    rule = optim.sgd(rate)
    state = rule.init(model)
    if agreed:
        model, state = parallel.agree(model, state)
    step = parallel.make_step(loss, rule, compiled=compiled)
    for _ in range(count):
        model, state, *_ = step(model, state, *parallel.share(X, Y))
    return parallel.settle(model, state)[:2]


def refused(program, ranks=4):
    """The error that every rank has raised by itself."""
    def caught(world):
        with pytest.raises(AdjointError) as found:
            program(world)
        return str(found.value)
    found = run_threads(ranks, caught, seconds=20)
    assert len(set(found)) == 1, found
    return found[0]


@pytest.mark.parametrize("options", POLICIES, ids=str)
def test_models_that_were_not_agreed_on(options):
    error = refused(lambda world: steps(ParameterServer(world, **options), layer(world.rank), agreed=False))
    assert error.startswith("the ranks hold different models: the sum of |model.weight| is from ") and "Call agree(model, state)" in error


def test_states_that_were_not_agreed_on():
    def program(world):
        parallel, rule, model = ParameterServer(world), optim.adam(0.1), layer()
        state = rule.init(model)
        if world.rank == 3:
            _, state = rule.update(model, state, model)
        parallel.make_step(nn.squared_error, rule, compiled=False)(model, state, X, Y)
    assert "the sum of |optimizer." in refused(program)


@pytest.mark.parametrize("options", POLICIES, ids=str)
def test_another_constant_in_the_loss_of_one_worker(options):
    """A number is found without a trace; what is in an array or an object is a constant of the program."""
    def number(rank):
        factor = 1.0 + (rank == 3)
        return lambda p, y: factor * nn.squared_error(p, y)

    def array(rank):
        factors = np.full((1, 3), 1.0 + (rank == 3))
        return lambda p, y: (np.square(p - y) @ factors).mean()
    for make, compiled in ((number, False), (array, True)):
        error = refused(lambda world, make=make, compiled=compiled: steps(
            ParameterServer(world, **options), layer(), loss=make(world.rank), compiled=compiled))
        assert error.startswith("the workers compute different losses"), error


def test_another_rate_on_one_of_several_servers():
    error = refused(lambda world: steps(ParameterServer(world, servers=2), layer(), rate=0.1 + 0.1 * (world.rank == 1)))
    assert error.startswith("the ranks have different optimizers: their updates by the same gradients are from 400000 to 800000 in all.")


@pytest.mark.parametrize("compiled", [False, True])
def test_layers_that_ask_other_ranks(compiled):
    def program(world):
        model = synchronized(nn.Sequential(layer(), nn.BatchNorm1d(1, dtype=np.float64)), world)
        train.fit(model, (X, Y), optimizer=optim.sgd(0.1), loss=nn.squared_error, epochs=1, batch=12, compiled=compiled,
                  parallel=ParameterServer(world))
    error = refused(program)
    assert error.startswith("ParameterServer: the model has a SyncBatchNorm.") and "DataParallel(world)" in error


@pytest.mark.parametrize("options", POLICIES, ids=str)
def test_one_collective_in_the_first_step_of_each_training(options, monkeypatch):
    said = {}
    monkeypatch.setattr(status, "enter",
                        lambda name, *rest, **more: said.setdefault(threading.current_thread().name, []).append(name))

    def program(world):
        parallel = ParameterServer(world, **options)
        model, _ = steps(parallel, layer(), agreed=False)
        model, _ = steps(parallel, model, loss=lambda p, y: 2.0 * nn.squared_error(p, y), agreed=False, count=5)
        return model.weight
    found = run_threads(4, program, seconds=20)
    assert all(np.array_equal(each, found[0]) for each in found)
    for names in said.values():
        assert [name for name in names if name != "parameter_server"] == ["all_reduce"] * 2
        assert names[0] == "all_reduce"


def test_a_second_training_is_compared_anew():
    def program(world):
        parallel = ParameterServer(world)
        steps(parallel, layer())
        steps(parallel, layer(world.rank), agreed=False)
    assert refused(program).startswith("the ranks hold different models")
