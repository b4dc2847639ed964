"""trace: the Graph of a function at its arguments, and the table of the lectures: forward primal trace beside reverse adjoint trace.

Invariant: the table is computed from the rows alone: each reverse line is the row's vjp, traced and written as a formula, and evaluated.
May import: L0-L2, calls. Read next: core/pretty.py.
"""

from __future__ import annotations

import functools
import inspect
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.effects import watching_randomness
from ..core.graph import Atom, Graph, Literal, Node, Var
from ..core.interpreter import EVALUATION, interpreting
from ..core.primitive import bind
from ..core.trace import trace_graph
from ..primitives.kinds import Contract, Strided
from ..tree import Structure, paths, unflatten
from .calls import close, inline

_INFIX = {"add": "+", "subtract": "−", "multiply": "×", "scale": "×", "couple": "×", "divide": "/", "power": "^"}
_RANK = {"add": 1, "subtract": 1, "multiply": 2, "scale": 2, "couple": 2, "divide": 2, "negative": 2, "power": 3}
_WORDS = {"log": "ln", "absolute": "abs", "logistic": "σ"}
_WIDEST = 48            # characters of a formula; a longer one is written v̄_k ∂v_k/∂v_j


class Trace(Graph):
    """A Graph with the values it was traced at: `table()` shows both passes, calling it evaluates it."""

    __slots__ = ("leaves", "names", "structure")

    def __init__(self, graph: Graph, leaves: list, structure: Structure, names: list[str]):
        super().__init__(graph.inputs, graph.nodes, graph.outputs)
        self.leaves, self.structure, self.names = leaves, structure, names      # names: of the arguments; captured arrays have none

    def value(self) -> Any:
        """The result at the values of the trace."""
        return unflatten(self.structure, self.evaluate(bind, *self.leaves))

    def table(self) -> str:
        """Forward primal trace and reverse adjoint trace, side by side; read the right one from the bottom upwards."""
        with interpreting(EVALUATION), np.errstate(all="ignore"):
            return _Table(self).text()


def trace(function: Callable) -> Callable[..., Trace]:
    """trace(f)(*args) is the Graph of f at these arguments, their values kept: print it, `check()` it, or print its `table()`.

    Source of the table: Baydin, Pearlmutter, Radul, Siskind, Automatic differentiation in machine learning: a survey, JMLR 18 (2018),
    arXiv 1502.05767, tables 2 and 3.

    >>> print(trace(lambda x, y: x * y + x)(np.float64(2.0), np.float64(5.0)).table())
    Forward primal trace   ↓   │ Reverse adjoint trace   ↑
    ───────────────────────────┼────────────────────────────────
    v_{-1} = x            = 2  │ x̄      = v̄_{-1}             = 6
    v_0    = y            = 5  │ ȳ      = v̄_0                = 2
    ───────────────────────────┼────────────────────────────────
    v_1    = v_{-1} × v_0 = 10 │ v̄_0    = v̄_1 × v_{-1}       = 2
                               │ v̄_{-1} = v̄_{-1} + v̄_1 × v_0 = 6
    v_2    = v_1 + v_{-1} = 12 │ v̄_{-1} = v̄_2                = 1
                               │ v̄_1    = v̄_2                = 1
    ───────────────────────────┼────────────────────────────────
    f      = v_2          = 12 │ v̄_2    = f̄                  = 1
    """
    @functools.wraps(function)
    def traced(*args: Any) -> Trace:
        with watching_randomness(function, args):
            closed = close(function, *args)
        return Trace(closed.graph, closed.leaves, closed.structure, _argument_names(function, args))
    return traced


def _argument_names(function: Callable, args: tuple) -> list[str]:
    try:
        stated = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        stated = []
    found = []
    for path in paths(args):
        first, _, rest = path.partition(".")
        name = stated[int(first)] if int(first) < len(stated) else f"x{int(first) + 1}"
        found.append(f"{name}.{rest}" if rest else name)
    return found


# ------------------------------------------------------------------------------------------------ elements of inputs


def _strides(shape: tuple) -> tuple:
    found, step = [], 1
    for n in reversed(shape):
        found.append(step)
        step *= n
    return tuple(reversed(found))


def _elements(graph: Graph) -> dict[Var, tuple[int, int]]:
    """Scalars that are just an element of an input: (number of the input, offset of the element)."""
    views: dict[Var, tuple] = {v: (i, 0, v.aval.shape, _strides(v.aval.shape)) for i, v in enumerate(graph.inputs)}
    for node in graph.nodes:
        x = node.inputs[0] if node.inputs else None
        if isinstance(node.primitive.lowering, Strided) and x in views:
            i, *place = views[x]
            found = node.primitive.lowering.view(*place, **node.params)
            if found is not None:
                views[node.outs[0]] = (i, *found)
    return {v: (i, offset) for v, (i, offset, shape, _) in views.items() if shape == () and v.aval.shape == ()}


def _without_idle(graph: Graph) -> Graph:
    """Without conversions to the dtype that a value has (a Python number that becomes NumPy's): the lectures have no such lines."""
    same: dict[Atom, Atom] = {}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(same.get(a, a) for a in node.inputs)
        if node.primitive.name == "convert" and isinstance(inputs[0], Var) and inputs[0].aval.dtype == node.outs[0].aval.dtype:
            same[node.outs[0]] = inputs[0]
        else:
            nodes.append(replace(node, inputs=inputs))
    return Graph(graph.inputs, nodes, [same.get(a, a) for a in graph.outputs])


def _by_depth(graph: Graph) -> Graph:
    """The nodes in the order of the lectures: by the longest path from the inputs, program order within a level."""
    depth: dict[Any, int] = dict.fromkeys(graph.inputs, 0)
    levels = []
    for node in graph.nodes:
        moves = isinstance(node.primitive.lowering, Strided)
        level = max((depth.get(a, 0) for a in node.inputs), default=0) + (not moves)
        levels.append(level)
        depth.update(dict.fromkeys(node.outs, level))
    order = sorted(range(len(levels)), key=levels.__getitem__)
    return Graph(graph.inputs, [graph.nodes[k] for k in order], graph.outputs)


# ------------------------------------------------------------------------------------------------ formulas


def _number(x: Any) -> str:
    x = np.asarray(x)
    if x.ndim:
        return str(aval_of(x))
    return f"{x.item() + 0:.6g}".replace("-", "−") if x.dtype.kind in "fiu" else str(x.item())      # + 0: no "−0"


def _formula(node: Node, read: Callable[[Atom], tuple[str, int]]) -> tuple[str, int]:
    """A node as text with the rank of its operator; read gives text and rank of an operand."""
    name, args = node.primitive.name, [read(a) for a in node.inputs]
    if name in _INFIX and len(args) == 2:
        rank = _RANK[name]
        if name in ("multiply", "scale") and args[1][0].startswith("1 / "):
            return f"{_inside(args[0], rank)} / {args[1][0][4:]}", rank
        return f"{_inside(args[0], rank)} {_INFIX[name]} {_inside(args[1], rank + (name in ('subtract', 'divide')))}", rank
    if name in _NOTATION:
        return _NOTATION[name](node, args[0])
    if isinstance(node.primitive.lowering, Contract):
        left, right, out = node.primitive.lowering.spec(*[a.aval for a in node.inputs], **node.params)
        return f"{_inside(args[0], 3)} · {_inside(args[1], 3)} [{left},{right}→{out}]", 2
    params = [f"{k}={v.name if isinstance(v, np.dtype) else v}" for k, v in node.params.items()]
    word = _WORDS.get(name, name)
    if len(args) == 1 and not params and node.primitive.kind == "elementwise":
        return f"{word} {_inside(args[0], 4)}", 3
    return f"{word}({', '.join([text for text, _ in args] + params)})", 4


_NOTATION: dict[str, Callable[[Node, tuple[str, int]], tuple[str, int]]] = {
    "negative": lambda node, x: (f"−{_inside(x, 2)}", 2),
    "integer_power": lambda node, x: (f"{_inside(x, 4)}^{node.params['n']}", 3),
    "convert": lambda node, x: (f"{node.params['dtype'].name}({x[0]})", 4),
    "permute": lambda node, x: (f"{_inside(x, 4)}ᵀ" if node.params["axes"] == (1, 0) else f"permute({x[0]}, {node.params['axes']})", 4),
    "reshape": lambda node, x: (f"{x[0]} as {list(node.params['shape'])}", 1),
    "broadcast": lambda node, x: (f"{x[0]} to {list(node.params['shape'])}", 1),
}


def _inside(operand: tuple[str, int], rank: int) -> str:
    text, own = operand
    return f"({text})" if own < rank or (text.startswith("−") and rank > 1) else text


def _write(graph: Graph, names: list[str]) -> list[str]:
    """The outputs of a small graph as formulas of its inputs' names."""
    known: dict[Var, tuple[str, int]] = {v: (n, 4) for v, n in zip(graph.inputs, names, strict=False)}
    read = lambda a: (_number(a.value), 4) if isinstance(a, Literal) else known.get(a, ("?", 4))
    for node in graph.nodes:
        text = _formula(node, read)
        for k, out in enumerate(node.outs):
            known[out] = text if len(node.outs) == 1 else (f"{text[0]}[{k}]", 4)
    return [read(a)[0] for a in graph.outputs]


def bar(name: str) -> str:
    """v_1 -> v̄_1."""
    return unicodedata.normalize("NFC", f"{name[0]}\u0304{name[1:]}")


# ------------------------------------------------------------------------------------------------ the table

Line = tuple[str, str, str]         # name, formula, value


class _Table:
    """Both passes of one trace, computed node by node."""

    def __init__(self, trace: Trace):
        self.trace, self.graph = trace, _by_depth(_without_idle(inline(trace)))
        self.constants = frozenset(self.graph.inputs[len(trace.names):])
        self.elements = _elements(self.graph)
        used = {a for node in self._kept() for a in node.inputs} | set(self.graph.outputs)
        places = sorted({self.elements[v] for v in self.elements if v in used})
        whole = [(i, -1) for i, v in enumerate(self.graph.inputs) if v in used and v not in self.elements]
        self.places = sorted(places + whole)
        count = len(self.places)
        self.v = {place: f"v_{{{k}}}" if (k := n - count + 1) < 0 else f"v_{k}" for n, place in enumerate(self.places)}
        self.names: dict[Var, str] = {v: self.v[p] for v, p in self.elements.items() if p in self.v}
        self.names |= {v: self.v[i, -1] for i, v in enumerate(self.graph.inputs) if (i, -1) in self.v}
        self.values = self._evaluate()
        number = 0
        for node in self._kept():
            for out in node.outs:
                number += 1
                self.names[out] = f"v_{number}"

    def _kept(self) -> list[Node]:
        """The nodes that compute: not those that only pick an element of an input, or lead to one."""
        needed = {a for a in self.graph.outputs if a not in self.elements}
        kept = []
        for node in reversed(self.graph.nodes):
            if any(out in needed for out in node.outs):
                kept.append(node)
                needed.update(a for a in node.inputs if a not in self.elements)
        return kept[::-1]

    def _evaluate(self) -> dict:
        values: dict[Any, Any] = dict(zip(self.graph.inputs, self.trace.leaves, strict=True))
        for node in self.graph.nodes:
            found = node.primitive.body(*[self._value(a, values) for a in node.inputs], **node.params)
            values.update(zip(node.outs, found if node.primitive.multiple else (found,), strict=True))
        return values

    def _value(self, a: Atom, values: dict | None = None) -> Any:
        return a.value if isinstance(a, Literal) else (self.values if values is None else values)[a]

    def _name(self, a: Atom) -> str:
        return _number(a.value) if isinstance(a, Literal) else self.names[a]

    def _key(self, a: Var) -> Any:
        return self.elements.get(a, a)

    def _label(self, place: tuple[int, int]) -> str:
        i, offset = place
        shape = self.graph.inputs[i].aval.shape
        index = "" if offset < 0 or shape == () else "[" + ", ".join(map(str, np.unravel_index(offset, shape))) + "]"
        return (self.trace.names[i] if self._is_argument(i) else "captured") + index

    def _is_argument(self, i: int) -> bool:
        return i < len(self.trace.names)

    def _input_value(self, place: tuple[int, int]) -> Any:
        x = self.trace.leaves[place[0]]
        return x if place[1] < 0 else np.asarray(x).reshape(-1)[place[1]]

    # -- the passes ---------------------------------------------------------------------------------------------------

    def _forward(self, node: Node) -> list[Line]:
        text, _ = _formula(node, lambda a: (self._name(a), 4))
        return [(self.names[out], text if len(node.outs) == 1 else f"{text}[{k}]", _number(self.values[out]))
                for k, out in enumerate(node.outs)]

    def _reverse(self, bars: dict) -> dict[Node, list[Line]]:
        lines: dict[Node, list[Line]] = {}
        for node in reversed(self._kept()):
            y_bars = [bars.get(out) for out in node.outs]
            if any(b is not None for b in y_bars):
                lines[node] = self._pull(node, y_bars, bars)
        return lines

    def _pull(self, node: Node, y_bars: list, bars: dict) -> list[Line]:
        xs = [self._value(a) for a in node.inputs]
        active = tuple(isinstance(a, Var) and a.aval.dtype.kind == "f" and a not in self.constants for a in node.inputs)
        full = [np.zeros(out.aval.shape, out.aval.dtype)[()] if b is None else b for out, b in zip(node.outs, y_bars, strict=True)]
        ys = [self.values[out] for out in node.outs]
        many = node.primitive.multiple
        found = node.primitive.vjp(xs, tuple(ys) if many else ys[0], tuple(full) if many else full[0], active, **node.params)
        formulas = self._formulas(node, active)
        lines = []
        for k, (a, term) in enumerate(zip(node.inputs, found, strict=True)):
            if term is None or not active[k]:
                continue
            key, name = self._key(a), bar(self._name(a))
            before = bars.get(key)
            bars[key] = term if before is None else before + term
            lines.append((name, formulas[k] if before is None else f"{name} + {formulas[k]}", _number(bars[key])))
        return lines[::-1]

    def _formulas(self, node: Node, active: tuple) -> dict[int, str]:
        """Each cotangent as a formula: the row's vjp, traced."""
        avals = [a.aval for a in node.inputs] + [out.aval.strong() for out in node.outs] * 2
        count, outs = len(node.inputs), len(node.outs)
        wanted: list[int] = []

        def pulled(*cells: Any) -> list:
            xs = [a.value if isinstance(a, Literal) else x for a, x in zip(node.inputs, cells, strict=False)]
            ys, y_bars = cells[count:count + outs], cells[count + outs:]
            many = node.primitive.multiple
            found = node.primitive.vjp(xs, ys if many else ys[0], y_bars if many else y_bars[0], active, **node.params)
            wanted.extend(k for k, term in enumerate(found) if term is not None)
            return [term for term in found if term is not None]
        graph = trace_graph(pulled, [Aval(*a[:2]) for a in avals])
        out_names = [self.names[out] for out in node.outs]
        texts = _write(graph, [*map(self._name, node.inputs), *out_names, *map(bar, out_names)])
        fallback = lambda k: f"{bar(out_names[0])} ∂{out_names[0]}/∂{self._name(node.inputs[k])}"
        return {k: text if len(text) <= _WIDEST and "?" not in text else fallback(k) for k, text in zip(wanted, texts, strict=True)}

    # -- the text -----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        outputs = [a for a in self.graph.outputs if isinstance(a, Var)]
        labels = ["f"] if len(self.graph.outputs) == 1 else [f"f_{k + 1}" for k in range(len(outputs))]
        bars: dict[Any, Any] = {}
        seeds: list[Line] = []
        for a, label in zip(outputs, labels, strict=False):
            if a.aval.dtype.kind == "f":
                bars[self._key(a)] = np.ones(a.aval.shape, a.aval.dtype)[()]
                seeds.append((bar(self._name(a)), bar(label), _number(bars[self._key(a)])))
        reverse = self._reverse(bars)
        top = [((self.v[p], self._label(p), _number(self._input_value(p))), self._last(p, bars)) for p in self.places]
        blocks = [([left for left, _ in top], [right for _, right in top if right])]
        blocks.append(([], []))
        for node in self._kept():
            left, right = self._forward(node), reverse.get(node, [])
            height = max(len(left), len(right))
            blocks[-1][0].extend(left + [("", "", "")] * (height - len(left)))
            blocks[-1][1].extend(right + [("", "", "")] * (height - len(right)))
        ends = [(label, self._name(a), _number(self._value(a))) for a, label in zip(self.graph.outputs, labels, strict=False)]
        blocks.append((ends, seeds))
        return _layout(blocks)

    def _last(self, place: tuple[int, int], bars: dict) -> Line:
        i = place[0]
        key = self.graph.inputs[i] if place[1] < 0 or self.graph.inputs[i].aval.shape == () else place
        found = bars.get(self._key(key) if isinstance(key, Var) else key)
        if self.graph.inputs[i].aval.dtype.kind != "f" or not self._is_argument(i):
            return ("", "", "")
        return bar(self._label(place)), bar(self.v[place]) if found is not None else "0", _number(0.0 if found is None else found)


def width(text: str) -> int:
    """Columns that a text takes: a combining macron takes none."""
    return sum(not unicodedata.combining(c) for c in text)


def _pad(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def _layout(blocks: list[tuple[list[Line], list[Line]]]) -> str:
    """Two columns with rules between the blocks."""
    def column(lines: list[Line]) -> tuple[list[str], int]:
        first, second = max((width(n) for n, _, _ in lines), default=0), max((width(f) for _, f, _ in lines), default=0)
        texts = [f"{_pad(n, first)} = {_pad(f, second)} = {v}" if n else "" for n, f, v in lines]
        return texts, max(map(width, texts), default=0)
    headings = ("Forward primal trace   ↓", "Reverse adjoint trace   ↑")
    sides = []
    for side in (0, 1):
        texts, widest = column([line for block in blocks for line in block[side]])
        sides.append((iter(texts), max(widest, len(headings[side]))))
    (left, left_width), (right, right_width) = sides
    rule = "─" * (left_width + 1) + "┼" + "─" * (right_width + 1)
    rows = [f"{_pad(headings[0], left_width)} │ {headings[1]}"]
    for block in blocks:
        rows.append(rule)
        rows += [f"{_pad(next(left) if k < len(block[0]) else '', left_width)} │ {next(right) if k < len(block[1]) else ''}".rstrip()
                 for k in range(max(map(len, block)))]
    return "\n".join(rows)
