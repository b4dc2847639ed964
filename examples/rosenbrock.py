"""Minimize Rosenbrock's function twice: by gradient descent with momentum, and by Newton's method with the exact Hessian."""

import numpy as np

import adjoint as ad
from adjoint import optim


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


start = np.array([-1.2, 1.0])

# Gradient descent: function, gradient and update are one native call, and x is updated in place.
rule = optim.sgd(2e-4, momentum=0.98)


@ad.compile(donate=(0, 1))
def step(x, state):
    value, gradient = ad.value_and_grad(rosenbrock)(x)
    updates, state = rule.update(gradient, state, x)
    return optim.apply_updates(x, updates), state, value


x, state = start, rule.init(start)
for _ in range(20_000):
    x, state, value = step(x, state)
print(f"gradient descent: f = {value:.1e} at {x.round(4)}")

# Newton's method: the Hessian is forward mode over reverse mode, batched over the unit vectors, and compiled.
gradient, hessian = ad.compile(ad.grad(rosenbrock)), ad.compile(ad.hessian(rosenbrock))
x, iterations = start, 0
while np.linalg.norm(gradient(x)) > 1e-12:
    x, iterations = x - np.linalg.solve(hessian(x), gradient(x)), iterations + 1
print(f"Newton: f = {rosenbrock(x):.1e} at {x.round(4)} after {iterations} iterations")
