"""Collectives inside compiled code: the same values as outside, errors carried out of native code, arguments untouched."""

import gc

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.compiler import communication
from adjoint.core.primitive import bind
from adjoint.core.trace import trace_graph
from adjoint.distributed import (
    Alone,
    ColumnLinear,
    RowLinear,
    all_gather,
    all_reduce,
    broadcast,
    make_split_step,
    own_chunk,
    per_rank,
    reduce_scatter,
    replicate_to_varying,
    run_threads,
    send_receive,
)
from adjoint.distributed.values import ranks_of
from adjoint.errors import CommunicationError
from adjoint.testing.lowering import run_lowered


def everything(c):
    """All collectives, on varying x [12, 2] and replicated w [12]."""
    def function(x, w):
        summed = all_reduce(x, c)
        varying = (reduce_scatter(x * w[:, None], c), all_gather(x, c, axis=1, varying=True), broadcast(x, c, root=0, varying=True),
                   send_receive(x, c, [(r, (r + 1) % c.size) for r in range(c.size)]), own_chunk(summed, c), replicate_to_varying(w, c) * 2)
        return varying, (summed, all_gather(x[:, 0], c), broadcast(x, c, root=c.size - 1), all_reduce(np.float64(3.0) * x[0, 0], c))
    return function


def number(c):
    """One replicated number of them all."""
    def function(x, w):
        varying, replicated = everything(c)(x, w)
        return all_reduce(sum((np.sin(v) * v).sum() for v in varying), c) + sum((np.sin(v) * v).sum() for v in replicated)
    return function


def drawn(c):
    return np.random.default_rng(1 + c.rank).standard_normal((12, 2)), np.random.default_rng(0).standard_normal(12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_compiled_is_eager(n):
    def program(c):
        xs = drawn(c)
        for function in (everything(c), ad.grad(number(c), argnums=(0, 1))):
            run = per_rank(function, c, varying=(True, False))
            for found, expected in zip(ad.tree.flatten(ad.compile(run)(*xs))[0], ad.tree.flatten(run(*xs))[0], strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    run_threads(n, program, seconds=30)


def test_the_reference_executor_agrees():
    """The program's meaning, executed in Python: the same operations on the same memory."""
    def program(c):
        run = per_rank(lambda x, w: sum(everything(c)(x, w), ()), c, varying=(True, False))
        found, failure = run_lowered(run, drawn(c))
        assert failure is None
        for a, b in zip(found, run(*drawn(c)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
    run_threads(3, program, seconds=30)
    world = Fails(CommunicationError("the wire is cut"))
    found, failure = run_lowered(per_rank(lambda x: [all_reduce(x, world)], world), [np.ones(2)])
    assert found == [] and failure.kind == "communication"


def test_derivatives_of_compiled_functions():
    """grad and compile in either order, and the second derivative of a compiled function."""
    def program(c):
        x, w = np.array([1.0, 2.0 + c.rank]), np.array([0.5, -1.0])
        f = per_rank(lambda w, x: all_reduce(np.tanh(w * x).sum() ** 2, c), c, varying=(False, True))
        expected = ad.grad(f)(w, x)
        np.testing.assert_allclose(ad.grad(ad.compile(f))(w, x), expected, rtol=1e-12)
        np.testing.assert_allclose(ad.compile(ad.grad(f))(w, x), expected, rtol=1e-12)
        np.testing.assert_allclose(ad.hessian(ad.compile(f))(w, x), ad.hessian(f)(w, x), rtol=1e-12)
    run_threads(2, program, seconds=30)


def test_inside_of_a_loop():
    """A collective in the body of a scan, compiled: each pass sums over the ranks."""
    def program(c):
        step = per_rank(lambda carry, x: (0.5 * carry + all_reduce(x, c), carry), c, varying=(False, True))
        loop = lambda xs: ad.scan(step, np.zeros(2), xs)
        xs = np.arange(6.0).reshape(3, 2) + c.rank
        bars = ad.grad(lambda xs: loop(xs)[0].sum())
        for function in (loop, bars):
            for found, expected in zip(ad.tree.flatten(ad.compile(function)(xs))[0], ad.tree.flatten(function(xs))[0], strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-12)
        return bars(xs)
    assert np.array_equal(run_threads(2, program, seconds=30)[1], np.outer([0.25, 0.5, 1.0], [1.0, 1.0]))


class Fails:
    """Rank 0 of two, whose wire raises this error; without one, all that comes is `answer`."""

    def __init__(self, error, answer=1.0):
        self.rank, self.size, self.counts, self.error, self.answer = 0, 2, None, error, answer

    def exchange(self, sent, to, received, source):
        if self.error:
            raise self.error
        if received is not None:
            received[...] = self.answer


@pytest.mark.parametrize("error", [CommunicationError("the wire is cut"), KeyboardInterrupt(), ZeroDivisionError("1/0")])
def test_errors_come_out_of_native_code(error):
    """Whatever is raised in the call back is raised after the call; nothing was written, and the function goes on working."""
    world = Fails(error)
    f = ad.compile(per_rank(lambda x: all_reduce(x + 1.0, world), world), donate=0)
    x = np.ones(3)
    with pytest.raises(type(error)) as caught:
        f(x)
    assert caught.value is error
    assert np.array_equal(x, np.ones(3))
    world.error = None
    assert np.array_equal(f(x), [3.0, 3.0, 3.0])


def test_a_step_that_fails_changes_nothing(monkeypatch):
    """Two layers and their optimizer in one donated call: model and state are those of before."""
    monkeypatch.setattr("adjoint.distributed.split._compared", lambda *given: True)         # this wire's answer is no other rank's
    world, rng, rule = Fails(None, answer=0.0), np.random.default_rng(0), optim.adam(0.1)
    model = nn.Sequential(ColumnLinear(nn.Linear(2, 4, rng=rng), world), np.tanh, RowLinear(nn.Linear(4, 1, rng=rng), world))
    step, state = make_split_step(nn.squared_error, rule, world), rule.init(model)
    x, y = np.ones((3, 2), np.float32), np.ones((3, 1), np.float32)
    model, state, _ = step(model, state, x, y)
    before = [leaf.copy() for leaf in ad.tree.flatten((model, state))[0]]
    world.error = CommunicationError("the wire is cut")
    with pytest.raises(CommunicationError, match="the wire is cut"):
        step(model, state, x, y)
    assert all(map(np.array_equal, ad.tree.flatten((model, state))[0], before))
    world.error = None
    model, state, _ = step(model, state, x, y)
    assert not np.array_equal(ad.tree.flatten(model)[0][0], before[0])


def test_a_rank_that_fails_ends_all():
    def program(c):
        f = ad.compile(per_rank(lambda x: all_reduce(x, c), c))
        f(np.ones(4))
        if c.rank == 1:
            raise ValueError("enough")
        return f(np.ones(4))
    with pytest.raises(CommunicationError, match="enough"):
        run_threads(2, program, seconds=20)


def test_large_arrays_among_kernels_of_several_threads():
    """The call back runs on the thread that owns the call, while the others wait at a barrier."""
    def program(c):
        x, y = np.full((600, 700), 1.0 + c.rank), np.ones((700, 300))
        f = per_rank(lambda x, y: np.exp(all_reduce(np.tanh(x) @ y, c) / 700) * 2, c, varying=(True, False))
        np.testing.assert_allclose(ad.compile(f)(x, y), f(x, y), rtol=1e-12)
    run_threads(2, program, seconds=60)


def test_worlds_of_one_process_are_told_apart():
    """Programs that differ only in their communicator are different programs, in every cache of this process."""
    first, second = Alone(), Alone()
    graphs = [trace_graph(lambda x, c=c: [per_rank(lambda x: all_reduce(x, c), c)(x)], [ad.trace(lambda x: x)(np.ones(2)).inputs[0].aval])
              for c in (first, second, first)]
    assert graphs[0] == graphs[2] != graphs[1]
    assert np.array_equal(graphs[0].evaluate(bind, np.ones(2))[0], np.ones(2))


def test_a_communicator_that_is_gone():
    """Compiled code names its communicator by number; where that is gone it says so."""
    alone = Alone()
    number = ranks_of(alone).number
    del alone
    gc.collect()
    assert not communication.perform(np.ones(2), (number, 0, 5, 2, -1, -1))
    with pytest.raises(CommunicationError, match="is gone"):
        raise communication.taken(number)
