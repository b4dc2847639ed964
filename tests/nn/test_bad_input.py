"""Bad input: one table of cases, each a clear error in the design's form: what happened, found against expected; where; one thing to do.

A room that adds a layer, a rule or a loader adds its rows here.
"""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.errors import AdjointError, ConfigError, DtypeError, IndexRangeError, ShapeError, TreeError

RNG = np.random.default_rng(0)
X = np.ones((2, 3, 8, 8), np.float32)
ROWS = np.ones((4, 3), np.float32)
LABELS = np.array([0, 2, 1, 0])
LINEAR = nn.Linear(3, 2, rng=RNG)
Q, ATTENTION = np.ones((5, 3, 8), np.float32), nn.MultiheadAttention(8, 2, rng=RNG)
RULE = optim.adam(0.1)


def trained(layer, x):
    return nn.training(layer, np.array([0, 1]))(x)


# what is wrong: (call, error, words of its first line: what was found, what was expected)
CASES = {
    # shapes
    "a last axis of another size": (lambda: LINEAR(np.ones((4, 5), np.float32)), ShapeError, ["(4, 5)", "3 features"]),
    "inner axes that differ": (lambda: ad.compile(lambda a, b: a @ b)(ROWS, ROWS), ShapeError, ["float32[4,3]", "3 != 4"]),
    "channels that differ, convolution": (lambda: nn.Conv2d(4, 2, 3, rng=RNG)(X), ShapeError, ["(2, 3, 8, 8)", "4"]),
    "channels that differ, normalization": (lambda: nn.BatchNorm2d(4)(X), ShapeError, ["float32[2,3,8,8]", "[batch, 4, ?, ?]"]),
    "an image where a sequence is expected": (lambda: nn.MaxPool1d(2)(X), ShapeError, ["float32[2,3,8,8]", "1 spatial axis"]),
    "a window larger than its input": (lambda: nn.MaxPool2d(9)(X), ShapeError, ["a window of 9", "axis of 8"]),
    "a dilated window larger than its input": (lambda: nn.max_pool(X, 3, dilation=4), ShapeError, ["a window of 9", "axis of 8"]),
    "a convolution larger than its input": (lambda: nn.Conv2d(3, 2, 9, rng=RNG)(X), ShapeError, ["9", "8"]),
    "targets that would broadcast": (lambda: nn.squared_error(ROWS, ROWS[:, 0]), ShapeError, ["(4, 3)", "(4,)"]),
    "one-hot labels": (lambda: nn.cross_entropy(ROWS, np.zeros((4, 3), int)), ShapeError, ["labels (4,)", "found (4, 3)"]),
    "slopes of other channels": (lambda: nn.PReLU(5)(ROWS), ShapeError, ["(5,)", "float32[4,3]"]),
    # axes
    "an axis out of range": (lambda: ad.compile(lambda x: np.sum(x, axis=5))(ROWS), ShapeError, ["axis 5", "2 axes"]),
    "an empty axis in a mean": (lambda: ad.grad(lambda x: np.sum(np.mean(x, axis=0)))(np.ones((0, 3))), ShapeError, ["float64[0,3]"]),
    "an empty axis in a maximum": (lambda: ad.grad(lambda x: np.sum(np.max(x, axis=1)))(np.ones((2, 0))), ShapeError, ["float64[2,0]"]),
    "an empty map in adaptive pooling": (lambda: nn.adaptive_avg_pool(X[:, :, :0], 1), ShapeError, ["float32[2,3,0,8]", "empty"]),
    "no examples under cross entropy": (lambda: nn.cross_entropy(ROWS[:0], LABELS[:0]), ShapeError, ["no examples", "int64[0]"]),
    "no examples under a squared error": (lambda: nn.squared_error(ROWS[:0], ROWS[:0]), ShapeError, ["no examples", "(0, 3)"]),
    "a negative number of random words": (lambda: nn.random.bits(np.array([0, 0]), (-2,)), ShapeError, ["(-2,)", "0 and more"]),
    "half an update in a schedule": (lambda: optim.schedules.cosine(0.1, 2.5), ConfigError, ["2.5", "whole"]),
    "rules that were not called": (lambda: optim.chain(optim.clip_by_global_norm(1.0), optim.adam), ConfigError, ["chain", "adam"]),
    "a rule that was not called": (lambda: optim.accumulate(optim.sgd, 2), ConfigError, ["accumulate", "sgd"]),
    "a projection in the place of its rule": (lambda: optim.project(optim.box(0, 1), optim.sgd(0.1)), ConfigError, ["project", "box"]),
    "a rate for each parameter": (lambda: optim.adam(np.array([0.1, 0.2])), ConfigError, ["learning rate", "0.2"]),
    "a rate in a list": (lambda: optim.adam([0.1]), ConfigError, ["learning rate", "[0.1]"]),
    "a name in the place of a selection": (lambda: optim.partition("weight", RULE, RULE).init(ROWS), ConfigError, ["where", "'weight'"]),
    "the state of another rule": (lambda: RULE.update(ROWS, (), ROWS), TreeError, ["state is ()", "2 chained rules"]),
    "a loss for each example under observe": (lambda: optim.observe(RULE.init(ROWS), np.ones(3)), ConfigError, ["observe", "1., 1."]),
    "a simplex of one number": (lambda: optim.simplex()(np.array(0.3)), ConfigError, ["simplex", "vector"]),
    "boundaries in words": (lambda: optim.box("a", "b"), ConfigError, ["'a'", "'b'"]),
    "one boundary alone": (lambda: optim.schedules.piecewise(3, 0.1), ConfigError, ["boundaries are 3", "rates are 0.1"]),
    "a boundary before the start": (lambda: optim.schedules.piecewise([-3], [0.1, 0.2]), ConfigError, ["[-3]", "at least 0"]),
    "weights of integers": (lambda: nn.Linear(3, 2, rng=RNG, dtype=np.int64), DtypeError, ["int64", "float32 or float64"]),
    "layers in a list": (lambda: nn.Sequential([LINEAR]), ConfigError, ["Sequential", "Linear"]),
    "an activation by name": (lambda: nn.mlp(3, 2, 1, activation="relu", rng=RNG), ConfigError, ["'relu'", "no layer"]),
    "a perceptron of one size": (lambda: nn.mlp(3, activation=nn.relu, rng=RNG), ConfigError, ["(3,)", "two sizes"]),
    "labels for signs, hinge": (lambda: nn.hinge_loss(np.ones(2), np.array([0.0, 1.0])), ConfigError, ["0.0 to 1.0", "-1 and 1"]),
    "labels for signs": (lambda: nn.logistic_loss(np.ones(2), np.array([0.0, 1.0])), ConfigError, ["0.0 to 1.0", "-1 and 1"]),
    "a negative variance": (lambda: nn.gaussian_nll(np.ones(2), np.ones(2), -np.ones(2)), ConfigError, ["-1.0", "at least 0"]),
    "a softmax of an axis that is not there": (lambda: nn.softmax(ROWS, axis=2), ShapeError, ["axis 2", "float32[4,3]"]),
    "a softmax of nothing": (lambda: nn.log_softmax(np.ones((2, 0))), ShapeError, ["axis -1", "float64[2,0]"]),
    "a softplus without slope": (lambda: nn.softplus(ROWS, beta=0), ConfigError, ["beta is 0", "above 0"]),
    # dtypes
    "integer images": (lambda: nn.MaxPool2d(2)(X.astype(np.int64)), DtypeError, ["int64[2,3,8,8]"]),
    "integer features": (lambda: nn.LayerNorm(3)(ROWS.astype(np.int32)), DtypeError, ["int32[4,3]"]),
    "complex numbers": (lambda: ad.compile(lambda x: x * 2)(ROWS.astype(complex)), DtypeError, ["complex128"]),
    "floating labels": (lambda: nn.cross_entropy(ROWS, LABELS.astype(np.float32)), DtypeError, ["float32", "integers"]),
    # values
    "a label out of range": (lambda: nn.cross_entropy(ROWS, LABELS + 1), IndexRangeError, ["from 1 to 3", "0 to 2"]),
    "a negative label": (lambda: nn.nll_loss(ROWS, LABELS - 1), IndexRangeError, ["from -1 to 1", "0 to 2"]),
    "a label out of range in native code": (lambda: ad.compile(nn.cross_entropy)(ROWS, LABELS + 1), IndexRangeError, ["label", "0..2"]),
    "a label out of range in a batch": (lambda: ad.vmap(nn.nll_loss)(ROWS, LABELS - 1), IndexRangeError, ["label -1", "0..2"]),
    "a symbol out of range": (lambda: nn.Embedding(3, 2, rng=RNG)(LABELS + 1), IndexRangeError, ["3"]),
    "one example under batch norm in training": (lambda: trained(nn.BatchNorm1d(3), ROWS[:1]), ShapeError,
                                                   ["one value per channel", "[1,3]"]),
    "a probability beyond 1": (lambda: nn.Dropout(1.5), ConfigError, ["1.5", "0 to 1"]),
    "dropout without a key": (lambda: nn.training(nn.Dropout(0.5)), ConfigError, ["key"]),
    "more padding than half a window": (lambda: nn.MaxPool2d(2, padding=2)(X), ConfigError, ["padding 2", "window 2"]),
    "a stride of zero": (lambda: nn.AvgPool2d(2, 0)(X), ConfigError, ["stride is 0", "at least 1"]),
    "groups that do not divide": (lambda: nn.GroupNorm(4, 6), ConfigError, ["6 channels", "4 groups"]),
    "a seed for a generator": (lambda: nn.Linear(3, 2, rng=7), ConfigError, ["rng is 7", "generator"]),
    "initial values of a vector": (lambda: nn.init.orthogonal((3,), RNG), ShapeError, ["(3,)", "two axes"]),
    "an unknown approximation": (lambda: nn.gelu(ROWS, "erf"), ConfigError, ["'erf'", "'none'"]),
    # sizes
    "a layer without inputs": (lambda: nn.Conv2d(0, 3, 3, rng=RNG), ConfigError, ["in_channels is 0", "at least 1"]),
    "a negative number of channels": (lambda: nn.Conv1d(3, -3, 3, rng=RNG), ConfigError, ["out_channels is -3", "at least 1"]),
    "same padding with a stride": (lambda: nn.Conv2d(3, 3, 3, 2, "same", rng=RNG), ConfigError, ["'same'", "stride (2, 2)"]),
    "a negative number of features": (lambda: nn.BatchNorm1d(-4), ConfigError, ["num_features is -4", "at least 1"]),
    "a negative eps": (lambda: nn.LayerNorm(3, eps=-1.0), ConfigError, ["eps is -1.0", "at least 0"]),
    "a momentum beyond 1": (lambda: nn.BatchNorm2d(3, momentum=2.0), ConfigError, ["momentum is 2.0", "0 to 1"]),
    "an empty shape to normalize": (lambda: nn.LayerNorm((3, 0)), ConfigError, ["normalized_shape is 0", "at least 1"]),
    "a table without rows": (lambda: nn.Embedding(0, 2, rng=RNG), ConfigError, ["num_embeddings is 0", "at least 1"]),
    "no slopes": (lambda: nn.PReLU(0), ConfigError, ["num_parameters is 0", "at least 1"]),
    "no heads": (lambda: nn.MultiheadAttention(8, 0, rng=RNG), ConfigError, ["num_heads is 0", "at least 1"]),
    # attention and sequences
    "a mask of other lengths": (lambda: ATTENTION(Q, Q, Q, attn_mask=np.zeros((4, 4), bool)), ShapeError, ["(4, 4)", "(5, 5)"]),
    "a padding mask the wrong way round": (lambda: ATTENTION(Q, Q, Q, np.zeros((5, 3), bool)), ShapeError, ["(5, 3)", "(3, 5)"]),
    "keys without values": (lambda: ATTENTION(Q, Q[:4], Q), ShapeError, ["(3, 4, 8)", "(3, 5, 8)"]),
    "keys of another batch": (lambda: ATTENTION(Q, Q[:, :2], Q[:, :2]), ShapeError, ["(2, 5, 8)", "one batch"]),
    "lengths that are shares": (lambda: nn.LSTM(8, 2, rng=RNG)(Q, lengths=[0.5, 1.0, 1.0]), DtypeError, ["float64", "integers"]),
    "lengths beyond the end": (lambda: nn.LSTM(8, 2, rng=RNG)(Q, lengths=[9, 1, 1]), ShapeError, ["1 to 9", "5 times"]),
    # losses
    "a smoothing beyond 1": (lambda: nn.cross_entropy(ROWS, LABELS, label_smoothing=2.0), ConfigError, ["2.0", "0 to 1"]),
    "a negative width of Huber's loss": (lambda: nn.huber_loss(ROWS, ROWS, delta=-1.0), ConfigError, ["-1.0", "above 0"]),
    "a label out of range in a list": (lambda: nn.cross_entropy(ROWS, [0, 1, 2, 3]), IndexRangeError, ["0 to 3", "0 to 2"]),
    # schedules and rules
    "gradients under other names": (lambda: RULE.update({"b": ROWS}, RULE.init({"a": ROWS}), {"a": ROWS}), TreeError, ["'b'", "'a'"]),
    "updates of another shape": (lambda: optim.apply_updates({"a": ROWS}, {"a": ROWS[:1]}), ShapeError, ["float32[1,3]", "float32[4,3]"]),
    "a schedule of negative length": (lambda: optim.schedules.cosine(0.1, -5), ConfigError, ["-5", "positive"]),
    "a schedule of no length": (lambda: optim.schedules.warmup(0, optim.schedules.constant(0.1)), ConfigError, ["0", "positive"]),
    "a negative learning rate": (lambda: optim.sgd(-0.1), ConfigError, ["-0.1"]),
    # weights of another architecture
    "weights with other names": (lambda: nn.load_parameters(LINEAR, {"w": ROWS, "b": ROWS}), TreeError, ["weight", "w"]),
    "weights of another size": (lambda: nn.load_parameters(LINEAR, {"weight": ROWS, "bias": ROWS[0, :2]}), ShapeError,
                                ["(4, 3)", "(2, 3)"]),
    "weights without running values": (lambda: nn.load_parameters(nn.BatchNorm1d(3), {"weight": ROWS[0], "bias": ROWS[0]}), TreeError,
                                       ["running_mean"]),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_words(name):
    call, error, words = CASES[name]
    with pytest.raises(AdjointError) as raised:
        call()
    assert type(raised.value) is error
    what, *rest = str(raised.value).splitlines()
    assert all(word in what for word in words), f"{what!r} does not say {words}"
    assert any(line.startswith("  at ") and "test_bad_input.py:" in line for line in rest), f"no line of the user's file in {rest}"
    assert len(rest) >= 2 and rest[-1].startswith("  ") and not rest[-1].startswith("  at "), f"nothing to do in {rest}"
    assert len(rest) < 12 and "array([[" not in str(raised.value)
