"""Derivatives of your own: a rule for a function found by iteration, a gradient that is stopped, and memory traded for time."""

import numpy as np

import adjoint as ad


# A square root by Newton's iteration. Its derivative needs no differentiated loop: y^2 = x gives dy = dx / (2 y).
def iterated(x):
    y = np.ones_like(x)
    for _ in range(30):
        y = 0.5 * (y + x / y)
    return y


root = ad.custom_vjp(iterated, lambda x: 2 * (iterated(x),), lambda y, y_bar: (y_bar / (2.0 * y),))
x = np.array([1.0, 4.0, 9.0])
print("rule:", ad.grad(lambda x: root(x).sum())(x))
print("the same through the loop:", ad.grad(lambda x: iterated(x).sum())(x).round(12))
print("a rule can be differentiated again:", ad.hessian(lambda x: root(x).sum())(x).diagonal().round(6))

# The same function by its tangent; forward and reverse mode both follow from either rule.
tangent = ad.custom_jvp(iterated, lambda primals, tangents: (y := iterated(*primals), tangents[0] / (2.0 * y)))
assert np.allclose(ad.grad(lambda x: tangent(x).sum())(x), 0.5 / np.sqrt(x))


# A function that Adjoint has no rule for, here least squares: state its pullback, and grad calls NumPy on plain arrays.
def least_squares(a, b):
    return np.linalg.lstsq(a, b)[0]


def fitted(a, b):
    y = least_squares(a, b)
    return y, (a, b, y)


def pulled(residuals, y_bar):
    a, b, y = residuals
    z = np.linalg.solve(a.T @ a, y_bar)
    return np.outer(b - a @ y, z) - np.outer(a @ z, y), a @ z


fit = ad.custom_vjp(least_squares, fitted, pulled)
points = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
print("through a straight line's fit:", ad.grad(lambda s: fit(points * s, np.array([1.0, 2.0, 4.0])).sum())(1.0).round(12))


# A target that is not to move: the gradient flows through the prediction only, as in temporal-difference learning.
def loss(w, now, later):
    target = 1.0 + 0.9 * ad.stop_gradient(later @ w)
    return (now @ w - target) ** 2


w, now, later = np.array([0.5, -0.5]), np.array([1.0, 2.0]), np.array([3.0, 1.0])
print("gradient with a fixed target:", ad.grad(loss)(w, now, later))
assert np.allclose(ad.grad(loss)(w, now, later), 2.0 * (now @ w - 1.0 - 0.9 * (later @ w)) * now)


# checkpoint keeps a block's arguments and computes the rest again on the way back: less memory, the same derivative.
def block(x):
    for _ in range(3):
        x = np.sin(x) + 0.1 * x
    return x


def deep(x, wrap):
    for _ in range(2):
        x = wrap(block)(x)
    return x.sum()


plain, spared = (ad.grad(lambda x, wrap=wrap: deep(x, wrap))(x) for wrap in (lambda f: f, ad.checkpoint))
assert np.array_equal(plain, spared)
print("checkpointed:", spared.round(6))
