"""Ranks of a split model, and stages, that are not given the same are told so in their first step, on every rank; lawful ones train."""

import numpy as np
import pytest

from adjoint import compile, nn, optim
from adjoint.distributed import ColumnLinear, Pipeline, RowLinear, make_split_step, run_threads
from adjoint.errors import CommunicationError
from adjoint.tree import map_tree

X = np.random.default_rng(0).standard_normal((32, 4))
Y = np.argmax(X, axis=1)


def given(c, other):
    """Model, rule, state and loss; the last rank has `other` otherwise."""
    own = lambda what: what == other and c.rank == c.size - 1
    rng, weight = np.random.default_rng(0), 1.0 + own("weight")
    whole, first, last = (nn.Linear(*sizes, rng=rng, dtype=np.float64) for sizes in ((4, 5), (5, 5), (5, 4)))
    if own("seed"):
        whole = nn.Linear(4, 5, rng=np.random.default_rng(9), dtype=np.float64)
    act = nn.relu if own("function") else np.tanh
    model = nn.Sequential(whole, act, ColumnLinear(first, c), np.tanh, nn.Dropout(0.5), RowLinear(last, c))
    rule = optim.adam(1e-3 * (1 + own("rate")), beta2=0.99 if own("decay") else 0.999)
    state = rule.init(model)
    return model, rule, map_tree(lambda a: a + own("state"), state), lambda outputs, y: weight * nn.cross_entropy(outputs, y)


def losses(c, other=None, *, steps=2, compiled=False, resumed=0):
    """Of a split model's steps. resumed: in how many of them another step function has gone before."""
    model, rule, state, loss = given(c, other)
    own = lambda what: what == other and c.rank == c.size - 1
    rows = slice(8, 16) if own("rows") else slice(7, None, -1) if own("order") else slice(0, 8)
    found = []
    for t in range(steps):
        if t in (0, resumed):
            step = make_split_step(loss, rule, c, compiled=compiled)
        model, state, value = step(model, state, X[rows], Y[:8] if own("order") else Y[rows], np.array([1, t + own("key")]))
        found.append(float(value))
    return found


SAID = {"rows": r"some have another x and another y\.", "order": r"some have another x\.", "key": r"some have another key\.",
        "rate": r"some have another optimizer\.", "decay": r"some have another optimizer\.", "weight": r"some have another loss\.",
        "function": r"some have another model\.", "seed": r"hold different models: the sum of \|model.layers.0.bias\| is from .*\.",
        "state": r"hold different models: the sum of \|optimizer\..*\."}
WHAT_TO_DO = {"rows": "Give every rank the whole batch", "key": "the same key", "rate": "rates too", "seed": "from the same seed"}


@pytest.mark.parametrize("other", SAID)
def test_a_split_step_of_ranks_that_differ_is_refused_on_every_rank(other):
    def program(c):
        with pytest.raises(CommunicationError, match=SAID[other] + r"\n  at .*test_parts_that_differ.py:") as caught:
            losses(c, other)
        return WHAT_TO_DO.get(other, "") in str(caught.value)
    assert run_threads(3, program, seconds=20) == [True] * 3


@pytest.mark.parametrize("compiled", [False, True])
def test_parts_may_differ_in_size_and_numbers(compiled):
    """Five features on two ranks; and a second step function, which compares again, when the parts are trained."""
    def program(c):
        with pytest.raises(CommunicationError, match="some have another x and another y"):
            losses(c, "rows", compiled=compiled)
        return losses(c, steps=4, resumed=2, compiled=compiled)
    found = run_threads(2, program, seconds=30)
    assert found[0] == found[1] and len(set(found[0])) == 4


def test_a_split_step_compares_in_its_first_step_alone():
    """Two small sums, which are not counted: up and down a tree of two ranks."""
    def program(c):
        sent, exchange, totals = [], c.exchange, []
        c.exchange = lambda *arguments: (sent.append(None), exchange(*arguments))[1]
        losses(c)                                           # a world learns once by what it chooses its all-reduce
        for steps in (1, 2, 3):
            sent.clear()
            before = c.counts.rounds
            losses(c, steps=steps)
            totals.append((len(sent), c.counts.rounds - before))
        return totals
    assert run_threads(2, program, seconds=20)[0] == [(3 + 4, 3), (6 + 4, 6), (9 + 4, 9)]


def test_a_model_of_parts_alone_has_nothing_to_compare():
    def program(c):
        model = nn.Sequential(ColumnLinear(nn.Linear(4, 5, rng=np.random.default_rng(0), dtype=np.float64), c), np.tanh,
                              RowLinear(nn.Linear(5, 4, bias=False, rng=np.random.default_rng(1), dtype=np.float64), c))
        rule = optim.sgd(0.1)
        return float(make_split_step(nn.cross_entropy, rule, c, compiled=False)(model, rule.init(model), X, Y)[2])
    assert len(set(run_threads(2, program, seconds=20))) == 1


def test_a_split_step_inside_of_a_compiled_function_compares_nothing():
    """While it is traced there are no numbers to compare."""
    def program(c):
        model, rule, state, loss = given(c, None)
        step = compile(make_split_step(loss, rule, c, compiled=False))
        return float(step(model, state, X[:8], Y[:8], np.array([1, 0]))[2])
    found = run_threads(2, program, seconds=30)
    assert found == [pytest.approx(run_threads(2, losses, seconds=20)[0][0])] * 2


@pytest.mark.parametrize("what", ["micro_batches", "the number of examples"])
def test_stages_that_cut_a_batch_otherwise_are_refused_on_every_rank(what):
    def program(c):
        stage, rule = nn.Linear(4, 4, rng=np.random.default_rng(c.rank), dtype=np.float64), optim.sgd(0.1)
        more = what == "micro_batches" and c.rank == 1
        line = Pipeline(nn.cross_entropy, rule, c, micro_batches=2 + more, compiled=False)
        rows = 16 - 4 * (c.rank == 1 and not more)
        least, most = (2, 3) if more or what == "micro_batches" else (12, 16)
        with pytest.raises(CommunicationError, match=f"Pipeline: {what} is from {least} to {most} on the 3 ranks") as caught:
            line.step(stage, rule.init(stage), X[:rows], Y[:rows])
        return f"Let {what} be the same on every rank" in str(caught.value)
    assert run_threads(3, program, seconds=20) == [True] * 3
