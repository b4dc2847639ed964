"""How graphs are printed: one line a node, in the order of evaluation.

Invariant: the text of a graph depends on its structure only. May import: L0, aval, graph. Read next: transforms/.
"""

from __future__ import annotations

import numpy as np

from .graph import _PRINTERS, Atom, Graph, Literal


def format_atom(atom: Atom, names: dict) -> str:
    if not isinstance(atom, Literal):
        return names[atom]
    value = np.asarray(atom.value)
    return f"{value.item()!r}" if value.ndim == 0 else f"{atom.aval}"


def format_param(value: object) -> str:
    if isinstance(value, Graph):
        return "{\n" + "\n".join("    " + line for line in str(value).splitlines()) + "\n  }"
    if isinstance(value, np.dtype):
        return value.name
    return getattr(value, "__name__", None) or repr(value)


def format_graph(graph: Graph) -> str:
    """The whole graph as text: inputs, nodes `v3: float64[2] = mul(v1, v2)`, outputs."""
    names = {v: f"v{i}" for i, v in enumerate(graph.inputs)}
    lines = ["inputs " + ", ".join(f"{names[v]}: {v.aval}" for v in graph.inputs)]
    for node in graph.nodes:
        for out in node.outs:
            names[out] = f"v{len(names)}"
        outs = ", ".join(f"{names[v]}: {v.aval}" for v in node.outs)
        terms = [format_atom(a, names) for a in node.inputs] + [f"{k}={format_param(p)}" for k, p in sorted(node.params.items())]
        lines.append(f"  {outs} = {node.primitive.name}({', '.join(terms)})")
    lines.append("return " + ", ".join(format_atom(a, names) for a in graph.outputs))
    return "\n".join(lines)


_PRINTERS.append(format_graph)
