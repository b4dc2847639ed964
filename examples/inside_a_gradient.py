"""Look inside: the values of a hidden layer by taps, the gradient of each example by vmap, an exact Jacobian, and a rule of one's own."""

import numpy as np

import adjoint as ad
from adjoint import nn

rng = np.random.default_rng(0)
hidden, output = nn.Linear(4, 8, rng=rng, dtype=np.float64), nn.Linear(8, 3, rng=rng, dtype=np.float64)
x, y = rng.standard_normal((5, 4)), np.array([0, 2, 1, 1, 0])


def loss(layers, x, y):
    h = ad.tap("hidden", np.tanh(layers[0](x)))
    return nn.cross_entropy(layers[1](h), y)


# Taps leave through the gradient: one pass gives both.
gradients, taps = ad.collect_taps(ad.grad(loss))([hidden, output], x, y)
print(f"hidden layer: mean {taps['hidden'].mean():+.3f}, deviation {taps['hidden'].std():.3f}")
print("gradient norms:", {name: round(float(np.linalg.norm(g)), 4) for name, g in nn.named_parameters(gradients).items()})

# The gradient of every example at once; their mean is the gradient of the mean.
one = lambda layers, x, y: loss(layers, x[None], y[None])
each = ad.vmap(ad.grad(one), in_axes=(None, 0, 0))([hidden, output], x, y)
print("norm per example:", np.linalg.norm(each[0].weight.reshape(5, -1), axis=1).round(4))
assert np.allclose(each[0].weight.mean(axis=0), gradients[0].weight)

# A Jacobian, dense and exact: outputs by inputs.
print("Jacobian of the first example's logits:", ad.jacobian(lambda x: output(np.tanh(hidden(x))))(x[0]).shape)

# A rule of one's own: pass the gradient on as if rounding were the identity (a straight-through estimator).
rounded = ad.custom_vjp(np.round, lambda u: (np.round(u), None), lambda _, bar: (bar,))
print("straight through:", ad.grad(lambda u: np.sum(rounded(u) ** 2))(np.array([0.2, 1.7])))
