"""One step of a recurrent network, written as the define-by-run example of the lectures is: the graph is made by running it."""

import numpy as np

import adjoint as ad

rng = np.random.default_rng(0)
x, prev_h = rng.standard_normal((1, 20)), rng.standard_normal((1, 20))
W_h, W_x = rng.standard_normal((20, 20)), rng.standard_normal((20, 20))


def cell(W_h, W_x, x, prev_h):
    """tanh(W_x x^T + W_h h^T), a column of 20."""
    i2h = W_x @ x.T
    h2h = W_h @ prev_h.T
    next_h = i2h + h2h
    next_h = np.tanh(next_h)
    return next_h


def loss(W_h, W_x, x, prev_h):
    """The sum of the new state, as in `next_h.backward(torch.ones(20, 1))`."""
    return cell(W_h, W_x, x, prev_h).sum()


def main() -> None:
    """Gradients of all four, eager and compiled, and against the formula by hand."""
    gradient = ad.grad(loss, argnums=(0, 1, 2, 3))
    W_h_bar, W_x_bar, x_bar, prev_h_bar = gradient(W_h, W_x, x, prev_h)
    bar = 1.0 - cell(W_h, W_x, x, prev_h) ** 2                      # what reaches i2h and h2h alike: addition distributes
    assert np.allclose(W_h_bar, bar @ prev_h) and np.allclose(W_x_bar, bar @ x)
    assert np.allclose(x_bar, (W_x.T @ bar).T) and np.allclose(prev_h_bar, (W_h.T @ bar).T)
    for found, expected in zip(ad.compile(gradient)(W_h, W_x, x, prev_h), (W_h_bar, W_x_bar, x_bar, prev_h_bar), strict=True):
        assert np.allclose(found, expected)
    print("gradients of W_h, W_x, x and prev_h:", W_h_bar.shape, W_x_bar.shape, x_bar.shape, prev_h_bar.shape)


if __name__ == "__main__":
    main()
