"""The lectures' recurrent cell: the example's code is theirs, line for line, and its gradients are the chain rule by hand."""

import numpy as np
import pytest

import adjoint as ad
from examples import recurrent_cell as example


@pytest.mark.mission(158)
def test_the_example_runs_and_its_gradients_are_those_by_hand(figure, capsys):
    x, h, W_h, W_x = example.x, example.prev_h, example.W_h, example.W_x
    figure.equal((*x.shape, *h.shape, *W_h.shape, *W_x.shape), (1, 20, 1, 20, 20, 20, 20, 20))
    column = np.array([[np.tanh(sum(W_x[i, j] * x[0, j] + W_h[i, j] * h[0, j] for j in range(20)))] for i in range(20)])
    figure.equal(example.cell(W_h, W_x, x, h), column, rel=1e-11)
    bar = 1.0 - column**2
    expected = (bar * h, bar * x, (W_x.T @ bar).T, (W_h.T @ bar).T)
    gradient = ad.grad(example.loss, argnums=(0, 1, 2, 3))
    for call in (gradient, ad.compile(gradient)):
        for found, wanted in zip(call(W_h, W_x, x, h), expected, strict=True):
            figure.equal(found, wanted, rel=1e-10, abs=1e-12)
    example.main()
    assert "(20, 20) (20, 20) (1, 20) (1, 20)" in capsys.readouterr().out
