"""L-BFGS: trees, dtypes, reasons for its end, the Wolfe conditions, what is refused; beside SciPy's and torch's."""

import importlib.util

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.errors import ConfigError, DtypeError, NonFiniteError
from adjoint.optim.lbfgs import _Pairs
from adjoint.optim.line_search import Point, _between, strong_wolfe, sufficient

RNG = np.random.default_rng(6)
ROOT = RNG.normal(size=(15, 15))
MATRIX, VECTOR = ROOT @ ROOT.T + np.eye(15), RNG.normal(size=15)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_tree_of_arrays(compiled):
    function = lambda m: 0.5 * m["a"] @ (MATRIX @ m["a"]) - VECTOR @ m["a"] + np.sum((m["b"][0] - 2.0) ** 2)
    found = optim.minimize(function, {"a": np.zeros(15), "b": (np.zeros((2, 3)),)}, compiled=compiled)
    np.testing.assert_allclose(found.x["a"], np.linalg.solve(MATRIX, VECTOR), atol=1e-7)
    np.testing.assert_allclose(found.x["b"][0], 2.0, atol=1e-8)
    assert found.converged and found.gradient_norm <= 1e-8 and len(found.values) == found.iterations + 1
    assert max(np.abs(found.gradient["a"]).max(), np.abs(found.gradient["b"][0]).max()) == found.gradient_norm


def test_a_model_and_the_dtype_it_has():
    model = nn.Linear(3, 1, rng=np.random.default_rng(0))
    x = RNG.normal(size=(30, 3)).astype(np.float32)
    y = x @ np.array([[1.0], [-2.0], [0.5]], np.float32) + 0.25
    found = optim.minimize(lambda m: nn.squared_error(m(x), y), model, gradient_tolerance=1e-5)
    assert found.x.weight.dtype == np.float32 and found.converged
    np.testing.assert_allclose(found.x.weight, [[1.0, -2.0, 0.5]], atol=1e-4)


def test_why_it_ended():
    bowl = lambda x: np.sum((x - 1.0) ** 2)
    assert optim.minimize(bowl, np.ones(3)).reason == "gradient" and optim.minimize(bowl, np.ones(3)).iterations == 0
    valley = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    few = optim.minimize(valley, np.array([-1.2, 1.0]), iterations=5)
    assert few.reason == "iterations" and few.iterations == 5 and not few.converged
    assert optim.minimize(valley, np.array([-1.2, 1.0]), decrease_tolerance=1e-3).reason == "decrease"
    digits = optim.minimize(lambda x: np.sum(np.cosh(x)) + 1e6, np.full(2, 0.7), gradient_tolerance=0.0)
    assert digits.reason in ("rounding", "gradient") and digits.gradient_norm < 1e-3
    kink = optim.minimize(lambda x: np.sum(np.abs(x - 1.0)) + 0.1 * np.sum(np.abs(x)), np.array([3.0, -0.3]))
    np.testing.assert_allclose(kink.x, 1.0, atol=1e-6)


def test_two_loops_are_the_matrix_they_stand_for():
    """H <- V^T H V + rho s s^T, V = I - rho y s^T, from (s.y / y.y) I of the newest pair, over the last `history` pairs."""
    pairs, steps, g = _Pairs(3), RNG.normal(size=(5, 15)), RNG.normal(size=15)
    np.testing.assert_array_equal(pairs.times(g), g)
    for s in steps:
        pairs.add(s, MATRIX @ s)
    pairs.add(steps[0], -MATRIX @ steps[0])                                  # no curvature of a bowl: it is left out
    pairs.add(np.ones(2), np.array([1.0, -1.0 + 1e-11]))                     # next to none: too
    last = MATRIX @ steps[-1]
    h = np.eye(15) * (steps[-1] @ last) / (last @ last)
    for s in steps[-3:]:
        y = MATRIX @ s
        rho = 1.0 / (s @ y)
        v = np.eye(15) - rho * np.outer(y, s)
        h = v.T @ h @ v + rho * np.outer(s, s)
    np.testing.assert_allclose(pairs.times(g), h @ g, rtol=1e-9)
    np.testing.assert_allclose(pairs.times(last), steps[-1], rtol=1e-9)      # the secant equation
    assert g is not pairs.times(g) and len(pairs.kept) == 3


def test_the_first_step_and_the_counts():
    """Its length is min(1, 1 / |g|_1); a parabola of one variable is at its minimum after two."""
    def watched(seen, function):
        return lambda x: (seen.append(float(ad.stop_gradient(x)[0])), function(x))[1]
    seen, small = [], []
    found = optim.minimize(watched(seen, lambda x: np.sum((x - 3.0) ** 2)), np.zeros(1), compiled=False)
    assert seen[:2] == [0.0, 1.0] and found.evaluations == len(seen)
    assert found.iterations == len(found.values) - 1 and found.values[0] == 9.0 and found.value == found.values[-1]
    optim.minimize(watched(small, lambda x: 0.01 * np.sum(x * x)), np.ones(1), compiled=False)
    assert small[:2] == [1.0, 1.0 - 0.02]
    for tolerance, reason in ((0.0, "gradient"), (1e-3, "decrease")):
        one = optim.minimize(lambda x: np.sum((x - 0.3) ** 4) + 1.0, np.ones(1), decrease_tolerance=tolerance, compiled=False)
        assert one.reason == reason and one.converged and one.iterations == len(one.values) - 1
        drops = -np.diff(one.values) / np.array(one.values[:-1])             # all values are above 1
        assert tolerance == 0.0 or (drops[-1] <= tolerance and (drops[:-1] > tolerance).all())


def test_a_bracket_is_cut_where_the_cubic_is_lowest():
    """Any cubic is met exactly from both ends, either way round; a tenth of the bracket is kept; without a minimum the middle."""
    cubic, slope = (lambda a: a ** 3 - 2.0 * a * a + 0.3 * a), (lambda a: 3.0 * a * a - 4.0 * a + 0.3)
    lowest = (4.0 + np.sqrt(16.0 - 3.6)) / 6.0
    at = lambda a: Point(a, cubic(a), slope(a), None)
    for low, high in ((0.5, 2.0), (2.0, 0.5), (0.2, 1.5)):
        assert _between(at(low), at(high)) == pytest.approx(lowest, rel=1e-12)
    assert _between(at(0.0), at(1.26)) == pytest.approx(0.9 * 1.26) and _between(at(2.0), at(1.25)) == pytest.approx(1.325)
    line = lambda a: Point(a, -a, -1.0, None)
    assert _between(line(0.0), line(4.0)) == 2.0 or 0.4 <= _between(line(0.0), line(4.0)) <= 3.6
    assert _between(at(1.0), Point(3.0, np.inf, np.nan, None)) == 2.0


def test_sufficient_decrease_where_the_digits_end():
    start = Point(0.0, 1e6, -1e-3, None)
    assert sufficient(Point(1.0, 1e6, -1e-4, None), start)                   # as high to the last digit, and less steep
    assert sufficient(Point(1.0, 1e6 + 5e-8, 0.0, None), start) and not sufficient(Point(1.0, 1e6 + 1e-7, 0.0, None), start)
    assert not sufficient(Point(1.0, 1e6, 0.9999e-3, None), start)           # as steep upwards: beyond the minimum
    plain = Point(0.0, 1.0, -1.0, None)
    assert sufficient(Point(0.5, 1.0 - 0.5e-4, 9.0, None), plain) and not sufficient(Point(0.5, 1.0 - 0.49e-4, 0.0, None), plain)


def test_a_search_gives_up_and_says_so():
    """A slope that never ends: 30 evaluations, each twice as far; a function that only rises: nothing lower is found."""
    lengths = []
    endless = lambda a: lengths.append(a) or Point(a, -a, -1.0, None)
    found, wolfe = strong_wolfe(endless, Point(0.0, 0.0, -1.0, None), 1.0)
    assert not wolfe and lengths == [2.0 ** k for k in range(30)] and found.length == 2.0 ** 29
    cliffs = []                                                              # falls to a cliff and stands above: the bracket shrinks to it
    edge = lambda a: cliffs.append(a) or (Point(a, -a, -1.0, None) if a < 1.234 else Point(a, 1.0, -1.0, None))
    for first in (1.0, 2.0):
        cliffs.clear()
        found, wolfe = strong_wolfe(edge, Point(0.0, 0.0, -1.0, None), first)
        assert not wolfe and len(cliffs) == 30 and 1.2 < found.length < 1.234 and found.value == -found.length
    wrong, wolfe = strong_wolfe(lambda a: Point(a, a, 1.0, None), Point(0.0, 0.0, -1.0, None), 1.0)
    assert not wolfe and wrong.length == 0.0


def test_what_overflows_on_the_way_is_too_far():
    found = optim.minimize(lambda x: np.sum(np.exp(x) - x), np.array([5.0, -8.0, 300.0]))
    assert found.converged
    np.testing.assert_allclose(found.x, 0.0, atol=1e-8)


@pytest.mark.parametrize("first", [1e-6, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("name", ["quartic", "sinus", "flat start", "barrier"])
def test_the_strong_wolfe_conditions_hold(name, first):
    functions = {"quartic": (lambda a: (a - 2.0) ** 4 - a, lambda a: 4 * (a - 2.0) ** 3 - 1.0),
                 "sinus": (lambda a: -np.sin(a) + 0.01 * a * a, lambda a: -np.cos(a) + 0.02 * a),
                 "flat start": (lambda a: -a / (a * a + 2.0), lambda a: (a * a - 2.0) / (a * a + 2.0) ** 2),
                 "barrier": (lambda a: -a - 0.1 * np.log(1.0 - a) if a < 1 else np.inf,
                             lambda a: -1.0 + 0.1 / (1.0 - a) if a < 1 else np.nan)}
    phi, slope = functions[name]
    start = Point(0.0, phi(0.0), slope(0.0), None)
    found, wolfe = strong_wolfe(lambda a: Point(a, phi(a), slope(a), None), start, first)
    assert wolfe and found.length > 0 and found.value <= start.value + 1e-4 * found.length * start.slope
    assert abs(found.slope) <= 0.9 * abs(start.slope)


@pytest.mark.parametrize("call, error, words", [
    (lambda: optim.minimize(np.sum, np.ones(2, np.int64)), DtypeError, "the start holds int64, expected float arrays alone"),
    (lambda: optim.minimize(np.sum, {}), DtypeError, "the start holds no arrays"),
    (lambda: optim.minimize(lambda x: np.sum(x / 0.0), np.ones(2), compiled=False), NonFiniteError, "the function is inf at the start"),
    (lambda: optim.minimize(np.sum, np.ones(2), history=0), ConfigError, "history is 0"),
    (lambda: optim.minimize(np.sum, np.ones(2), iterations=-1), ConfigError, "iterations is -1"),
    (lambda: optim.minimize(np.sum, np.ones(2), gradient_tolerance=-1.0), ConfigError, "gradient_tolerance is -1.0"),
])
def test_what_it_cannot_minimize_is_refused(call, error, words):
    with np.errstate(all="ignore"), pytest.raises(error, match=words) as raised:
        call()
    assert "test_lbfgs.py:" in str(raised.value)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed (extra bench)")
def test_no_worse_than_torch():
    """torch.optim.LBFGS with its strong-Wolfe search: the same minimum of a logistic regression, in no more evaluations than 1.5 times."""
    torch = importlib.import_module("torch")
    x, sign = RNG.normal(size=(60, 8)), np.sign(RNG.normal(size=60))
    found = optim.minimize(lambda w: nn.logistic_loss(x @ w, sign) + 0.005 * np.sum(w * w), np.zeros(8), gradient_tolerance=1e-9)
    w, calls = torch.zeros(8, dtype=torch.float64, requires_grad=True), []
    other = torch.optim.LBFGS([w], lr=1, max_iter=200, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe",
                              history_size=10)
    tx, ts = torch.from_numpy(x), torch.from_numpy(sign)

    def closure():
        other.zero_grad()
        value = torch.nn.functional.softplus(-ts * (tx @ w)).mean() + 0.005 * (w * w).sum()
        value.backward()
        calls.append(float(value.detach()))
        return value
    other.step(closure)
    assert found.reason == "gradient" and found.evaluations <= 1.5 * len(calls)
    assert abs(found.value - min(calls)) < 1e-12
    np.testing.assert_allclose(found.x, w.detach().numpy(), atol=1e-7)
