"""Collectives in the table: transposes in the matching inner product, forward against differences, second derivatives, types, mutants."""

import numpy as np
import pytest

import adjoint as ad
from adjoint.core.primitive import TABLE, bind
from adjoint.distributed import (
    Alone,
    all_gather,
    all_reduce,
    broadcast,
    is_varying,
    own_chunk,
    per_rank,
    reduce_scatter,
    replicate_to_varying,
    run_threads,
    send_receive,
)
from adjoint.errors import CollectiveError, CommunicationError, ConfigError, DtypeError, ShapeError

WORLDS = (1, 2, 3, 4)
SIZE = 12               # elements of an axis that is cut: a multiple of every n
STEP = 1e-6


def ring_of(c):
    return [(r, (r + 1) % c.size) for r in range(c.size)]


# name: (function(c, *arguments), types of the arguments, type of the result, shapes); V varies, R is replicated
V, R = True, False
CASES = {
    "all_reduce": (lambda c, x: all_reduce(x * x, c), (V,), R, ((3, 2),)),
    "replicate_to_varying": (lambda c, x: np.sin(replicate_to_varying(x, c)), (R,), V, ((3, 2),)),
    "all_gather": (lambda c, x: all_gather(x * x, c), (V,), R, ((2, 3),)),
    "all_gather, last axis": (lambda c, x: np.sin(all_gather(x, c, axis=-1)), (V,), R, ((2, 3),)),
    "all_gather, varying": (lambda c, x, w: all_gather(x, c, axis=1, varying=True)[:, :3] * w, (V, V), V, ((2, 3), (2, 3))),
    "reduce_scatter": (lambda c, x: reduce_scatter(x * x, c, axis=1), (V,), V, ((2, SIZE),)),
    "own_chunk": (lambda c, x: own_chunk(x * x, c), (R,), V, ((SIZE, 2),)),
    "broadcast": (lambda c, x: broadcast(x * x, c, root=c.size - 1), (V,), R, ((3,),)),
    "broadcast, varying": (lambda c, x, w: broadcast(x, c, root=c.size // 2, varying=True) * w, (V, V), V, ((3,), (3,))),
    "send_receive": (lambda c, x: send_receive(x * x, c, ring_of(c)), (V,), V, ((3,),)),
    "send to one": (lambda c, x: send_receive(x * x, c, [(0, c.size - 1)]) + x, (V,), V, ((3,),)),
    "implicit": (lambda c, w, x: w * x + w, (R, V), V, ((3,), (2, 3))),
    "product": (lambda c, w, x: all_reduce(np.tanh(x @ w), c), (R, V), R, ((3, 2), (4, 3))),
    "used twice": (lambda c, w, x: all_reduce((x @ w) ** 2, c) * w[0], (R, V), R, ((3, 2), (4, 3))),
    "used again": (lambda c, w, x: all_reduce(x * all_reduce(w * x, c), c) * w, (R, V), R, ((3,), (3,))),
    "joined": (lambda c, w, x: np.concatenate([w, x]), (R, V), V, ((2, 3), (3, 3))),
    "loop": (lambda c, w, x: all_reduce(ad.scan(lambda h, xi: (np.tanh(h + w * xi), h), 0 * w, x)[0], c) * w, (R, V), R, ((3,), (4, 3))),
    "checkpoint": (lambda c, w, x: all_reduce(ad.checkpoint(lambda w, x: np.tanh(w * x))(w, x), c), (R, V), R, ((3,), (2, 3))),
    "without the argument": (lambda c, w, x: all_reduce(x + 0 * w, c), (R, V), R, ((3,), (3,))),
}


def drawn(c, seed, varying, shape):
    """Normal numbers: this rank's own, or the same on all."""
    return np.random.default_rng((seed, c.rank + 1 if varying else 0)).standard_normal(shape)


def arguments(c, types, shapes):
    return [drawn(c, 9 + i, varying, shape) for i, (varying, shape) in enumerate(zip(types, shapes, strict=True))]


def inner(c, a, b, varying):
    """The inner product that transposes refer to; a replicated value must be the same on all ranks."""
    product = np.float64(np.sum(np.multiply(a, b)))
    if not varying:
        assert np.array_equal(all_gather(np.ravel(a)[None], c), np.repeat(np.ravel(a)[None], c.size, 0)), "not the same on all ranks"
        return product
    return all_reduce(product, c)


def check(c, function, types, out, xs, seed=0):
    """Forward against central differences, and reverse against forward by the dot-product test."""
    run = per_rank(lambda *xs: function(c, *xs), c, varying=types)
    dots = [drawn(c, (seed, 1, i), varying, x.shape) for i, (varying, x) in enumerate(zip(types, xs, strict=True))]
    y, y_dot = ad.jvp(run, tuple(xs), tuple(dots))
    ends = [run(*(x + sign * STEP * t for x, t in zip(xs, dots, strict=True))) for sign in (1, -1)]
    y_bar = drawn(c, (seed, 2), out, y.shape)
    forward = inner(c, y_dot, y_bar, out)
    assert abs(inner(c, (ends[0] - ends[1]) / (2 * STEP), y_bar, out) - forward) <= 1e-7 * (1 + abs(forward)), "forward"
    for bars in (ad.vjp(run, *xs)[1](y_bar), pulled_inside(c, function, types, out, xs, y_bar)):
        backward = sum(inner(c, x_bar, t, varying) for x_bar, t, varying in zip(bars, dots, types, strict=True))
        size = sum(inner(c, abs(x_bar), abs(t), varying) for x_bar, t, varying in zip(bars, dots, types, strict=True))
        assert abs(backward - forward) <= 1e-12 * (1 + size + abs(forward)), f"dot product: {forward}, {backward}"


def pulled_inside(c, function, types, out, xs, y_bar):
    """The cotangents, with reverse mode inside of the distributed trace; their types are those of the arguments."""
    def pull(y_bar, *xs):
        bars = ad.vjp(lambda *xs: function(c, *xs), *xs)[1](y_bar)
        assert [is_varying(bar, c) for bar in bars] == list(types), "types of cotangents"
        return bars
    return per_rank(pull, c, varying=(out, *types))(y_bar, *xs)


def everywhere(program, seconds=20):
    for n in WORLDS:
        run_threads(n, program, seconds=seconds)


@pytest.mark.parametrize("name", CASES)
def test_derivatives(name):
    function, types, out, shapes = CASES[name]
    everywhere(lambda c: check(c, function, types, out, arguments(c, types, shapes)))


def scalar(name):
    """A case as one replicated number of its arguments."""
    function, _, out, _ = CASES[name]

    def number(c, *xs):
        y = function(c, *xs)
        value = (np.sin(y) * y).sum()
        return all_reduce(value, c) if out else value
    return number


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives(name):
    """The gradient of each case is a function like any other: it is checked in the same way."""
    _, types, _, shapes = CASES[name]
    f = scalar(name)
    inside = lambda c, *xs: ad.grad(lambda *xs: f(c, *xs))(*xs)
    outside = lambda c, *xs: ad.grad(lambda x: f(c, x, *xs[1:]))(xs[0])

    def program(c):
        xs = arguments(c, types, shapes)
        check(c, inside, types, types[0], xs)
        check(c, outside, types, types[0], xs)
        typed = ad.grad(per_rank(lambda *xs: f(c, *xs), c, varying=types))(*xs)
        np.testing.assert_allclose(typed, per_rank(lambda *xs: inside(c, *xs), c, varying=types)(*xs), rtol=1e-12, atol=1e-12)
    everywhere(program)


def test_forward_mode_inside_of_the_trace():
    """Tangents have the types of their primals, also where they happen to be the same on all ranks."""
    def program(c):
        w, x, ones = np.array([0.5, -1.0]), np.array([1.0, 2.0 + c.rank]), np.ones(2)
        f = lambda w, x: all_reduce(np.tanh(w * x + w).sum() ** 2, c)
        run = lambda function: per_rank(function, c, varying=(False, True))(w, x)
        expected = ad.jvp(per_rank(f, c, varying=(False, True)), (w, x), (ones, ones))[1]
        assert run(lambda w, x: ad.jvp(f, (w, x), (ones, ones))[1]) == expected
        np.testing.assert_allclose(run(lambda w, x: ad.linearize(f, w, x)[1](ones, ones)), expected, rtol=1e-13)
        assert run(lambda w, x: [is_varying(ad.jvp(lambda x: x + w, (x,), (ones,))[1], c), is_varying(w, c)]) == [True, False]
    everywhere(program)


def test_gradient_of_shared_parameters_is_that_of_one_process():
    x, target, w = (np.random.default_rng(k).standard_normal(s) for k, s in enumerate(((SIZE, 3), (SIZE, 2), (3, 2))))
    loss = lambda w, x, y: ((np.tanh(x @ w) - y) ** 2).sum()
    expected = ad.grad(loss)(w, x, target)

    def program(c):
        own = [own_chunk(a, c) for a in (x, target)]
        summed = per_rank(ad.grad(lambda w, x, y: all_reduce(loss(w, x, y), c)), c, varying=(False, True, True))(w, *own)
        local = per_rank(ad.grad(loss), c, varying=(False, True, True))(w, *own)     # each rank's own loss: the gradient of their sum
        return summed, local
    for n in WORLDS:
        for found in run_threads(n, program, seconds=20):
            for gradient in found:
                np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_one_sum_for_a_value_that_is_used_often():
    """Cotangents of one value are added before they are summed over the ranks; what no input reaches is not summed at all."""
    def program(c):
        f = lambda w, x: all_reduce((w * x + w * np.sin(x) + np.ones(4) * x * w).sum(), c)
        per_rank(ad.grad(f), c, varying=(False, True))(np.ones(4), np.ones(4))
        return c.counts.rounds
    assert run_threads(2, program) == [2, 2]         # one for the value, one for the gradient


def test_batches_and_numbers_that_are_no_floats():
    def program(c):
        sums = ad.vmap(lambda w, x: all_reduce(w * x, c), in_axes=(None, 0))
        rows = per_rank(sums, c, varying=(False, True))(np.ones(2), np.ones((3, 2)))
        chunks = ad.vmap(lambda x: own_chunk(x, c), in_axes=1)
        return rows, per_rank(chunks, c, varying=False)(np.arange(8.0).reshape(4, 2)), all_reduce(np.array([1, c.rank]), c)
    (rows, chunk, count), _ = run_threads(2, program)
    assert np.array_equal(rows, np.full((3, 2), 2.0))
    assert np.array_equal(chunk, [[0.0, 2.0], [1.0, 3.0]])
    assert count.dtype == np.int64 and count.tolist() == [2, 1]


WRONG = {
    "all_reduce": lambda bar, ranks: bind(TABLE["all_reduce"], bar, ranks=ranks),
    "replicate_to_varying": lambda bar, ranks: bar,
    "all_gather_replicated": lambda bar, ranks: bind(TABLE["reduce_scatter"], bar, ranks=ranks),
    "own_entry": lambda bar, ranks: TABLE["multiply"](bind(TABLE["all_gather_replicated"], bar, ranks=ranks), float(ranks.size)),
    "all_gather": lambda bar, ranks: TABLE["multiply"](bind(TABLE["reduce_scatter"], bar, ranks=ranks), 1 / ranks.size),
    "broadcast_replicated": lambda bar, ranks, root: bind(TABLE["reduce_to_root"], bar, ranks=ranks, root=root),
    "broadcast_from_root": lambda bar, ranks, root: bind(TABLE["keep_at_root"], bar, ranks=ranks, root=root),
    "send_receive": lambda bar, ranks, pairs: bind(TABLE["send_receive"], bar, ranks=ranks, pairs=pairs),
}


@pytest.mark.parametrize("name", WRONG)
def test_mutants_are_caught(name, monkeypatch):
    """Rules wrong by a factor n, or meant for the other type, fail the tests above with two ranks or more (a wrong pairing with three)."""
    monkeypatch.setattr(TABLE[name], "vjp", lambda xs, y, bar, active, **params: [WRONG[name](bar, **params)])
    names = {"all_gather_replicated": ["all_gather"], "all_gather": ["all_gather, varying"], "own_entry": ["own_chunk"],
             "broadcast_replicated": ["broadcast"], "broadcast_from_root": ["broadcast, varying"],
             "replicate_to_varying": ["replicate_to_varying", "implicit"]}.get(name, [name])
    for case in names:
        with pytest.raises((CommunicationError, AssertionError), match=r"dot product|not the same|found a varying|types of"):
            test_derivatives(case)
    if name == "all_reduce":
        for case in ("product", "used twice"):
            with pytest.raises(CommunicationError, match=r"dot product|not the same"):
                test_derivatives(case)


def refusal(function, *xs, varying=True, error=CollectiveError):
    alone = Alone()
    with pytest.raises(error) as caught:
        per_rank(lambda *xs: function(alone, *xs), alone, varying=varying)(*xs)
    return str(caught.value)


def test_errors_of_types():
    x = np.ones((2, 3))
    text = refusal(lambda c, x: all_reduce(x, c), x, varying=False)
    assert "all_reduce: found a replicated value float64[2,3], expected a varying one" in text and "replicate_to_varying" in text
    assert "found a varying value" in refusal(lambda c, x: replicate_to_varying(x, c), x)
    assert "all_reduce(x, world)" in refusal(lambda c, x: own_chunk(x, c), x)
    for collective in (all_gather, reduce_scatter, broadcast, lambda x, c: send_receive(x, c, [])):
        assert "found a replicated value" in refusal(lambda c, x, f=collective: f(all_reduce(x, c), c), x)
    assert "expected a replicated one" in refusal(
        lambda c, x: ad.vjp(lambda x: all_reduce(x, c), x)[1](x), x), "a varying cotangent of a replicated value"


def test_errors_of_use():
    alone, x = Alone(), np.ones(2)
    with pytest.raises(CollectiveError, match=r"traced outside of per_rank"):
        ad.grad(lambda x: all_reduce(x, alone).sum())(x)
    with pytest.raises(CollectiveError, match=r"traced outside of per_rank"):
        per_rank(lambda x: ad.checkpoint(lambda x: all_reduce(x, alone))(x), alone)(x)
    inner = ad.checkpoint(per_rank(lambda x: all_reduce(x, alone), alone))
    assert np.array_equal(ad.grad(lambda x: inner(x).sum())(x), x)
    with pytest.raises(CollectiveError, match="Put per_rank inside"):
        per_rank(lambda x: inner(x), alone)(x)
    with pytest.raises(ConfigError, match="root is 3"):
        broadcast(x, alone, root=3)
    with pytest.raises(ConfigError, match="at most once"):
        send_receive(x, alone, [(0, 1)])
    with pytest.raises(ShapeError, match="no axis 1"):
        all_gather(x, alone, axis=1)
    with pytest.raises(DtypeError, match="cannot be added"):
        per_rank(lambda x: all_reduce(x > 0, alone), alone)(x)
    for varying in ((True,), ([True], False)):
        with pytest.raises(ValueError, match="per_rank"):
            per_rank(lambda a, b: a, alone, varying=varying)([x, x], x)
    with pytest.raises(CommunicationError, match=r"axis 0 of float64\[5\] cannot be cut into 2 equal chunks"):
        run_threads(2, lambda c: own_chunk(np.ones(5), c))


def test_a_trace_over_two_worlds():
    """Two distributed traces, one inside the other, keep their types apart."""
    alone = Alone()

    def program(c):
        f = lambda w, x: all_reduce(all_reduce((w * x).sum(), c), alone)
        inner = per_rank(ad.grad(f), alone, varying=(False, True))
        return per_rank(inner, c, varying=(False, True))(np.float64(1.0), np.array([1.0 + c.rank]))
    assert run_threads(2, program) == [3.0, 3.0]
