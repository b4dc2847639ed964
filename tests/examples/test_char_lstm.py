"""The character LSTM: its size, its state carried from chunk to chunk, and that it learns."""

import numpy as np

import adjoint as ad
from adjoint import nn, optim
from adjoint.data import Text
from adjoint.tree import flatten
from examples import char_lstm

TEXT = Text.split("the quick brown fox jumps over the lazy dog, " * 100)


def test_size_and_names_are_those_of_pytorch():
    model = char_lstm.CharLSTM(rng=np.random.default_rng(0))
    shapes = {name: p.shape for name, p in nn.named_parameters(model).items()}
    assert shapes == {"lstm.weight_ih_l0": (512, 65), "lstm.weight_hh_l0": (512, 128), "lstm.bias_ih_l0": (512,), "lstm.bias_hh_l0": (512,),
                      "head.weight": (65, 128), "head.bias": (65,)}
    assert sum(np.prod(s) for s in shapes.values()) == 108_225


def test_chunks_follow_one_another():
    pieces = char_lstm.chunks(np.arange(61), times=4, batch=3)
    x, y, first = next(pieces)
    assert first and x.T.tolist() == [[0, 1, 2, 3], [20, 21, 22, 23], [40, 41, 42, 43]]
    np.testing.assert_array_equal(y, x + 1)
    following = [next(pieces) for _ in range(5)]
    np.testing.assert_array_equal(following[0][0][0], [4, 24, 44])
    assert [f for _, _, f in following] == [False] * 4 + [True]


def test_the_state_is_carried():
    model = char_lstm.CharLSTM(len(TEXT.vocabulary), 8, rng=np.random.default_rng(0), dtype=np.float64)
    x = TEXT.training[:24].reshape(12, 2)
    whole, last = model(x, model.beginning(2))
    half, state = model(x[:5], model.beginning(2))
    rest, state = model(x[5:], state)
    np.testing.assert_allclose(np.concatenate([half, rest]), whole, rtol=1e-12)
    for a, b in zip(flatten(state)[0], flatten(last)[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    one_piece = char_lstm.held_out_loss(model, TEXT, piece=10**6)
    assert abs(char_lstm.held_out_loss(model, TEXT, piece=7) - one_piece) < 1e-9
    logits, _ = model(TEXT.held_out[:-1, None], model.beginning(1))
    assert abs(nn.cross_entropy(logits, TEXT.held_out[1:, None]) - one_piece) < 1e-9


def test_the_compiled_step_is_the_eager_one():
    model = char_lstm.CharLSTM(5, 4, rng=np.random.default_rng(0), dtype=np.float64)
    rule, rng = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(1e-2)), np.random.default_rng(1)
    x, y = rng.integers(0, 5, (6, 3)), rng.integers(0, 5, (6, 3))
    results = []
    for compiled in (True, False):
        step, held = char_lstm.make_step(rule, compiled=compiled), (ad.copy(model), rule.init(model), model.beginning(3))
        for _ in range(2):
            *held, _ = step(*held, x, y)
        results.append(flatten(held)[0])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_it_learns_and_writes():
    seen = []
    found = char_lstm.train(TEXT, steps=250, progress=lambda step, loss: seen.append((step, loss)),
                            model=char_lstm.CharLSTM(len(TEXT.vocabulary), 24, rng=np.random.default_rng(0)))
    assert seen == found["curve"] and found["held_out"] < 0.75 * np.log(len(TEXT.vocabulary))
    assert len(char_lstm.write(found["model"], TEXT, "the ", 20)) == 24
