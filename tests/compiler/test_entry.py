"""The way into a compiled function: what matches, what goes the slow path, what comes back. Both entries, same tests."""

import gc
import threading

import llvmlite.binding as llvm
import native_programs as programs
import numpy as np
import pytest
from entries import B1, F4, F8, I4, I8, SLOW, U1, Failed, Tree, entry_of, plus_one, slow, specialize, step_entry

from adjoint.compiler import capi
from adjoint.compiler.entry import Entry
from adjoint.compiler.jit import load
from adjoint.compiler.runtime import emit_module, runtime
from adjoint.compiler.signature import (
    Array,
    Fresh,
    Given,
    Scalar,
    Signature,
)
from adjoint.errors import CompileError


def test_layout_is_known_here():
    found = capi.layout()
    assert found is not None
    assert (found.type, found.data, found.ndim, found.shape) == (8, 16, 24, 32)     # CPython 3.11-3.14, NumPy 2


def test_call(route):
    f, x = plus_one(route).call, np.arange(6.0)
    y = f(x)
    assert type(y) is np.ndarray and y.dtype == F8 and y.shape == (6,) and y.flags.owndata
    assert np.array_equal(y, x + 1) and np.array_equal(x, np.arange(6.0))
    assert f(x) is not y and not np.shares_memory(f(x), y)


def test_instance_of_the_class_is_called_without_self(route):
    made = plus_one(route).callable_class("Compiled")()
    assert np.array_equal(made(np.zeros(6)), np.ones(6))


class Sub(np.ndarray):
    pass


def malformed():
    x = np.arange(12.0)
    unaligned = np.zeros(6 * 8 + 1, np.uint8)[1:].view(F8)
    return list({
        "no argument": (), "two arguments": (x[:6], x[:6]), "strided": (x[::2],), "reversed": (x[:6][::-1],),
        "short": (x[:5],), "long": (x[:7],), "empty": (x[:0],), "two axes": (x[:6].reshape(1, 6),), "no axes": (np.float64(1),),
        "float32": (x[:6].astype(F4),), "int64": (np.arange(6),), "complex": (x[:6].astype(complex),), "bool": (x[:6] > 1,),
        "big-endian": (x[:6].astype(">f8"),), "unaligned": (unaligned,), "subclass": (x[:6].view(Sub),),
        "masked": (np.ma.masked_array(x[:6]),), "list": ([0.0] * 6,), "None": (None,), "float": (1.0,), "str": ("six",),
        "object": (x[:6].astype(object),), "structured": (np.zeros(6, "f8,f8"),), "datetime": (np.zeros(6, "M8[s]"),),
        "broadcast": (np.broadcast_to(np.float64(1), (6,)),), "type": (np.ndarray,),
    }.items())


@pytest.mark.parametrize("name, args", malformed(), ids=[name for name, _ in malformed()])
def test_malformed_arguments_go_the_slow_path(route, name, args):
    word, seen, kwargs = plus_one(route).call(*args)
    assert word == SLOW and kwargs == {}
    assert len(seen) == len(args) and all(a is b for a, b in zip(seen, args, strict=True))


def test_keywords_go_the_slow_path(route):
    x = np.zeros(6)
    f = plus_one(route).call
    assert f(x=x)[2] == {"x": x} and f(x, y=1)[1:] == ((x,), {"y": 1})


def test_read_only_array_is_an_argument_but_not_a_donated_one(route):
    x = np.arange(6.0)
    x.flags.writeable = False
    assert np.array_equal(plus_one(route).call(x), x + 1)
    donated = entry_of(route, programs.axpy_step(6), Signature(
        (Array(F8, (6,), 0, donated=True), Array(F8, (6,), 1), Scalar(float, F8, 2)), Given(0), 4, ((3, 0),), 64))
    assert donated.call(x, np.ones(6), 0.5)[0] == SLOW and np.array_equal(x, np.arange(6.0))
    y = np.arange(6.0)
    assert donated.call(y, np.ones(6), 0.5) is y and np.array_equal(y, x + 0.5)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3), (6, 1), (1, 1, 1, 1, 1, 6)])
def test_shapes(route, shape):
    f, x = plus_one(route, 6, shape).call, np.arange(6.0).reshape(shape)
    assert f(x).shape == shape and np.array_equal(f(x), x + 1)
    assert f(x.T.copy())[0] == SLOW if shape != x.T.shape else True


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_zero_size(route, shape):
    f = entry_of(route, programs.add_one(0), Signature((Array(F8, shape, 0),), Fresh(F8, shape, 1), 2)).call
    assert f(np.zeros(shape)).shape == shape and f(np.zeros(6))[0] == SLOW


@pytest.mark.parametrize("dtype", [F8, F4, I8, I4, U1, B1, np.dtype("q"), np.dtype("l")], ids=str)
def test_dtypes(route, dtype):
    signature = Signature((Array(dtype, (5,), 0),), Fresh(dtype, (5,), 1), 2)
    f = entry_of(route, programs.copy_bytes([5 * dtype.itemsize]), signature).call
    x = np.arange(5).astype(dtype)
    assert f(x).dtype == dtype and np.array_equal(f(x), x)
    for other in (F8, F4, I8, I4, U1, B1, np.dtype("u8"), np.dtype("u4"), np.dtype("i1")):
        if other != dtype:
            assert f(x.astype(other))[0] == SLOW
    for code in "lq":       # long and long long are one dtype under two numbers
        if np.dtype(code) == dtype:
            assert np.array_equal(f(x.astype(code)), x)


@pytest.mark.parametrize("dtype", [F8, F4, I8, I4, U1, B1], ids=str)
def test_without_axes(route, dtype):
    """A 0-d array and a NumPy scalar are the same argument; a result without axes is a NumPy scalar."""
    signature = Signature((Array(dtype, (), 0),), Fresh(dtype, (), 1), 2)
    f = entry_of(route, programs.copy_bytes([dtype.itemsize]), signature).call
    for x in (np.array(1, dtype), dtype.type(1)):
        y = f(x)
        assert type(y) is dtype.type and y == 1
    assert f(1)[0] == SLOW and f(1.0)[0] == SLOW and f(np.ones(1, dtype))[0] == SLOW
    assert f(np.float16(1))[0] == SLOW and f(np.array(1, dtype).view(Sub))[0] == SLOW


@pytest.mark.parametrize("kind, dtype, value, expected", [
    (float, F8, 0.1, 0.1), (float, F4, 0.1, np.float32(0.1)), (float, F8, float("-inf"), -np.inf), (int, I8, -(2**63), -(2**63)),
    (int, I8, 2**63 - 1, 2**63 - 1), (int, I4, -(2**31), -(2**31)), (int, U1, 255, 255), (int, F8, 2**53 + 1, 2.0**53),
    (int, F4, 3, 3), (bool, B1, True, True), (bool, B1, False, False), (float, F4, 1e300, np.inf),
])
def test_python_scalars(route, kind, dtype, value, expected):
    signature = Signature((Scalar(kind, dtype, 0),), Fresh(dtype, (), 1), 2)
    f = entry_of(route, programs.copy_bytes([dtype.itemsize]), signature).call
    y = f(value)
    assert type(y) is dtype.type and y == expected
    for other in (1.0, 1, True, np.float64(1), np.int64(1), np.array(1.0), "1", None):
        assert type(other) is kind or f(other)[0] == SLOW


@pytest.mark.parametrize("dtype, value", [(I8, 2**63), (I8, -(2**63) - 1), (I4, 2**31), (U1, 256), (U1, -1), (F8, 10**400)])
def test_integers_that_do_not_fit_go_the_slow_path(route, dtype, value):
    signature = Signature((Scalar(int, dtype, 0),), Fresh(dtype, (), 1), 2)
    f = entry_of(route, programs.copy_bytes([dtype.itemsize]), signature).call
    assert f(value)[1] == (value,)


def test_trees_of_results(route):
    """Tuples, lists, dicts and constants in any nesting; the same result twice; insertion order of keys."""
    a, b, c = Fresh(F8, (2,), 3), Fresh(F4, (3, 1), 4), Fresh(I8, (), 5)
    tree = ({"b": b, "a": [a, (), None], 3: ((c,),)}, Given(0), "word", {}, [])
    signature = Signature((Array(F8, (2,), 0), Array(F4, (3, 1), 1), Array(I8, (), 2)), tree, 6)
    f = entry_of(route, programs.copy_bytes([16, 12, 8]), signature).call
    x, y, z = np.array([1.0, 2.0]), np.array([[3], [4], [5]], F4), np.int64(7)
    result = f(x, y, z)
    assert type(result) is tuple and type(result[0]) is dict and list(result[0]) == ["b", "a", 3]
    assert np.array_equal(result[0]["b"], y) and np.array_equal(result[0]["a"][0], x) and result[0]["a"][1:] == [(), None]
    assert result[0][3] == ((7,),) and result[1] is x and result[2:] == ("word", {}, [])


def test_rebuild_gets_the_tuple(route):
    signature = Signature((Array(F8, (6,), 0),), (Fresh(F8, (6,), 1),), 2)
    seen = []
    f = entry_of(route, programs.add_one(6), signature, rebuild=lambda flat: seen.append(flat) or "built").call
    assert f(np.zeros(6)) == "built" and np.array_equal(seen[0][0], np.ones(6))


def test_exceptions_pass_through(route):
    def raises(*_):
        raise KeyError("mine")

    x = np.zeros(6)
    assert plus_one(route).call is not None
    entry = Entry(raises, native=route)
    with pytest.raises(KeyError, match="mine"):
        entry.call(x)
    entry.add(specialize(programs.add_one(6), Signature((Array(F8, (6,), 0),), (Fresh(F8, (6,), 1),), 2), rebuild=raises))
    with pytest.raises(KeyError, match="mine"):
        entry.call(x)
    assert not entry.specializations[0].busy


def test_status_raises_through_on_error(route):
    f = entry_of(route, programs.check_first(6), Signature((Array(F8, (6,), 0),), Fresh(F8, (6,), 1), 2)).call
    assert np.array_equal(f(np.ones(6)), np.full(6, 2.0))
    for _ in range(3):
        with pytest.raises(Failed) as caught:
            f(-np.ones(6))
        assert caught.value.args == (3,)
    assert np.array_equal(f(np.ones(6)), np.full(6, 2.0))


def test_chain_of_specializations(route):
    entry = Entry(slow, native=route)
    for size in (3, 4, 5):
        entry.add(specialize(programs.add_one(size), Signature((Array(F8, (size,), 0),), Fresh(F8, (size,), 1), 2)))
    for size in (3, 4, 5):
        assert np.array_equal(entry.call(np.zeros(size)), np.ones(size))
    assert entry.call(np.zeros(6))[0] == SLOW and [s.calls for s in entry.specializations] == [1, 1, 1]
    entry.remove(entry.specializations[1])
    assert entry.call(np.zeros(4))[0] == SLOW
    assert np.array_equal(entry.call(np.zeros(3)), np.ones(3)) and np.array_equal(entry.call(np.zeros(5)), np.ones(5))


def test_chain_changes_while_other_threads_call(route):
    """Specializations come and go under four calling threads; every answer is right, whoever gives it."""
    shapes = [specialize(programs.add_one(k), Signature((Array(F8, (k,), 0),), Fresh(F8, (k,), 1), 2)) for k in range(1, 7)]
    entry, wrong, stop = Entry(lambda x: x + 1, native=route), [], []

    def work(seed):
        random = np.random.default_rng(seed)
        while not stop:
            x = np.zeros(random.integers(1, 8))
            if not np.array_equal(entry.call(x), x + 1):
                wrong.append(x.shape)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for k in range(300):
        entry.add(shapes[k % 6])
        if k % 3:
            entry.remove(entry.specializations[0])
    stop.append(1)
    for worker in workers:
        worker.join(30)
    assert not wrong and not any(worker.is_alive() for worker in workers)


def test_slow_path_may_add_the_specialization_it_lacks(route):
    def grow(x):
        size = len(x)
        entry.add(specialize(programs.add_one(size), Signature((Array(F8, (size,), 0),), Fresh(F8, (size,), 1), 2)))
        return entry.call(x)

    entry = Entry(grow, native=route)
    for size in (3, 4, 3, 4):
        assert np.array_equal(entry.call(np.zeros(size)), np.ones(size))
    assert len(entry.specializations) == 2


def test_hidden_arrays_are_read_at_each_call(route):
    captured = np.arange(6.0)
    f = entry_of(route, programs.add_one(6), Signature((), Fresh(F8, (6,), 1), 2), hidden={0: captured}).call
    assert np.array_equal(f(), captured + 1)
    captured[:] = 7
    assert np.array_equal(f(), np.full(6, 8.0))
    before = captured.ctypes.data
    del captured
    gc.collect()
    assert before and np.array_equal(f(), np.full(6, 8.0))

def test_handles_are_known_by_identity_and_returned(route):
    entry, model, state = step_entry(route)
    x = np.arange(6.0)
    for k in (1, 2, 3):
        result = entry.call(model, state, x, 0.5)
        assert result[0] is model and result[1] is state
        assert np.array_equal(model.leaf, 0.5 * k * x) and type(result[2]) is np.float64 and result[2] == 2.5 * k
    for args in ((Tree(model.leaf), state, x, 0.5), (state, model, x, 0.5), (model, state, x, 1), (model, None, x, 0.5)):
        assert entry.call(*args)[0] == SLOW
    assert np.array_equal(model.leaf, 1.5 * x)


def test_argument_inside_donated_memory_goes_the_slow_path(route):
    entry, model, state = step_entry(route)
    assert entry.call(model, state, model.leaf, 0.5)[0] == SLOW and not model.leaf.any()


def test_overlapping_donated_arrays_go_the_slow_path(route):
    f = entry_of(route, programs.axpy_step(6), Signature(
        (Array(F8, (6,), 0, donated=True), Array(F8, (6,), 1), Scalar(float, F8, 2)), Given(0), 4, ((3, 0),), 64),
        exclusive=True).call
    memory = np.ones(12)
    assert f(memory[:6], memory[6:], 1.0) is not None and memory.sum() == 18
    for start in (0, 1, 5):
        assert f(memory[:6], memory[start:start + 6], 1.0)[0] == SLOW
    assert memory.sum() == 18


def test_held_objects_change_with_hold(route):
    entry, model, state = step_entry(route)
    other = Tree(np.ones(6))
    entry.specializations[0].hold(0, other, {0: other.leaf})
    x = np.ones(6)
    assert entry.call(model, state, x, 1.0)[0] == SLOW
    assert entry.call(other, state, x, 1.0)[0] is other and np.array_equal(other.leaf, np.full(6, 2.0))

def test_unresolved_symbol_and_foreign_bytes_are_errors():
    missing = "define i64 @program(ptr %b, i64 %t, i64 %n, ptr %c) {\n %r = call i64 @nobody_has_this()\n ret i64 %r\n}\n"
    image = programs.object_code("declare i64 @nobody_has_this()\n" + missing)
    for objects in ([image], [b""], [b"\x7fEL"], [b"not object code"]):
        with pytest.raises(CompileError):
            load(objects, ["program"], runtime().symbols)


def test_many_results_and_arguments(route):
    """Forty arguments and results: nothing about the frame depends on small numbers."""
    count = 40
    signature = Signature(tuple(Array(F8, (k,), k) for k in range(count)),
                          [Fresh(F8, (k,), k + count) for k in range(count)], 2 * count)
    f = entry_of(route, programs.copy_bytes([8 * k for k in range(count)]), signature).call
    xs = [np.arange(float(k)) for k in range(count)]
    assert all(np.array_equal(a, b) for a, b in zip(f(*xs), xs, strict=True))
    assert f(*xs[::-1])[0] == SLOW


def test_runtime_is_written_for_other_processors_too():
    """The same routines become object code for AArch64; only clock, pause and floating-point mode differ."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = "aarch64-unknown-linux-gnu"
    module = llvm.parse_assembly(str(emit_module(triple, capi.layout())))
    module.verify()
    machine = llvm.Target.from_triple(triple).create_target_machine(reloc="pic", codemodel="small")
    text = machine.emit_assembly(module)
    assert "fpcr" in text.lower() and "cntvct" in text.lower() and "yield" in text


def test_specialization_may_serve_two_entries(route):
    """A program's own entry and its user's chain share it; neither sees the other's neighbours."""
    first = plus_one(route, 3)
    second = plus_one(route, 4)
    shared = specialize(programs.add_one(5), Signature((Array(F8, (5,), 0),), Fresh(F8, (5,), 1), 2))
    first.add(shared)
    second.add(shared)
    assert first.call(np.zeros(5))[0] == second.call(np.zeros(5))[0] == 1
    assert first.call(np.zeros(4))[0] == SLOW == second.call(np.zeros(3))[0]


def test_no_memory_for_a_result_is_an_exception(route):
    f = entry_of(route, programs.add_one(0), Signature((), (Fresh(F8, (3,), 0), Fresh(F8, (2**40, 2**15), 1)), 2)).call
    for _ in range(3):
        with pytest.raises((MemoryError, ValueError)):
            f()

