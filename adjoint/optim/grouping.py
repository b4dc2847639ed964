"""Rules about rules: some parameters one rule and some another, several gradients before one update.

Invariant: a combined rule is an Optimizer as any other; its state holds the states of its parts. May import: L0-L3, rule.
Read next: muon.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, explain
from ..tree import flatten, unflatten
from . import hyperparameters as hyper
from .rule import Optimizer, Where, counter, in_dtype, on_leaves, selection, zeros_like


def masked(rule: Optimizer, where: Where) -> Optimizer:
    """The rule on leaves for which where(name, leaf) is true; on the others u = g. where sees names as in nn.named_parameters.

    >>> from adjoint.optim import scale
    >>> rule = masked(scale(-1.0), lambda name, x: name == "a")
    >>> rule.update({"a": np.array([1.0]), "b": np.array([2.0])}, rule.init({"a": np.array([0.0]), "b": np.array([0.0])}), None)[0]
    {'a': array([-1.]), 'b': array([2.])}
    """
    return partition(where, rule, Optimizer(lambda parameters: (), lambda gradients, state, parameters: (gradients, state)))


class PartitionState(NamedTuple):
    """The states of the two rules, each of a tree with None in the place of the other's leaves."""

    chosen: Any
    others: Any


def partition(where: Where, chosen: Optimizer, others: Optimizer) -> Optimizer:
    """One rule where where(name, leaf) is true, another elsewhere. Each keeps state for its own leaves alone.

    where may look at name, shape and dtype of a leaf. For three groups, partition one side again.

    >>> from adjoint.optim import scale
    >>> rule = partition(lambda name, x: x.ndim == 2, scale(-1.0), scale(-0.5))
    >>> tree = {"weight": np.ones((1, 2)), "bias": np.ones(1)}
    >>> rule.update(tree, rule.init(tree), tree)[0]
    {'bias': array([-0.5]), 'weight': array([[-1., -1.]])}
    """
    for rule in (chosen, others):
        if not (hasattr(rule, "init") and hasattr(rule, "update")):
            raise ConfigError(explain(f"partition: a rule is {rule!r:.60}, expected an Optimizer.",
                                      remedy="Call it with its learning rate: partition(where, optim.muon(0.02), optim.adamw(1e-3))."))

    def parts(tree: Any) -> tuple[Any, Any, list[bool]]:
        flags, (leaves, structure) = selection(where, tree), flatten(tree)
        side = lambda wanted: unflatten(structure, [x if flag == wanted else None for x, flag in zip(leaves, flags, strict=True)])
        return side(True), side(False), flags

    def init(parameters: Any) -> PartitionState:
        first, second, _ = parts(parameters)
        return PartitionState(chosen.init(first), others.init(second))

    def update(gradients: Any, state: PartitionState, parameters: Any) -> tuple[Any, PartitionState]:
        first, second, flags = parts(gradients)
        ones, one = chosen.update(first, state.chosen, parameters)
        twos, two = others.update(second, state.others, parameters)
        sides = {True: iter(flatten(ones)[0]), False: iter(flatten(twos)[0])}
        return unflatten(flatten(gradients)[1], [next(sides[flag]) for flag in flags]), PartitionState(one, two)
    return Optimizer(init, update)


class AccumulateState(NamedTuple):
    """t: gradients in the sum, a 0-d int64; total: their sum, a tree like the parameters; the state of the rule."""

    count: Any
    total: Any
    inner: Any


def accumulate(rule: Optimizer, every: int) -> Optimizer:
    """u = the rule's update for the mean of the last `every` gradients at each every-th call, 0 at the calls between.

    Micro-batches of equal size: the mean of their means is the mean over all their examples, so this is the step of a batch `every`
    times as large, with the memory of one. The rule's state, and a schedule's count with it, advances at every every-th call alone.

    >>> from adjoint.optim import scale
    >>> rule = accumulate(scale(-1.0), 2)
    >>> u, state = rule.update(np.array([1.0]), rule.init(np.zeros(1)), None)
    >>> u, rule.update(np.array([5.0]), state, None)[0]
    (array([0.]), array([-3.]))
    """
    hyper.whole("accumulate", "every", every)
    if not hasattr(rule, "update"):
        raise ConfigError(explain(f"accumulate: the rule is {rule!r:.60}, expected an Optimizer.",
                                  remedy="Call it with its learning rate: accumulate(optim.sgd(0.1), 4)."))

    def update(gradients: Any, state: AccumulateState, parameters: Any) -> tuple[Any, AccumulateState]:
        count = state.count + 1
        full = count == every
        mean, total = on_leaves(lambda g, s: ((g + s) / every, g + s), gradients, state.total)
        updates, inner = rule.update(mean, state.inner, parameters)
        pick = lambda new, old: in_dtype(np.where(full, new, old), new.dtype)
        updates = on_leaves(lambda u: (np.where(full, u, 0.0),), updates)[0]
        fresh, structure = flatten(inner)
        pairs = zip(fresh, flatten(state.inner)[0], strict=True)
        inner = unflatten(structure, [new if new is old else pick(new, old) for new, old in pairs])
        total = on_leaves(lambda s: (np.where(full, 0.0, s),), total)[0]
        return updates, AccumulateState(np.where(full, 0, count), total, inner)
    return Optimizer(lambda parameters: AccumulateState(counter(), zeros_like(parameters), rule.init(parameters)), update)
