"""Logistic regression of zeros against ones: gradient descent, Newton's method, and the exact curvature, all from one loss."""

import numpy as np

import adjoint as ad
from adjoint.data import load_digits

digits = load_digits()


def zeros_and_ones(x, y):
    chosen = y < 2
    return np.c_[x[chosen].astype(np.float64), np.ones(chosen.sum())], np.where(y[chosen] == 1, 1.0, -1.0)


x, y = zeros_and_ones(digits.train_x, digits.train_y)
test_x, test_y = zeros_and_ones(digits.test_x, digits.test_y)


def loss(w, x, y):
    return np.logaddexp(0.0, -y * (x @ w)).mean() + 1e-3 * (w @ w)


def error(w):
    return np.mean(np.sign(test_x @ w) != test_y)


# Gradient descent: loss and gradient are one native call.
value_and_gradient = ad.compile(ad.value_and_grad(loss))
w = np.zeros(x.shape[1])
for _ in range(300):
    value, gradient = value_and_gradient(w, x, y)
    w = w - 0.5 * gradient
print(f"gradient descent, 300 steps: loss {value:.6f}, gradient {np.linalg.norm(gradient):.1e}, test error {100 * error(w):.2f} %")

# Newton's method needs the Hessian; ad.hessian is forward mode over reverse mode, and compiles like anything else.
hessian = ad.compile(ad.hessian(loss))
w, steps = np.zeros(x.shape[1]), 0
while np.linalg.norm(gradient := value_and_gradient(w, x, y)[1]) > 1e-12 and steps < 50:
    w, steps = w - np.linalg.solve(hessian(w, x, y), gradient), steps + 1
print(f"Newton, {steps} steps: loss {value_and_gradient(w, x, y)[0]:.6f}, gradient {np.linalg.norm(gradient):.1e}, "
      f"test error {100 * error(w):.2f} %")

# The Hessian times a vector needs no Hessian: this is what methods for large problems use.
v = np.ones_like(w)
assert np.allclose(ad.hvp(lambda w: loss(w, x, y), w, v), hessian(w, x, y) @ v)
print(f"curvature at the minimum: {np.linalg.cond(hessian(w, x, y)):.0f} times as steep in one direction as in another")
