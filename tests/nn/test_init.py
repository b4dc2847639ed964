"""Initial values: distributions, fans, orthogonality; what the lectures say of them, measured by depth (rows 182-188)."""

import itertools
import math

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import ConfigError, ShapeError

init = nn.init


def deviations(draw, activation, width=512, depth=10, batch=256):
    """Standard deviation of the activations after each layer of a deep network without biases, on N(0, 1) inputs."""
    rng = np.random.default_rng(0)
    h, found = rng.standard_normal((batch, width)), []
    for _ in range(depth):
        h = activation(h @ draw((width, width), rng, dtype=np.float64).T)
        found.append(math.sqrt(np.mean(np.square(h))))
    return np.array(found)


def test_fans_of_convolutions():
    assert init.fans((8, 3, 5, 7)) == (3 * 35, 8 * 35) and init.fans((8, 3, 5)) == (15, 40) and init.fans((8, 3)) == (3, 8)
    rng, shape = np.random.default_rng(0), (64, 32, 3, 3)
    for draw, expected in ((init.xavier_uniform, math.sqrt(2 / (96 * 9))), (init.xavier_normal, math.sqrt(2 / (96 * 9))),
                           (init.he_normal, math.sqrt(2 / 288)), (init.he_uniform, math.sqrt(2 / 288)),
                           (init.torch_linear, math.sqrt(1 / 3 / 288))):
        w = draw(shape, rng)
        assert w.shape == shape and w.dtype == np.float32
        np.testing.assert_allclose(w.std(), expected, rtol=0.02)
    assert abs(nn.Conv2d(32, 64, 3, rng=rng).weight).max() <= 1 / math.sqrt(288)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (6, 2, 3, 3), (40, 2, 3)])
def test_orthogonal(shape):
    w = init.orthogonal(shape, np.random.default_rng(0), gain=2.0, dtype=np.float64)
    assert w.shape == shape
    matrix = w.reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, 4.0 * np.eye(min(matrix.shape)), atol=1e-13)


def test_orthogonal_matrices_are_drawn_from_all(figure):
    """Uniform over rotations and reflections: the mean is 0, and each entry has the variance 1 / n (without the signs it has not)."""
    drawn = np.stack([init.orthogonal((3, 3), np.random.default_rng(seed), dtype=np.float64) for seed in range(2000)])
    np.testing.assert_allclose(drawn.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose(drawn.var(0), 1 / 3, atol=0.03)


def test_truncated_normal():
    w = init.truncated_normal((300, 300), np.random.default_rng(0), std=0.5, bound=1.5)
    assert np.abs(w).max() <= 0.75 and w.dtype == np.float32
    density, mass = math.exp(-1.125) / math.sqrt(2 * math.pi), math.erf(1.5 / math.sqrt(2))
    np.testing.assert_allclose(w.std(), 0.5 * math.sqrt(1 - 2 * 1.5 * density / mass), rtol=0.01)
    with pytest.raises(ConfigError, match="bound is 0"):
        init.truncated_normal((2, 2), np.random.default_rng(0), bound=0)
    with pytest.raises(ShapeError, match="two axes"):
        init.orthogonal((3,), np.random.default_rng(0))


@pytest.mark.mission(182)
def test_initial_values_determine_the_statistics_of_outputs_and_gradients(figure):
    """Deviation of tanh's activations after ten layers, and of the gradient at the input, for three scales of the same draw."""
    outputs, gradients = [], []
    for scale in (0.25, 1.0, 4.0):
        draw = lambda shape, rng, dtype, scale=scale: scale * init.he_normal(shape, rng, gain=1.0, dtype=dtype)
        outputs.append(deviations(draw, np.tanh, 128)[-1])
        rng = np.random.default_rng(0)
        weights = [draw((128, 128), rng, np.float64) for _ in range(10)]
        x = rng.standard_normal((32, 128))

        def loss(x, weights=weights):
            for w in weights:
                x = np.tanh(x @ w.T)
            return np.sum(x)
        gradients.append(float(np.std(ad.grad(loss)(x))))
    figure.at_most(outputs[0], 2e-6)
    figure.at_least(outputs[1], 0.2)
    figure.at_least(outputs[2], 0.85)                                    # saturated: most are near -1 or 1
    figure.at_most(gradients[0] / gradients[1], 1e-5)


@pytest.mark.mission(183)
def test_constant_values_keep_all_units_equal_for_ever(figure):
    """Equal rows receive equal gradients: after 20 steps all hidden units are one, while the weights have moved."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((16, 3)), rng.integers(0, 2, 16)

    def spread_after(weight_init):
        model = nn.mlp(3, 8, 2, activation=np.tanh, rng=np.random.default_rng(0), dtype=np.float64, weight_init=weight_init)
        zeros = {n: np.zeros_like(a) if "bias" in n else a for n, a in nn.named_parameters(model).items()}
        model = start = nn.load_parameters(model, zeros)
        for _ in range(20):
            bars = ad.grad(lambda m: nn.cross_entropy(m(x), y))(model)
            model = ad.tree.map_tree(lambda p, bar: p - 0.5 * bar, model, bars)
        return np.ptp(model[0].weight, axis=0).max(), np.abs(model[0].weight - start[0].weight).max()
    def constant(shape, rng, dtype):
        """One value for the hidden layer; in the last one a value per output, so that a gradient arrives."""
        return init.constant(shape, value=0.1, dtype=dtype) * (np.arange(1.0, 3.0)[:, None] if shape[0] == 2 else 1.0)
    apart, moved = spread_after(constant)
    figure.equal(apart, 0.0)
    figure.at_least(moved, 0.03)
    figure.at_least(spread_after(init.xavier_normal)[0], 0.5)


@pytest.mark.mission(184)
def test_small_normal_values_keep_the_model_linear(figure):
    """N(0, 0.01^2): no input matters more, and tanh of the first layer differs from its argument by a cube."""
    rng = np.random.default_rng(0)
    w = init.normal((100, 100), rng, std=0.01, dtype=np.float64)
    figure.equal(w.std(), 0.01, rel=0.02)
    z = rng.standard_normal((500, 100)) @ w.T
    figure.at_most(np.sqrt(np.mean((np.tanh(z) - z) ** 2) / np.mean(z * z)), 0.02)
    figure.at_least(np.sqrt(np.mean((np.tanh(100 * z) - 100 * z) ** 2) / np.mean((100 * z) ** 2)), 0.5)


@pytest.mark.mission(185)
def test_deviation_by_depth(figure):
    """tanh, width 512: with N(0, 0.01^2) each layer shrinks the deviation by 0.01 sqrt(512); with N(0, 1) it saturates at once."""
    small = deviations(lambda shape, rng, dtype: init.normal(shape, rng, std=0.01, dtype=dtype), np.tanh)
    figure.equal(small[1:] / small[:-1], np.full(9, 0.01 * math.sqrt(512)), rel=0.03)
    figure.at_most(small[-1], 1e-6)
    large = deviations(lambda shape, rng, dtype: init.normal(shape, rng, std=1.0, dtype=dtype), np.tanh)
    figure.at_least(large, 0.95)


@pytest.mark.mission(186)
def test_the_slides_xavier_is_an_erratum(figure):
    """sqrt 6 / (n + m) is smaller than sqrt(6 / (n + m)) by sqrt(n + m): 32 times at 512, and activations vanish with depth."""
    rng, shape = np.random.default_rng(0), (512, 512)
    right, slide = (np.abs(draw(shape, rng, dtype=np.float64)).max() for draw in (init.xavier_uniform, init.slide_xavier))
    figure.equal([right, slide], [math.sqrt(6 / 1024), math.sqrt(6) / 1024], rel=1e-4)
    figure.equal([right, slide], [0.0765, 0.00239], rel=2e-3)
    figure.equal(right / slide, 32.0, rel=1e-4)
    kept, lost = deviations(init.xavier_uniform, np.tanh), deviations(init.slide_xavier, np.tanh)
    figure.at_least(kept[-1], 0.2)
    figure.equal(lost[1:] / lost[:-1], np.full(9, 1 / 32), rel=0.05)
    figure.at_most(lost[-1], 2e-15)
    linear = deviations(init.xavier_uniform, lambda z: z)                # the rule's promise: output variance = input variance
    figure.equal(linear, np.ones(10), abs=0.05)


@pytest.mark.mission(187)
def test_one_over_n_for_tanh_two_over_n_for_relu(figure):
    """Second moments after ten layers: He's keep a ReLU's where they are, 1 / n halves them each time."""
    he, lecun = (deviations(lambda shape, rng, dtype, g=g: init.he_normal(shape, rng, gain=g, dtype=dtype), nn.relu)
                 for g in (math.sqrt(2.0), 1.0))
    figure.equal(he, np.ones(10), abs=0.2)
    figure.equal(np.square(lecun[1:] / lecun[:-1]), np.full(9, 0.5), rel=0.12)
    figure.equal(init.he_normal((400, 300), np.random.default_rng(0)).std(), math.sqrt(2 / 300), rel=0.01)
    tanh = deviations(lambda shape, rng, dtype: init.he_normal(shape, rng, gain=1.0, dtype=dtype), np.tanh)
    figure.at_least(tanh[-1], 0.2)


@pytest.mark.mission(188)
def test_small_gradients_mean_no_learning(figure):
    """Ten layers of tanh, 30 steps of one recipe: from N(0, 0.01^2) the first layer's gradient is nothing and the loss stays."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((64, 16)), rng.integers(0, 2, 64)
    norms, losses = [], []
    for draw in (lambda shape, rng, dtype: init.normal(shape, rng, std=0.01, dtype=dtype), init.xavier_uniform):
        model = nn.mlp(16, *[32] * 9, 2, activation=np.tanh, rng=np.random.default_rng(0), weight_init=draw, dtype=np.float64)
        step = ad.compile(ad.value_and_grad(lambda m: nn.cross_entropy(m(x), y)))
        value, bars = step(model)
        norms.append(np.linalg.norm(bars[0].weight))
        for _ in range(30):
            model = ad.tree.map_tree(lambda p, bar: p - 0.2 * bar, model, step(model)[1])
        losses.append(step(model)[0] / value)
    figure.at_most(norms[0] / norms[1], 1e-10)
    figure.at_least(losses[0], 0.95)
    figure.at_most(losses[1], 0.5)


def test_every_rule_is_reproducible_and_refuses_seeds():
    rules = [init.normal, init.truncated_normal, init.orthogonal, init.xavier_uniform, init.xavier_normal, init.slide_xavier,
             init.he_normal, init.he_uniform, init.torch_linear]
    for rule, dtype in itertools.product(rules, (np.float32, np.float64)):
        first, second = (rule((3, 4), np.random.default_rng(5), dtype=dtype) for _ in range(2))
        assert first.dtype == dtype and np.array_equal(first, second)
        with pytest.raises(ConfigError, match="rng is 5"):
            rule((3, 4), 5)
