"""The worked numbers of the lectures, at 1e-12: each row of the mission that has one, through the tape, forward mode and a trace."""

import numpy as np
import pytest

import adjoint as ad

x0 = np.array([2.0, 5.0])


def survey(x):
    """S0: y = ln x1 + x1 x2 - sin x2."""
    return np.log(x[0]) + x[0] * x[1] - np.sin(x[1])


def gradients(f, *args):
    """The gradient by every route: tape, forward mode, tape of a compiled function's graph, gradient of a trace."""
    argnums = tuple(range(len(args)))
    yield ad.grad(f, argnums=argnums)(*args)
    yield ad.jacobian(f, argnums=argnums, mode="forward")(*args)
    yield ad.grad(ad.checkpoint(f), argnums=argnums)(*args)
    yield ad.grad(ad.compile(f), argnums=argnums)(*args)
    yield ad.compile(ad.grad(f, argnums=argnums))(*args)


@pytest.mark.mission(17)
def test_the_value_of_the_survey_function(figure):
    figure.equal(survey(x0), 11.652071455223083778)
    figure.equal(ad.compile(survey)(x0), 11.652071455223083778)


@pytest.mark.mission(18)
def test_forward_primal_trace_line_by_line(figure):
    table = [line.split("│")[0].split() for line in ad.trace(survey)(x0).table().splitlines()]
    lines = [" ".join(words) for words in table if words and words[0].startswith("v_")]
    assert lines == ["v_{-1} = x[0] = 2", "v_0 = x[1] = 5", "v_1 = ln v_{-1} = 0.693147", "v_2 = v_{-1} × v_0 = 10",
                     "v_3 = sin v_0 = −0.958924", "v_4 = v_1 + v_2 = 10.6931", "v_5 = v_4 − v_3 = 11.6521"]
    figure.equal([np.log(2.0), np.sin(5.0), np.log(2.0) + 10], [0.69314718055994530942, -0.95892427466313846889, 10.693147180559945309])


@pytest.mark.mission(19)
def test_reverse_adjoint_trace_line_by_line(figure):
    table = [line.split("│")[1].split() for line in ad.trace(survey)(x0).table().splitlines() if "│" in line]
    lines = [" ".join(words) for words in table if words][1:]
    assert lines[::-1] == ["v̄_5 = f̄ = 1", "v̄_4 = v̄_5 = 1", "v̄_3 = −v̄_5 = −1", "v̄_1 = v̄_4 = 1", "v̄_2 = v̄_4 = 1",
                           "v̄_0 = v̄_3 × cos v_0 = −0.283662", "v̄_{-1} = v̄_2 × v_0 = 5", "v̄_0 = v̄_0 + v̄_2 × v_{-1} = 1.71634",
                           "v̄_{-1} = v̄_{-1} + v̄_1 / v_{-1} = 5.5", "x̄[1] = v̄_0 = 1.71634", "x̄[0] = v̄_{-1} = 5.5"]
    figure.equal(ad.grad(lambda v3: -v3 + 0.0)(np.float64(1.0)) * np.cos(5.0), -0.28366218546322626447)
    for (found,) in gradients(survey, x0):
        figure.equal(found, [5.5, 1.7163378145367737355])


def shared(w):
    """S0: (sin(2 pi w1/w2) + 3 w1/w2 - exp(2 w2)) (3 w1/w2 - exp(2 w2))."""
    ratio, growth = 3.0 * w[0] / w[1], np.exp(2.0 * w[1])
    return (np.sin(2.0 * np.pi * w[0] / w[1]) + ratio - growth) * (ratio - growth)


@pytest.mark.mission(22)
@pytest.mark.parametrize("point, value, gradient", [
    ((1.0, 1.0), 19.263813439560337715, (-53.911589386771916405, 183.63551633218106999)),
    ((0.5, 0.25), 18.933626580057507473, (213.79025182071698864, -456.27668682440087187)),
    ((2.0, 0.5), 86.150292215913564579, (228.01812854010726436, -1012.9938175307406278)),
    ((1.0, 2.0), 2819.4135369422955575, (7.5183079639018606072, 11592.483893986096734))])
def test_a_function_with_shared_terms(figure, point, value, gradient):
    w = np.array(point)
    figure.equal(shared(w), value)
    for (found,) in gradients(shared, w):
        figure.equal(found, gradient)


@pytest.mark.mission(22)
def test_shared_terms_are_computed_once(figure):
    def twice(w):
        return (np.sin(w[0]) + np.exp(2.0 * w[1])) * np.exp(2.0 * w[1])
    compiled = ad.compile(twice)
    compiled(x0)
    figure.equal([node.primitive.name for node in compiled.graph().nodes].count("exp"), 1)


@pytest.mark.mission(34)
def test_the_chain_rule_on_two_links(figure):
    for x in (0.5, -1.25, 3.0):
        y = 2 * x
        figure.equal(ad.grad(lambda x: (2.0 * x) * (2.0 * x))(np.float64(x)), 4 * y)
        figure.equal(ad.grad(lambda y: y * y)(np.float64(y)) * ad.grad(lambda x: 2.0 * x)(np.float64(x)), 8 * x)


@pytest.mark.mission(80)
def test_numerical_derivatives_of_the_slide(figure):
    losses, h = {0: 1.25322, 1: 1.25353, 2: 1.25347}, 0.0001
    found = [(losses[k] - 1.25347) / h for k in range(3)]
    figure.equal(found, [-2.5, 0.6, 0.0], abs=1e-10)            # the slide's losses have five decimals


@pytest.mark.mission(82)
def test_the_analytic_derivative(figure):
    g = lambda x: np.sin(5.0 * np.exp(x))
    figure.equal(g(0.3), 0.44941353303368310362)
    for (found,) in gradients(g, np.float64(0.3)):
        figure.equal(found, 6.0293052415724674156)


def product_of_sum(x, y, z):
    return (x + y) * z


@pytest.mark.mission(85)
def test_a_composition_of_two_primitives(figure):
    g1, g2 = (lambda a, b: a + b), (lambda a, b: a * b)
    figure.equal(product_of_sum(-2.0, 5.0, -4.0), -12.0)
    figure.equal(g2(g1(-2.0, 5.0), -4.0), -12.0)


@pytest.mark.mission(86)
def test_derivatives_of_sum_and_product(figure):
    a, b = np.float64(1.5), np.float64(-0.75)
    figure.equal(ad.grad(lambda a, b: a + b, argnums=(0, 1))(a, b), [1.0, 1.0])
    figure.equal(ad.grad(lambda a, b: a * b, argnums=(0, 1))(a, b), [b, a])        # the slide labels the last one dg1/db


@pytest.mark.mission(87)
def test_gradient_of_the_composition(figure):
    x, y, z = np.float64(3.0), np.float64(5.0), np.float64(2.0)
    for found in gradients(product_of_sum, x, y, z):
        figure.equal(found, [z, z, x + y])


@pytest.mark.mission(90)
def test_a_step_of_gradient_descent(figure):
    from adjoint import optim
    point, eta = (np.float64(3.0), np.float64(5.0), np.float64(2.0)), 0.1
    gradient = ad.grad(product_of_sum, argnums=(0, 1, 2))(*point)
    figure.equal(gradient, [2.0, 2.0, 8.0])
    rule = optim.sgd(eta)
    updates, _ = rule.update(gradient, rule.init(point), point)
    figure.equal(optim.apply_updates(point, updates), [3.0 - eta * 2, 5.0 - eta * 2, 2.0 - eta * 8])


@pytest.mark.mission(91)
def test_the_sigmoid_neuron(figure):
    def neuron(w0, x0, w1, x1, w2):
        return 1.0 / (1.0 + np.exp(-(w0 * x0 + w1 * x1 + w2)))
    point = tuple(map(np.float64, (2.0, -1.0, -3.0, -2.0, -3.0)))
    figure.equal(neuron(*point), 0.73105857863000487925)
    expected = [-0.19661193324148185254, 0.39322386648296370507, -0.39322386648296370507, -0.58983579972444555761,
                0.19661193324148185254]
    for found in gradients(neuron, *point):
        figure.equal(found, expected)
    figure.equal(np.exp(-1.0), 0.36787944117144232160)
    figure.equal(ad.grad(lambda a: 1.0 / a)(np.float64(1.3678794411714423216)), -0.53444664538852302671)
    figure.equal(ad.grad(lambda a: 1.0 / (1.0 + np.exp(a)))(np.float64(-1.0)), -0.19661193324148185254)


@pytest.mark.mission(98)
def test_forward_derivatives_of_the_program(figure):
    def program(x, y):
        a = x * y
        b = np.sin(x)
        return a + b
    x, y = np.float64(0.7), np.float64(1.3)
    for x_dot, y_dot in ((1.0, 0.0), (0.0, 1.0), (0.3, -2.0)):
        z, z_dot = ad.jvp(program, (x, y), (np.float64(x_dot), np.float64(y_dot)))
        figure.equal(z, 1.5542176872376910537)
        figure.equal(z_dot, (x * y_dot + y * x_dot) + np.cos(x) * x_dot)


@pytest.mark.mission(101)
def test_reverse_derivatives_of_the_program(figure):
    for found in gradients(lambda x, y: x * y + np.sin(x), np.float64(0.7), np.float64(1.3)):
        figure.equal(found, [2.0648421872844884263, 0.7])


@pytest.mark.mission(136)
def test_logistic_regression_by_hand_and_by_machine(figure, rng):
    x, w = rng.standard_normal(5), rng.standard_normal(5)
    sigma = 1.0 / (1.0 + np.exp(-(w @ x)))
    for (found,) in gradients(lambda w: -np.log(1.0 / (1.0 + np.exp(-(w @ x)))), w):
        figure.equal(found, -(1.0 - sigma) * x)


@pytest.mark.mission(150)
def test_gradients_of_paths_are_summed(figure):
    x1, x2 = np.float64(1.7), np.float64(-0.6)
    for found in gradients(lambda x1, x2: x1 * x2 + np.sin(x2), x1, x2):
        figure.equal(found, [x2, np.cos(x2) + x1])


@pytest.mark.mission(158)
def test_the_recurrent_cell_of_the_slide(figure, rng):
    x, prev_h = rng.standard_normal((1, 20)), rng.standard_normal((1, 20))
    w_h, w_x = rng.standard_normal((20, 20)) / 8, rng.standard_normal((20, 20)) / 8

    def cell(w_h, w_x, x, prev_h):
        i2h = w_x @ x.T
        h2h = w_h @ prev_h.T
        next_h = i2h + h2h
        return np.tanh(next_h).sum()
    slope = 1.0 - np.tanh(w_x @ x.T + w_h @ prev_h.T) ** 2
    for found in gradients(cell, w_h, w_x, x, prev_h):
        for bar, expected in zip(found, (slope @ prev_h, slope @ x, (w_x.T @ slope).T, (w_h.T @ slope).T), strict=True):
            figure.equal(bar, expected)
