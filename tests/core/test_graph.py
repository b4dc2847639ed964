"""Graphs: text, name, equality, check; captures; what a trace records."""

import numpy as np
import pytest

import adjoint as ad
from adjoint.core.aval import Aval, aval_of
from adjoint.core.graph import Graph, Node, Var
from adjoint.core.interpreter import EVALUATION, Interpreter, Tracer, current, interpreting, known
from adjoint.core.primitive import TABLE, bind, register
from adjoint.core.trace import trace_graph
from adjoint.errors import EscapedTracerError, TracerError
from adjoint.transforms.calls import close, inline

F64 = np.dtype(np.float64)
VECTOR = Aval((3,), F64)


def graph_of(f, *avals):
    return trace_graph(lambda *xs: [f(*xs)], avals)


def test_the_text_of_a_graph():
    graph = graph_of(lambda x, y: x * 2.0 + y, VECTOR, VECTOR)
    assert str(graph) == ("inputs v0: float64[3], v1: float64[3]\n"
                          "  v2: float64[3] = multiply(v0, 2.0)\n"
                          "  v3: float64[3] = add(v2, v1)\n"
                          "return v3")


def test_equal_programs_are_equal_graphs():
    one, two = graph_of(lambda x: x * 2.0, VECTOR), graph_of(lambda y: y * 2.0, VECTOR)
    assert one == two and hash(one) == hash(two) and len({one, two}) == 1
    for other in (graph_of(lambda x: x * 3.0, VECTOR), graph_of(lambda x: x - 2.0, VECTOR), graph_of(lambda x: 2.0 - x, VECTOR),
                  graph_of(lambda x: x * 2.0, Aval((4,), F64)), graph_of(lambda x: x * np.float64(2.0), VECTOR)):
        assert one != other


def test_source_lines_are_outside_equality_and_text():
    f = lambda x: x * 2.0
    g = lambda x: x * 2.0
    one, two = graph_of(f, VECTOR), graph_of(g, VECTOR)
    assert one.nodes[0].where != two.nodes[0].where and one == two and str(one) == str(two)
    assert one.nodes[0].where.endswith(f"test_graph.py:{f.__code__.co_firstlineno}")


def test_constants_are_recorded_and_large_arrays_are_captured():
    small, large = np.arange(8.0), np.arange(9.0)
    graph = graph_of(lambda x: (x * small[0] + np.sum(small)) * np.sum(ad.numpy.asarray(large) * x[0]), Aval((1,), F64))
    assert len(graph.captures) == 1 and graph.captures[0] is large and len(graph.inputs) == 2
    snapshot = graph_of(lambda x: x + small, Aval((8,), F64))
    small += 100.0
    assert snapshot.evaluate(bind, np.zeros(8))[0][0] == 0.0


def test_captures_of_outer_transformations_are_lifted():
    def f(w):
        closed = close(lambda x: x * w, np.ones(2))
        assert closed.graph.captures == () and len(closed.leaves) == 2
        return np.sum(closed.graph.evaluate(bind, *closed.leaves)[0])
    assert ad.grad(f)(np.float64(3.0)) == 2.0


def test_check_names_what_is_wrong():
    graph = graph_of(lambda x: x * 2.0 + x, VECTOR)
    assert graph.check() is graph
    multiply, add = graph.nodes
    with pytest.raises(AssertionError, match="not yet defined"):
        Graph(graph.inputs, [add, multiply], graph.outputs).check()
    with pytest.raises(AssertionError, match="twice"):
        Graph(graph.inputs, [multiply, multiply], multiply.outs).check()
    with pytest.raises(AssertionError, match="an output"):
        Graph(graph.inputs, [], graph.outputs).check()
    wrong = Node(multiply.primitive, multiply.inputs, (Var(Aval((4,), F64)),), {})
    with pytest.raises(AssertionError, match=r"states float64\[4\], its rule says float64\[3\]"):
        Graph(graph.inputs, [wrong], wrong.outs).check()


def test_inline_leaves_only_what_computes():
    def f(x):
        inner = ad.custom_vjp(lambda u: ad.checkpoint(np.sin)(u), lambda u: (np.sin(u), u), lambda u, bar: (bar,))
        return ad.tap("y", ad.stop_gradient(inner(x)) + ad.checkpoint(lambda u: 1.0)(x))
    graph = close(f, np.ones(3)).graph
    flat = inline(graph).check()
    assert [n.primitive.name for n in flat.nodes] == ["sin", "add"] and not flat.effects and graph.effects == {"tap"}
    np.testing.assert_array_equal(flat.evaluate(bind, np.ones(3))[0], np.sin(1.0) + 1.0)


def test_avals():
    assert aval_of(1.0) == Aval((), F64, True) and aval_of(np.float64(1.0)) == Aval((), F64)
    assert aval_of(True).dtype == np.bool_ and aval_of(3).dtype == np.int64
    assert str(aval_of(np.zeros((2, 0), np.float32))) == "float32[2,0]" and aval_of(np.zeros((2, 0))).size == 0


def test_the_interpreter_is_restored_whatever_happens():
    class Mine(Interpreter):
        name = "mine"
    with pytest.raises(ZeroDivisionError), interpreting(Mine(EVALUATION), closing=True) as mine:
        assert current() is mine
        raise ZeroDivisionError
    assert current() is EVALUATION and not mine.open
    with pytest.raises(EscapedTracerError):
        bind(TABLE["add"], Tracer(mine, None, VECTOR), 1.0)


def test_known_values():
    seen = []

    def f(x):
        seen.append(float(known(x * 2.0)))
        return x * x
    ad.grad(ad.grad(f))(np.float64(3.0))
    ad.jvp(f, (np.float64(3.0),), (1.0,))
    assert seen == [6.0, 6.0]
    for run in (ad.trace(f), ad.vmap(f)):
        with pytest.raises(TracerError, match="needs the number"):
            run(np.ones(2))


def test_a_row_that_misses_a_part_raises_at_import():
    row = TABLE["add"]
    with pytest.raises(AssertionError, match="two rows"):
        register(row)
    broken = type(row)("broken", row.kind, row.body, row.shape, row.jvp, None, row.batch)
    with pytest.raises(AssertionError, match="does not state vjp, samples"):
        register(broken)
    assert "broken" not in TABLE
