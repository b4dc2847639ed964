"""JAX's contestant of every training row: one jitted Adam or AdamW step, its weights and moments donated.

Invariant: the recurrence and the constants are those of the other contestants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

BETA1, BETA2, EPSILON, RATE = 0.9, 0.999, 1e-8, 1e-3


def jax_adam_step(weights: dict[str, np.ndarray], loss_of: Callable[[dict, Any, Any], Any], x: np.ndarray, y: np.ndarray, *,
                  beta2: float = BETA2, limit: float | None = None, decay: float = 0.0, of: str | None = None) -> tuple:
    """(call, answer, restart): call does a step and returns its loss; answer() is the loss before the first update and after it.

    limit: of the gradients' global norm; decay: of matrices only; of: the answer is this weight after one update instead.
    """
    import jax
    import jax.numpy as jnp

    def step(p: dict, mu: dict, nu: dict, t: Any, x: Any, y: Any) -> tuple:
        loss, g = jax.value_and_grad(loss_of)(p, x, y)
        if limit is not None:
            scale = limit / jnp.maximum(jnp.sqrt(sum((v * v).sum() for v in g.values())), limit)
            g = {n: v * scale for n, v in g.items()}
        t = t + 1
        mu = {n: BETA1 * mu[n] + (1 - BETA1) * g[n] for n in g}
        nu = {n: beta2 * nu[n] + (1 - beta2) * g[n] * g[n] for n in g}
        a, b = 1 - BETA1 ** t.astype(jnp.float32), 1 - beta2 ** t.astype(jnp.float32)
        p = {n: v - RATE * ((mu[n] / a) / (jnp.sqrt(nu[n] / b) + EPSILON) + (decay * v if v.ndim > 1 else 0.0)) for n, v in p.items()}
        return p, mu, nu, t, loss
    compiled, held = jax.jit(step, donate_argnums=(0, 1, 2)), []
    zeros = lambda: {n: jnp.zeros(w.shape, jnp.float32) for n, w in weights.items()}

    def restart() -> None:
        held[:] = [{n: jnp.array(w) for n, w in weights.items()}, zeros(), zeros(), jnp.array(0)]

    def call() -> Any:
        *held[:], loss = compiled(*held, x, y)
        return np.asarray(loss)
    restart()
    losses = [float(call())]
    answer = None if of is None else np.array(held[0][of])
    losses.append(float(call()))
    return call, lambda: losses if of is None else answer, restart
