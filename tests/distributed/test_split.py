"""A Linear shared out over ranks is the whole one: outputs, gradients, 200 steps of training; one sum forward and one backward."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.distributed import ColumnLinear, RowLinear, make_split_step, per_rank, run_threads, varying_leaves
from adjoint.errors import CommunicationError

STEPS, HIDDEN = 200, 11             # hidden features that no n divides
RULES = {"sgd": optim.sgd(0.1, momentum=0.9), "adam": optim.adam(0.01)}


def pair(dtype):
    rng = np.random.default_rng(2)
    return nn.Sequential(nn.Linear(4, HIDDEN, rng=rng, dtype=dtype), np.tanh, nn.Linear(HIDDEN, 3, rng=rng, dtype=dtype))


def whole(dtype):
    rng = np.random.default_rng(3)
    return nn.Sequential(nn.Linear(4, HIDDEN, rng=rng, dtype=dtype), np.tanh, nn.Linear(HIDDEN, 5, rng=rng, dtype=dtype), np.tanh,
                         nn.Linear(5, HIDDEN, bias=False, rng=rng, dtype=dtype), nn.relu, nn.Linear(HIDDEN, 3, rng=rng, dtype=dtype))


def split(model, world):
    """Every second Linear by columns, the others by rows."""
    layers = list(model.layers)
    for k in range(0, len(layers), 2):
        layers[k] = (ColumnLinear, RowLinear)[k // 2 % 2](layers[k], world)
    return nn.Sequential(*layers)


def joined(model):
    return nn.Sequential(*(layer.whole() if isinstance(layer, ColumnLinear | RowLinear) else layer for layer in model.layers))


def examples(dtype, count=24):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((count, 4)).astype(dtype)
    return x, np.argmax(x[:, :3] + 0.3 * rng.standard_normal((count, 3)), 1)


def trained(dtype, rule, steps):
    """One process."""
    @ad.compile
    def step(model, state, x, y):
        value, gradients = ad.value_and_grad(lambda model: nn.cross_entropy(model(x), y))(model)
        updates, state = rule.update(gradients, state, model)
        return optim.apply_updates(model, updates), state, value
    model, (x, y) = pair(dtype), examples(dtype)
    state = rule.init(model)
    for _ in range(steps):
        model, state, loss = step(model, state, x, y)
    return nn.named_parameters(model), loss


def trained_split(world, dtype, rule, steps, compiled=True):
    model, (x, y) = split(pair(dtype), world), examples(dtype)
    step, state = make_split_step(nn.cross_entropy, rule, world, compiled=compiled), rule.init(model)
    for _ in range(steps):
        model, state, loss = step(model, state, x, y)
    return nn.named_parameters(joined(model)), loss


@pytest.mark.mission(61)
@pytest.mark.parametrize(("rule", "worlds"), [("sgd", (1, 2, 3, 4)), ("adam", (3,))])
def test_a_split_model_trains_as_the_whole_one(figure, rule, worlds):
    expected, loss = trained(np.float64, RULES[rule], STEPS)
    for n in worlds:
        for found, found_loss in run_threads(n, lambda c: trained_split(c, np.float64, RULES[rule], STEPS), seconds=30):
            figure.equal(found_loss, loss, rel=1e-10)
            for name, value in expected.items():
                figure.equal(found[name], value, rel=1e-10, abs=1e-10)


def test_one_step_in_float32():
    expected, loss = trained(np.float32, RULES["sgd"], 1)
    for n in (2, 3, 4):
        for found, found_loss in run_threads(n, lambda c: trained_split(c, np.float32, RULES["sgd"], 1, compiled=False), seconds=20):
            assert abs(found_loss - loss) <= 1e-6
            for name, value in expected.items():
                assert found[name].dtype == np.float32
                np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6)


def test_training_without_the_compiler():
    expected, _ = trained(np.float64, RULES["adam"], 10)
    for found, _ in run_threads(3, lambda c: trained_split(c, np.float64, RULES["adam"], 10, compiled=False), seconds=20):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-12)


@pytest.mark.mission(61)
def test_a_pair_sends_one_sum_each_way(figure):
    """Counted in the communicator, two ranks: one exchange forward, one more backward; the bytes of [examples, features] each."""
    x = np.ones((6, 4))

    def program(c):
        model = split(pair(np.float64), c)
        types = (varying_leaves(model), False)
        per_rank(lambda model, x: model(x), c, varying=types)(model, x)
        forward = c.counts.rounds, c.counts.bytes_sent
        per_rank(ad.grad(lambda model, x: (model(x) ** 2).sum(), argnums=(0, 1)), c, varying=types)(model, x)
        return forward, (c.counts.rounds - 2 * forward[0], c.counts.bytes_sent - 2 * forward[1])
    for forward, backward in run_threads(2, program):
        figure.equal(forward, (1, 6 * 3 * 8))
        figure.equal(backward, (1, 6 * 4 * 8))


def test_gradients_and_inputs():
    """Every parameter's gradient, and the input's, equals that of the whole model; also with grad around the distributed trace."""
    model, (x, y) = whole(np.float64), examples(np.float64)
    loss = lambda model, x, y: nn.cross_entropy(model(x), y)
    gradients, x_bar = ad.grad(loss, argnums=(0, 1))(model, x, y)
    expected = nn.named_parameters(gradients)

    def program(c):
        own = split(model, c)
        types = (varying_leaves(own), False, False)
        inside = per_rank(ad.grad(loss, argnums=(0, 1)), c, varying=types)(own, x, y)
        outside = ad.grad(per_rank(loss, c, varying=types), argnums=(0, 1))(own, x, y)
        return [(nn.named_parameters(joined(gradient)), bar) for gradient, bar in (inside, outside)]
    for n in (1, 3, 4):
        for results in run_threads(n, program, seconds=20):
            for found, bar in results:
                np.testing.assert_allclose(bar, x_bar, rtol=1e-12, atol=1e-14)
                for name, value in expected.items():
                    np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14)


def test_weights_of_pytorch_names_load_into_a_split_model():
    """Load the whole model by its names, then split it; a split model joins to the whole one."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(value.shape) for name, value in nn.named_parameters(whole(np.float64)).items()}
    model = nn.load_parameters(whole(np.float64), tensors)
    x = examples(np.float64)[0]

    def program(c):
        own = split(model, c)
        assert list(nn.named_parameters(own)) == list(tensors)
        return per_rank(lambda model, x: model(x), c, varying=(varying_leaves(own), False))(own, x), nn.named_parameters(joined(own))
    for y, parameters in run_threads(4, program, seconds=20):
        np.testing.assert_allclose(y, model(x), rtol=1e-12)
        assert all(np.array_equal(parameters[name], value) for name, value in tensors.items())


def test_errors():
    rng = np.random.default_rng(0)
    layer = nn.Linear(3, 3, rng=rng)
    with pytest.raises(CommunicationError, match=r"3 features cannot be shared out over 4 ranks"):
        run_threads(4, lambda c: ColumnLinear(layer, c))
    with pytest.raises(CommunicationError, match=r"all_reduce: found a replicated value.*\n?.*"):
        # A row-split layer by itself: its input is not a rank's own features.
        run_threads(2, lambda c: per_rank(RowLinear(layer, c), c, varying=False)(np.ones((2, 3))[:, :1 + c.rank]))
