"""Every error that has a place in the user's program says one thing to do there; messages are at most a few lines long."""

import ast
from pathlib import Path

import numpy as np
import pytest

import adjoint as ad
from adjoint.errors import AdjointError, ConfigError, IndexRangeError, ShapeError

PACKAGE = Path(ad.__file__).parent
OWED = {"nn/attention.py": 1, "nn/recurrent.py": 3}          # this list may only shrink


def without_remedy(path):
    """Calls of explain that say nothing to do, those about no line of the user (where="") left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "explain":
            given = {k.arg: k.value for k in node.keywords}
            if "remedy" not in given and not (isinstance(given.get("where"), ast.Constant) and given["where"].value == ""):
                yield node.lineno


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_message_says_one_thing_to_do(path):
    lines = list(without_remedy(path))
    assert len(lines) <= OWED.get(str(path.relative_to(PACKAGE)), 0), f"explain without remedy at lines {lines}"


X, SQUARE = np.ones((2, 3)), np.eye(2)
REFUSED = {                                     # wrong on a traced array: what is said of it
    "an axis twice": (lambda x: np.sum(x, axis=(0, 0)), X, ShapeError, "names an axis twice"),
    "more indices than axes": (lambda x: x[0, 0, 0], X, IndexRangeError, "3 indices for an array of 2 axes"),
    "an index of floats": (lambda x: x[np.array([0.5])], X, IndexRangeError, "found float64"),
    "stacked shapes": (lambda x: np.stack([x, x[:, :1]]), X, ShapeError, "the same shape, found"),
    "squeezing an axis": (lambda x: np.squeeze(x, 0), X, ShapeError, "more than one element"),
    "einsum, sizes": (lambda x: np.einsum("ij,jk->ik", x, x), X, ShapeError, "'j' names axes of 3 and 2"),
    "einsum, result": (lambda x: np.einsum("ij->k", x), X, ShapeError, "distinct labels of the operands"),
    "a split": (lambda x: np.split(x, 2, axis=1)[0], X, ShapeError, "does not divide into 2 equal parts"),
    "a system that is not square": (lambda x: np.linalg.solve(x, x), X, ShapeError, "square matrices"),
    "reshape": (lambda x: x.reshape(4), X, ShapeError, "6 elements, shape"),
    "a padding of more axes": (lambda x: np.pad(x, ((1, 1),) * 3), SQUARE, ShapeError, r"shape \(3, 2\), the array 2 axes"),
    "a negative padding": (lambda x: np.pad(x, -1), SQUARE, ShapeError, "non-negative"),
    "a tile fewer than none": (lambda x: np.tile(x, (1, -1)), SQUARE, ShapeError, r"tile: reps is \(1, -1\)"),
    "a repeat fewer than none": (lambda x: np.repeat(x, -1), SQUARE, ShapeError, "repeat: repeats is -1"),
    "counts of another axis": (lambda x: np.repeat(x, [1, 2, 3], axis=0), SQUARE, ShapeError, "3 counts for an axis of 2 elements"),
}


@pytest.mark.parametrize("transform", [lambda f: ad.grad(lambda x: np.sum(f(x))), ad.compile], ids=["grad", "compile"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_traced_array_refuses_is_said_in_three_parts(name, transform):
    function, x, error, words = REFUSED[name]
    with pytest.raises(AdjointError, match=words) as raised:
        transform(function)(x)
    assert type(raised.value) is error
    _, where, remedy = str(raised.value).splitlines()
    assert where.startswith("  at ") and "test_messages.py:" in where and remedy.startswith("  ") and remedy.endswith(".")


@pytest.mark.parametrize("donate", ["x", 1.5, (0, "y"), None, (True,)])
def test_donate_names_arguments_by_number(donate):
    with pytest.raises(ConfigError, match=r"donate is .*, expected numbers of positional arguments"):
        ad.compile(lambda x: x, donate=donate)


def test_paddings_tiles_and_repeats_are_numpys():
    for function in (lambda x: np.pad(x, 1), lambda x: np.pad(x, (1, 2)), lambda x: np.pad(x, ((1, 0), (2, 3))),
                     lambda x: np.pad(x, [[1], [2]]), lambda x: np.tile(x, (2, 0, 3)), lambda x: np.repeat(x, 0, axis=1),
                     lambda x: np.repeat(x, [2, 0], axis=0), lambda x: np.repeat(x, [3]), lambda x: np.pad(x, [[2, 1]])):
        np.testing.assert_array_equal(ad.compile(function)(X), function(X))
