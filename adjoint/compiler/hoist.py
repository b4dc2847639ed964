"""Rewrites around loops: what a body need not compute at every step is computed once, before the loop or behind it.

Invariant: passes match on the constructs of control flow and on lowering records, never on names. May import: L0-L3. Read next:
simplify.py.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.graph import Graph, Node
from ..primitives.kinds import Control

Pass = Callable[[Graph], Graph]


def is_control(node: Node) -> bool:
    return isinstance(node.primitive.lowering, Control)


def inside(graph: Graph, one_pass: Pass) -> Graph:
    """The pass applied to the graphs that control nodes hold."""
    if not any(map(is_control, graph.nodes)):
        return graph
    nodes = []
    for node in graph.nodes:
        if is_control(node):
            params = {k: one_pass(p) if isinstance(p, Graph) else p for k, p in node.params.items()}
            node = Node(node.primitive, node.inputs, node.outs, params, node.effects, node.where)
        nodes.append(node)
    return Graph(graph.inputs, nodes, graph.outputs, graph.captures)
