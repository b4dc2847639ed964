"""while_loop and fori_loop: a body repeated while a condition holds, or a number of times.

while_loop : (c -> bool) -> (c -> c) -> c -> c. Invariant: arguments are (constants of the condition, constants of the body, carried);
reverse mode counts the steps first, then is that of a scan over the count. May import: L0-L2, bodies, branches, scan. Read next: scan.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.graph import Graph, Var
from ..core.interpreter import known
from ..core.primitive import TABLE, Primitive, bind, register
from ..core.trace import freeze
from ..dtypes import BOOL, INT64
from ..errors import DtypeError, ShapeError, TracerError, explain
from ..primitives.arithmetic import where
from ..primitives.indexing import iota
from ..primitives.kinds import Control, move_front, zeros_of
from ..tree import is_array, unflatten
from . import scan
from .bodies import (
    as_scalar,
    batch_reach,
    batched_graph,
    closed_mask,
    dual_graph,
    regroup,
    strong,
    trace_body,
    trace_carrying,
)
from .branches import cond
from .calls import DERIVED_GRAPHS, Derived, derive, floating, input_avals, merge, perform, pick, repeat, silence, vjp_graph

SLOTS = 64               # carried values that are kept on each level, where the number of steps is not known


class Parts(NamedTuple):
    """How the arguments of a while are divided."""

    tests: int
    consts: int

    def cut(self, values: Any) -> tuple[list, list, list]:
        values, at = list(values), sum(self)
        return values[:self.tests], values[self.tests:at], values[at:]


def _run(*args: Any, condition: Graph, body: Graph, tests: int, consts: int) -> tuple:
    given, fixed, carry = Parts(tests, consts).cut(args)
    while perform(condition, *given, *carry)[0]:
        carry = perform(body, *fixed, *carry)
    return tuple(map(as_scalar, carry))


def _shape(*avals: Aval, condition: Graph, body: Graph, tests: int, consts: int) -> tuple[Aval, ...]:
    return tuple(a.aval.strong() for a in body.outputs)


# ------------------------------------------------------------------------------------------------ derivatives


def _dual(primals: tuple, tangents: tuple, params: dict) -> tuple[tuple, tuple]:
    """Values and tangents by one loop that carries both."""
    body, parts = params["body"], Parts(params["tests"], params["consts"])
    mask = closed_mask(body, tuple(t is not None for t in tangents[parts.tests:]), parts.consts, len(body.outputs))
    derived = dual_graph(body, mask, mask[parts.consts:])
    dots = [zeros_of(aval_of(x).strong()) if t is None else t
            for x, t in zip(pick(primals[parts.tests:], mask), pick(tangents[parts.tests:], mask), strict=True)]
    tests, fixed, carry = parts.cut(primals)
    order, args = scan.interleaved(scan.Layout(parts.consts, len(carry)), mask, [*fixed, *carry], dots)
    test = params["condition"]
    ignored = [Var(v.aval.strong()) for v in pick(body.inputs[parts.consts:], mask[parts.consts:])]
    condition = Graph([*test.inputs, *ignored], test.nodes, test.outputs)
    found = bind(WHILE, *tests, *derived.captures, *args, condition=condition, body=regroup(derived, order), tests=parts.tests,
                 consts=len(derived.captures) + parts.consts + sum(mask[:parts.consts]))
    return tuple(found[:len(carry)]), tuple(merge(derived.flags, found[len(carry):]))


def _jvp(primals: tuple, tangents: tuple, ys: tuple, **params: Any) -> tuple:
    return _dual(primals, tangents, {**params, "body": silence(params["body"])})[1]


@functools.lru_cache(DERIVED_GRAPHS)
def _counting(condition: Graph, body: Graph, tests: int, consts: int) -> tuple[Derived, Derived]:
    """Condition and body with the number of steps carried behind the rest."""
    count = len(body.outputs)
    test = derive(lambda *args: condition.evaluate(bind, *args[:-1]), [*input_avals(condition), Aval((), INT64)], [])
    step = derive(lambda *args: [*body.evaluate(bind, *args[:-1]), args[-1] + 1], [*input_avals(body), Aval((), INT64)], [])
    assert len(step.graph.outputs) == count + 1
    return test, step


def _counted(primals: tuple, params: dict) -> tuple[tuple, Any]:
    """(carried values at the end, how often the body ran)."""
    test, step = _counting(**params)
    parts = Parts(params["tests"], params["consts"])
    given, fixed, carry = parts.cut(primals)
    found = bind(WHILE, *test.captures, *given, *step.captures, *fixed, *carry, np.int64(0),
                 condition=regroup(test, range(len(test.graph.inputs) - len(test.captures))),
                 body=regroup(step, range(len(step.graph.inputs) - len(step.captures))),
                 tests=parts.tests + len(test.captures), consts=parts.consts + len(step.captures))
    return found[:-1], found[-1]


def _augment(primals: tuple, active: tuple, params: dict) -> tuple:
    """Count; where the count is known, go on as a scan of that length, which keeps what its pullback needs."""
    parts = Parts(params["tests"], params["consts"])
    ys, steps = _counted(primals, params)
    try:
        length = int(known(steps))
    except TracerError:
        return ys, {**params, "residuals": steps}
    as_scan = {"graph": params["body"], "consts": parts.consts, "carries": len(params["body"].outputs), "length": length, "reverse": False}
    ys, saved = scan.augment(primals[parts.tests:], active[parts.tests:], as_scan)
    return ys, {**params, "residuals": saved}


def _vjp(primals: tuple, ys: tuple, y_bars: tuple, active: tuple, *, residuals: Any = None, **params: Any) -> list:
    if residuals is None:
        residuals = _augment(primals, active, params)[1]["residuals"]
    tests = params["tests"]
    rest = primals[tests:], y_bars, active[tests:]
    bars = _pulled_by_segments(*rest, residuals, params) if not isinstance(residuals, dict) else scan.SCAN.vjp(
        rest[0], ys, *rest[1:], **residuals)
    return [*(None for _ in range(tests)), *bars]


def _pulled_by_segments(primals: tuple, y_bars: tuple, active: tuple, steps: Any, params: dict) -> list:
    """The cotangents where the count is known only when the program runs: memory for SLOTS carried values on each of two levels.

    Segments of equal length; their first values are kept, and within one segment the same again. Beyond SLOTS squared steps, those
    between two kept values are computed from the first of them each time.
    """
    body, consts = silence(params["body"]), params["consts"]
    mask = closed_mask(body, tuple(map(bool, active)), consts, len(body.outputs))
    derived, wanted, carried = vjp_graph(body, mask), floating(body.outputs), mask[consts:]
    flags = tuple(map(bool, derived.flags))
    fixed, start = list(primals[:consts]), list(map(strong, primals[consts:]))

    def pull(carry: list, bars: tuple) -> tuple:
        ahead = zip(merge(carried, bars[0]), body.outputs, strict=True)
        given = pick([zeros_of(a.aval.strong()) if bar is None else bar for bar, a in ahead], wanted)
        found = merge(flags, derived.graph.evaluate(bind, *fixed, *carry, *given, *derived.captures))
        kept = zip(pick(found[consts:], carried), bars[0], strict=True)
        before = [zeros_of(aval_of(x)) if bar is None else bar for bar, x in kept]
        return before, [total + bar for total, bar in zip(bars[1], pick(found[:consts], flags[:consts]), strict=True)]
    sums = [zeros_of(v.aval.strong()) for v in pick(body.inputs[:consts], flags[:consts])]
    advance = lambda carry, count: fori_loop(0, count, lambda i, c: body.evaluate(bind, *fixed, *c), carry)
    bars, totals = _backwards(2, start, steps, (pick(y_bars, carried), sums), advance, pull)
    found = [*merge(flags[:consts], totals), *merge(carried, bars)]
    return [bar if wanted else None for bar, wanted in zip(found, active, strict=True)]


def _backwards(level: int, start: list, count: Any, bars: tuple, advance: Callable, pull: Callable) -> tuple:
    """The cotangents before `count` steps from `start` on, given those behind them."""
    if level == 0:
        back = lambda state: (state[0] - 1, pull(advance(start, state[0]), state[1]))
        return while_loop(lambda state: state[0] >= 0, back, (count - 1, bars))[1]
    length = np.maximum((count + (SLOTS - 1)) // SLOTS, 1)
    numbers = iota(shape=(SLOTS,), axis=0, dtype=INT64)
    left = lambda number: np.minimum(np.maximum(count - number * length, 0), length)
    starts = scan.scan(lambda carry, number: (advance(carry, left(number)), carry), start, numbers)[1]

    def segment(bars: tuple, x: tuple) -> tuple:
        number, first = x
        inside = lambda b: _backwards(level - 1, first, left(number), b, advance, pull)
        return cond(left(number) > 0, inside, lambda b: b, bars), None
    return scan.scan(segment, bars, (numbers, starts), reverse=True)[0]


# ------------------------------------------------------------------------------------------------ batches, and the row


def _batch(args: tuple, axes: tuple, *, condition: Graph, body: Graph, tests: int, consts: int) -> tuple:
    """All examples step together until the last one is done; those that are done keep their values."""
    size = next(aval_of(x).shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    parts, count = Parts(tests, consts), len(body.outputs)
    given, fixed, carry = parts.cut(tuple(axis is not None for axis in axes))
    mask = closed_mask(body, (*fixed, *carry), consts, count, batch_reach(size))
    each = batched_graph(condition, (*given, *mask[consts:]), size, (False,)).flags[0]
    if each:
        mask = (*mask[:consts], *(True,) * count)
    tested = batched_graph(condition, (*given, *mask[consts:]), size, (False,))
    stepped = batched_graph(body, mask, size, mask[consts:])
    moved = [x if axis is None else move_front(x, axis) for x, axis in zip(args, axes, strict=True)]
    moved[sum(parts):] = [repeat(x, size) if must and axis is None else x
                          for x, axis, must in zip(moved[sum(parts):], axes[sum(parts):], mask[consts:], strict=True)]
    if not each:
        found = _bind_derived(parts, moved, tested, stepped)
    else:
        tested, stepped = _until_all(parts, tested, stepped)
        given, fixed, carry = parts.cut(moved)
        found = _bind_derived(Parts(tests, tests + consts), [*given, *given, *fixed, *carry], tested, stepped)
    return found, tuple(0 if m else None for m in mask[consts:])


def _bind_derived(parts: Parts, args: list, tested: Derived, stepped: Derived) -> tuple:
    given, fixed, carry = parts.cut(args)
    return bind(WHILE, *tested.captures, *given, *stepped.captures, *fixed, *carry,
                condition=regroup(tested, range(parts.tests + len(carry))), body=regroup(stepped, range(parts.consts + len(carry))),
                tests=parts.tests + len(tested.captures), consts=parts.consts + len(stepped.captures))


def _until_all(parts: Parts, tested: Derived, stepped: Derived) -> tuple[Derived, Derived]:
    """The condition of a batch: does any example go on; the body: a step for those that do."""
    avals = [v.aval for v in tested.graph.inputs[:len(tested.graph.inputs) - len(tested.captures)]]
    step_avals = [v.aval for v in stepped.graph.inputs[:len(stepped.graph.inputs) - len(stepped.captures)]]

    def any_goes_on(*args: Any) -> list:
        return [bind(TABLE["any"], tested.graph.evaluate(bind, *args, *tested.captures)[0], axes=(0,))]

    def step(*args: Any) -> list:
        given, fixed, carry = Parts(parts.tests, parts.consts).cut(args)
        on = tested.graph.evaluate(bind, *given, *carry, *tested.captures)[0]
        new = stepped.graph.evaluate(bind, *fixed, *carry, *stepped.captures)
        shaped = lambda x: bind(TABLE["reshape"], on, shape=(aval_of(on).shape[0], *(1,) * (aval_of(x).ndim - 1)))
        return [where(shaped(b), b, a) for a, b in zip(carry, new, strict=True)]
    return derive(any_goes_on, avals, []), derive(step, [*avals[:parts.tests], *step_avals], [])


WHILE = register(Primitive("while", "call", _run, _shape, _jvp, _vjp, _batch, Control("while"), samples=lambda rng: [], multiple=True,
                           augment=_augment, dual=_dual, doc="A body repeated while a condition holds."))


def while_loop(condition: Callable, body: Callable, carry: Any) -> Any:
    """carry, after carry = body(carry) as long as condition(carry) holds; the number of steps is known only when the program runs.

    Type: while_loop : (c -> bool) -> (c -> c) -> c -> c. Both functions are traced once; the carried value keeps its tree, shapes and
    dtypes. Under vmap the loop runs until all examples are done, and those that are keep their values.
    Derivative: forward mode carries the tangents along. Reverse mode runs the loop once to count its steps, then as a scan of that
    length whose residuals are kept: twice the time, and memory of one body per step. Inside compile, trace or vmap, where the count is
    not known before, it keeps 2 x 64 carried values instead and computes every step three times (more often beyond 4,096 steps).
    Raises: TreeError, ShapeError, DtypeError where the carried value changes its form or the condition is not one bool.

    >>> while_loop(lambda x: x < 100.0, lambda x: x * 2.0, 3.0)
    np.float64(192.0)
    """
    stepped, carried, before = trace_carrying("while_loop", lambda c, cells: body(c), carry, [], lambda result: result)
    tested = trace_body(lambda cells: condition(unflatten(before, cells)), [aval_of(x) for x in carried])
    avals = [a.aval for a in tested.graph.outputs]
    if len(avals) != 1 or avals[0].shape != ():
        raise ShapeError(explain(f"while_loop: the condition returned {', '.join(map(str, avals)) or 'nothing'}, expected one bool.",
                                 remedy="Reduce it: p.any() goes on while any element does, p.all() while all do."))
    if avals[0].dtype != BOOL:
        raise DtypeError(explain(f"while_loop: the condition returned {avals[0]}, expected bool[].", remedy="Compare: x > 0, n != 0."))
    found = bind(WHILE, *tested.consts, *stepped.consts, *map(freeze, carried), condition=tested.graph, body=stepped.graph,
                 tests=len(tested.consts), consts=len(stepped.consts))
    return unflatten(before, found)


def fori_loop(lower: Any, upper: Any, body: Callable, carry: Any) -> Any:
    """carry, after carry = body(i, carry) for i = lower .. upper - 1 (an int64).

    With Python's or NumPy's integers as bounds it is a scan: the code does not grow with the count, and reverse mode keeps the body's
    residuals of every step. Traced bounds make it a while_loop. Raises as scan does.

    >>> fori_loop(0, 5, lambda i, total: total + i * i, 0)
    np.int64(30)
    """
    if all(isinstance(n, (int, np.integer)) and not is_bool(n) for n in (lower, upper)):
        return scan.counted(body, lower, upper, carry)
    first, last = (bind(TABLE["convert"], n, dtype=INT64) if aval_of(n) != Aval((), INT64) or not is_array(n) else n
                   for n in map(_integer, (lower, upper)))
    return while_loop(lambda c: c[0] < last, lambda c: (c[0] + 1, body(c[0], c[1])), (first, carry))[1]


def is_bool(n: Any) -> bool:
    return isinstance(n, (bool, np.bool_))


def _integer(n: Any) -> Any:
    aval = aval_of(n)
    if aval.shape != () or aval.dtype.kind not in "iu":
        raise DtypeError(explain(f"fori_loop: a bound is {aval}, expected an integer.", remedy="Convert it first: n.astype(np.int64)."))
    return n
