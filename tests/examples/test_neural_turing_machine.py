"""The Neural Turing Machine: its addressing and its memory by the paper's equations in loops, and a small one that learns to copy."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.testing import check_grads
from adjoint.tree import flatten, unflatten
from examples import neural_turing_machine as ntm


@pytest.fixture
def small():
    return ntm.NeuralTuringMachine(4, 3, rng=np.random.default_rng(0), cells=5, width=2, units=4, dtype=np.float64)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def address(said, memory, last, width):
    """Equations 5 to 9 of the paper, for one example, cell by cell."""
    cells = len(memory)
    key, beta, gate = np.tanh(said[:width]), np.log1p(np.exp(said[width])), sigmoid(said[width + 1])
    shift, gamma = softmax(said[width + 2:width + 5]), 1.0 + np.log1p(np.exp(said[width + 5]))
    likeness = np.array([key @ cell / np.sqrt((key @ key + 1e-8) * (cell @ cell + 1e-8)) for cell in memory])
    gated = gate * softmax(beta * likeness) + (1.0 - gate) * last
    moved = np.array([sum(gated[(i - by) % cells] * s for by, s in zip((-1, 0, 1), shift, strict=True)) for i in range(cells)])
    sharp = (moved + 1e-12) ** gamma
    return sharp / sharp.sum()


def by_hand(m, x):
    """Logits and the heads' weights for one sequence [time, inputs]."""
    width, n = len(m.read), len(m.h)
    h, c, read, read_at, write_at = m.h, m.c, m.read, softmax(m.read_at), softmax(m.write_at)
    memory, found = np.full((len(m.read_at), width), 1e-6), []
    for symbol in x:
        gates = np.concatenate([symbol, read]) @ m.controller.weight_ih.T + m.controller.bias_ih
        i, f, g, o = np.split(gates + h @ m.controller.weight_hh.T + m.controller.bias_hh, range(n, 4 * n, n))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        said = m.writes.says.weight @ h + m.writes.says.bias
        write_at = address(said, memory, write_at, width)
        erase, add = sigmoid(said[width + 6:2 * width + 6]), np.tanh(said[2 * width + 6:])
        memory = np.array([cell * (1.0 - w * erase) + w * add for cell, w in zip(memory, write_at, strict=True)])
        read_at = address(m.reads.says.weight @ h + m.reads.says.bias, memory, read_at, width)
        read = sum(w * cell for cell, w in zip(memory, read_at, strict=True))
        found.append((m.out.weight @ np.concatenate([h, read]) + m.out.bias, read_at, write_at))
    return [np.stack(part) for part in zip(*found, strict=True)]


@pytest.mark.mission(160)
def test_reading_and_writing_are_those_of_the_paper(small, rng, figure):
    x = rng.standard_normal((6, 3, 4))
    logits, (reading, writing) = small(x)
    for b in range(3):
        for found, expected in zip((logits, reading, writing), by_hand(small, x[:, b]), strict=True):
            figure.equal(found[:, b], expected, rel=1e-9, abs=1e-13)
    figure.equal(reading.sum(-1), np.ones((6, 3)), rel=1e-9)


@pytest.mark.mission(160)
def test_a_small_one_learns_to_copy(figure):
    model = ntm.NeuralTuringMachine(5, 4, rng=np.random.default_rng(0), cells=8, width=6, units=24)
    found = ntm.train(0, 500, longest=2, rate=1e-2, model=model)
    figure.at_most(found["curve"][-1][1], 0.15)
    figure.at_least(found["curve"][0][1], 0.6)
    assert ntm.wrong_bits(found["model"], 2, count=200) < 0.5                     # of 8; guessing has 4
    rows = ntm.focus(found["model"], length=2)
    assert [w.shape for w in rows] == [(8, 5), (8, 5)]


def test_derivatives_to_second_order(small, rng):
    leaves, structure = flatten(small)
    x = rng.standard_normal((3, 1, 4))
    check_grads(lambda *leaves: unflatten(structure, list(leaves))(x)[0], *leaves, order=2)


def test_compiled_gradients_are_the_eager_ones(small, rng):
    x, y, counts = ntm.sequences(rng, np.array([2, 1]), 2, bits=3)
    gradient = ad.grad(ntm.loss_of)
    found, expected = (flatten(f(small, x, y, counts))[0] for f in (ad.compile(gradient), gradient))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_sequences_and_size():
    x, y, counts = ntm.sequences(np.random.default_rng(0), np.array([2, 1]), 3, bits=4)
    assert x.shape == (7, 2, 5) and y.shape == (7, 2, 4) and counts[:, :, 0].T.tolist() == [[0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0]]
    np.testing.assert_array_equal(x[:2, 0, :4], y[3:5, 0])
    assert x[:, :, 4].T.tolist() == [[0, 0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]]
    model = ntm.NeuralTuringMachine(rng=np.random.default_rng(0))
    controller, heads = 4 * 100 * (29 + 100 + 2), 101 * (26 + 66)
    assert sum(p.size for p in nn.named_parameters(model).values()) == controller + heads + 8 * 121 + 100 + 100 + 20 + 2 * 128 == 63_136


def test_the_picture(tmp_path):
    ntm.picture(np.array([[0.0, 1.0, 2.0]]), tmp_path / "p.pgm")
    assert (tmp_path / "p.pgm").read_bytes() == b"P5 3 1 255\n\x00\x80\xff"
