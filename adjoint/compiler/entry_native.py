"""The entry as native code: a METH_FASTCALL|METH_KEYWORDS function that reads a signature as data.

One function serves every compiled function (its `self` leads to the records), so a new signature costs no compilation.
Invariant: a miss goes to the next specialization, then to the slow path with the original arguments; whatever Python
code runs meanwhile may call the same function again. May import: control, assembler, match_native. Read next: entry.py.
"""

from __future__ import annotations

from llvmlite import ir

from . import control as at
from .assembler import I1, I32, I64, NULL, ONE, PTR, VOID, Routine
from .capi import Layout
from .match_native import emit_match


def emit_entry(module: ir.Module, layout: Layout) -> None:
    """ptr adjoint_entry(self, args, nargs, kwnames), and the internal routines that it is made of."""
    emit_match(module, layout)
    _emit_borrow(module)
    _emit_allocate(module, layout)
    _emit_drop(module)
    _emit_node(module)
    _emit_build(module)
    _emit_finish(module)
    _emit_try(module)
    c = Routine(module, "adjoint_entry", PTR, PTR, PTR, I64, PTR)
    me, args, nargs, names = c.args
    head = c.get(me, layout.data, PTR)
    step = c.variable(I64, 0)
    with c.forever() as leave_if:
        index = c.body.load(step, typ=I64)
        # Read anew each time: an attribute of a tree may be computed after all, and its code may change the chain.
        chain = c.get(head, at.CHAIN, PTR)
        leave_if(c.body.or_(c.test(">=", index, c.get(chain)), c.test("!=", names)))
        special = c.get(chain, c.body.shl(c.body.add(index, ONE), ir.Constant(I64, 3)), PTR)
        with c.when(c.test("==", c.get(special, at.POSITIONAL), nargs), likely=True):
            result = c.call("adjoint_try", PTR, special, args)
            with c.when(c.test("!=", result, c.external("adjoint_state")), likely=True):
                c.give(result)
        c.body.store(c.body.add(index, ONE), step)
    c.give(c.call("PyObject_Vectorcall", PTR, c.get(head, at.SLOW, PTR), args, nargs, names))


def _emit_borrow(module: ir.Module) -> None:
    """ptr adjoint_borrow(special):

    A second frame with an arena of its own, for a call while the first is running; or null.
    """
    c = Routine(module, "adjoint_borrow", PTR, PTR, internal=True)
    special, = c.args
    frame = c.call("PyMem_RawMalloc", PTR, c.body.add(c.get(special, at.FRAME_BYTES), ir.Constant(I64, 2 * at.LINE)))
    with c.when(c.test("==", frame), likely=False):
        c.give(NULL)
    # Aligned to a cache line; the address that malloc gave is kept in the word before.
    address = c.body.ptrtoint(frame, I64)
    skip = c.body.sub(ir.Constant(I64, at.LINE), c.body.and_(address, ir.Constant(I64, at.LINE - 1)))
    inside = c.at(frame, c.body.add(skip, ir.Constant(I64, at.LINE)))
    c.put(inside, -8, frame)
    primary = c.get(special, at.FRAME, PTR)
    end = c.get(special, at.TABLE_END)
    with c.count(0, c.body.lshr(c.get(special, at.FRAME_HEAD), ir.Constant(I64, 3))) as index:
        place = c.body.shl(index, ir.Constant(I64, 3))
        c.put(inside, place, 0)         # references to objects are the running call's, not this one's
        with c.when(c.test("<", place, end)):
            c.put(inside, place, c.get(primary, place))
    moved = c.get(special, at.MOVED_RECORDS, PTR)
    with c.count(0, c.get(special, at.MOVED)) as index:
        record = c.at(moved, c.body.shl(index, ir.Constant(I64, 4)))
        c.put(inside, c.get(record), c.at(inside, c.get(record, 8)))
    c.give(inside)


def _emit_allocate(module: ir.Module, layout: Layout) -> None:
    """i1 adjoint_allocate(special, frame): a new array for every fresh result; false when NumPy has raised."""
    c = Routine(module, "adjoint_allocate", I1, PTR, PTR, internal=True)
    special, frame = c.args
    records = c.get(special, at.FRESH_RECORDS, PTR)
    with c.count(0, c.get(special, at.FRESH)) as index:
        record = c.at(records, c.body.mul(index, ir.Constant(I64, at.RECORD)))
        with c.when(c.test("==", c.get(record, at.STORAGE)), likely=True):
            descr = c.get(record, at.DESCR, PTR)
            c.call("Py_IncRef", VOID, descr)        # NewFromDescr takes the reference
            ndim = c.body.trunc(c.get(record, at.NDIM), I32)
            shape, zero = c.get(record, at.SHAPE, PTR), ir.Constant(I32, 0)
            kind = c.external("PyArray_Type")
            array = c.call("PyArray_NewFromDescr", PTR, kind, descr, ndim, shape, NULL, NULL, zero, NULL)
            with c.when(c.test("==", array), likely=False):
                c.give(0)
            c.put(frame, c.get(record, at.OBJECT), array)
            c.put(frame, c.get(record, at.SLOT), c.get(array, layout.data, PTR))
    c.give(1)


def _emit_build(module: ir.Module) -> None:
    """ptr adjoint_build(special, args, frame): the result, made by the build records on a stack of objects; or null."""
    c = Routine(module, "adjoint_build", PTR, PTR, PTR, PTR, internal=True)
    special, args, frame = c.args
    _make_scalars(c, special, frame)
    stack, records = c.at(frame, c.get(special, at.STACK)), c.get(special, at.BUILD_RECORDS, PTR)
    depth, item = c.variable(I64, 0), c.variable(PTR)      # depth in bytes
    with c.count(0, c.get(special, at.BUILD)) as index:
        record = c.at(records, c.body.mul(index, ir.Constant(I64, at.BUILD_RECORD)))
        kind, which = c.get(record, at.KIND), c.get(record, at.WHICH)
        base = c.variable(I64, c.body.load(depth, typ=I64))
        c.body.store(NULL, item)
        with c.body.if_else(c.test("<=", kind, at.GIVEN), likely=True) as (leaf, node):
            with leaf:
                for name, source in ((at.TAKE, frame), (at.GIVEN, args)):
                    with c.when(c.test("==", kind, name)):
                        c.body.store(c.get(source, which, PTR), item)
                with c.when(c.test("==", kind, at.HELD)):
                    c.body.store(c.get(c.get(record, at.WHICH, PTR), 0, PTR), item)
                found = c.body.load(item, typ=PTR)
                with c.when(c.test("!=", found), likely=True):
                    c.call("Py_IncRef", VOID, found)
            with node:
                below = c.body.sub(c.body.load(depth, typ=I64), c.body.shl(which, ir.Constant(I64, 3)))
                c.body.store(c.call("adjoint_node", PTR, record, c.at(stack, below)), item)
                c.body.store(below, base)
        made = c.body.load(item, typ=PTR)
        with c.when(c.test("==", made), likely=False):
            c.call("adjoint_drop", VOID, stack, c.body.lshr(c.body.load(depth, typ=I64), ir.Constant(I64, 3)))
            c.give(NULL)
        here = c.body.load(base, typ=I64)
        c.put(stack, here, made)
        c.body.store(c.body.add(here, ir.Constant(I64, 8)), depth)
    c.give(c.get(stack, 0, PTR))


def _make_scalars(c: Routine, special: ir.Value, frame: ir.Value) -> None:
    """NumPy scalars for the results without axes, put where the arrays of the others are."""
    records = c.get(special, at.FRESH_RECORDS, PTR)
    with c.count(0, c.get(special, at.FRESH)) as index:
        record = c.at(records, c.body.mul(index, ir.Constant(I64, at.RECORD)))
        storage = c.get(record, at.STORAGE)
        with c.when(c.test("!=", storage)):
            scalar = c.call("PyArray_Scalar", PTR, c.at(frame, storage), c.get(record, at.DESCR, PTR), NULL)
            with c.when(c.test("==", scalar), likely=False):
                c.give(NULL)
            c.put(frame, c.get(record, at.OBJECT), scalar)


def _emit_drop(module: ir.Module) -> None:
    """void adjoint_drop(objects, count): give up references, where there are any, and forget them."""
    c = Routine(module, "adjoint_drop", VOID, PTR, I64, internal=True)
    objects, count = c.args
    with c.count(0, count) as index:
        place = c.body.shl(index, ir.Constant(I64, 3))
        held = c.get(objects, place, PTR)
        with c.when(c.test("!=", held), likely=True):
            c.put(objects, place, NULL)
            c.call("Py_DecRef", VOID, held)
    c.give()


def _emit_node(module: ir.Module) -> None:
    """ptr adjoint_node(record, items): a tuple, list, dict or record that takes the references of items; or null."""
    c = Routine(module, "adjoint_node", PTR, PTR, PTR, internal=True)
    record, items = c.args
    kind, size = c.get(record, at.KIND), c.get(record, at.WHICH)
    for name, make, fill in ((at.TUPLE, "PyTuple_New", "PyTuple_SetItem"), (at.LIST, "PyList_New", "PyList_SetItem")):
        with c.when(c.test("==", kind, name)):
            made = c.call(make, PTR, size)
            with c.when(c.test("==", made), likely=False):
                c.give(NULL)
            with c.count(0, size) as index:
                c.call(fill, I32, made, index, c.get(items, c.body.shl(index, ir.Constant(I64, 3)), PTR))
            c.give(made)
    made = c.variable(PTR)
    with c.when(c.test("==", kind, at.DICT)):
        c.body.store(c.call("PyDict_New", PTR), made)
        _fill(c, record, items, made, "PyDict_SetItem")
    with c.when(c.test("==", kind, at.INSTANCE)):
        c.body.store(c.call("PyObject_Vectorcall", PTR, c.get(record, at.MAKE, PTR), NULL, 0, NULL), made)
        _fill(c, record, items, made, "PyObject_GenericSetAttr")
    with c.when(c.test("==", kind, at.CALL)):
        c.body.store(c.call("PyObject_Vectorcall", PTR, c.get(record, at.MAKE, PTR), items, size, NULL), made)
    result = c.body.load(made, typ=PTR)
    with c.when(c.test("!=", result), likely=True):
        c.call("adjoint_drop", VOID, items, size)
    c.give(result)


def _fill(c: Routine, record: ir.Value, items: ir.Value, made: ir.Value, setter: str) -> None:
    """Give the node in the cell `made` its parts under their keys; the cell becomes null where that fails."""
    keys = c.get(record, at.BUILD_KEYS, PTR)
    with c.when(c.test("!=", c.body.load(made, typ=PTR)), likely=True), c.count(0, c.get(record, at.WHICH)) as index:
        place, node = c.body.shl(index, ir.Constant(I64, 3)), c.body.load(made, typ=PTR)
        with c.when(c.test("!=", node), likely=True):
            failed = c.call(setter, I32, node, c.get(keys, place, PTR), c.get(items, place, PTR))
            with c.when(c.test("!=", failed), likely=False):
                c.call("Py_DecRef", VOID, node)
                c.body.store(NULL, made)


def _emit_finish(module: ir.Module) -> None:
    """void adjoint_finish(special, frame): give up the frame and the references in it."""
    c = Routine(module, "adjoint_finish", VOID, PTR, PTR, internal=True)
    special, frame = c.args
    c.call("adjoint_drop", VOID, c.at(frame, c.get(special, at.PARTS)), c.get(special, at.PART_COUNT))
    with c.body.if_else(c.test("==", frame, c.get(special, at.FRAME, PTR)), likely=True) as (primary, borrowed):
        with primary:
            c.put(special, at.TAKEN, 0)
        with borrowed:
            c.call("PyMem_RawFree", VOID, c.get(frame, -8, PTR))
    c.give()


def _call_python(c: Routine, function: ir.Value, value: ir.Value) -> ir.Value:
    """function(value), taking the reference to value; null stays null."""
    cell = c.variable(PTR)
    c.body.store(value, cell)
    result = c.variable(PTR, NULL)
    with c.when(c.test("!=", value), likely=True):
        c.body.store(c.call("PyObject_Vectorcall", PTR, function, cell, 1, NULL), result)
        c.call("Py_DecRef", VOID, value)
    return c.body.load(result, typ=PTR)


def _emit_try(module: ir.Module) -> None:
    """ptr adjoint_try(special, args):

    The result, null with an exception set, or the address of adjoint_state for a miss.
    """
    c = Routine(module, "adjoint_try", PTR, PTR, PTR, internal=True)
    special, args = c.args
    generation = c.get(c.external("adjoint_state"), at.GENERATION)
    taken, chosen = c.test("==", c.get(special, at.TAKEN), generation), c.variable(PTR, c.get(special, at.FRAME, PTR))
    with c.when(taken, likely=False):
        c.body.store(c.call("adjoint_borrow", PTR, special), chosen)
        with c.when(c.test("==", c.body.load(chosen, typ=PTR)), likely=False):
            c.give(c.call("PyErr_NoMemory", PTR))
    frame = c.body.load(chosen, typ=PTR)
    keep = c.get(special, at.KEEP, PTR)
    c.call("Py_IncRef", VOID, keep)
    c.put(special, at.TAKEN, generation)
    with c.when(c.body.not_(c.call("adjoint_match", I1, special, args, frame)), likely=False):
        c.call("adjoint_finish", VOID, special, frame)
        c.call("Py_DecRef", VOID, keep)
        c.give(c.external("adjoint_state"))
    c.put(special, at.CALLS, c.body.add(c.get(special, at.CALLS), ONE))
    status, result = c.variable(I64, at.BUSY), c.variable(PTR, NULL)
    again = c.body.and_(taken, c.test("!=", c.get(special, at.EXCLUSIVE)))
    with c.when(c.body.not_(again), likely=True):
        c.body.store(ir.Constant(I64, at.CANCELLED), status)
        with c.when(c.call("adjoint_allocate", I1, special, frame), likely=True):
            buffers = c.at(frame, at.CONTROL_BYTES)
            program, threads = c.get(special, at.PROGRAM, PTR), c.get(special, at.THREADS)
            release = c.get(special, at.RELEASE)
            c.body.store(c.call("adjoint_run", I64, program, buffers, frame, threads, release), status)
    with c.when(c.test("==", c.body.load(status, typ=I64)), likely=True):
        c.body.store(c.call("adjoint_build", PTR, special, args, frame), result)
    c.call("adjoint_finish", VOID, special, frame)
    _conclude(c, special, status, result)
    c.call("Py_DecRef", VOID, keep)
    c.give(c.body.load(result, typ=PTR))


def word_of_failure(c: Routine) -> ir.Value:
    """The status of a call that ended by a Python exception."""
    return ir.Constant(I64, at.CANCELLED)


def _conclude(c: Routine, special: ir.Value, status: ir.Value, result: ir.Value) -> None:
    """After the frame is given back: rebuild the tree in Python, or raise the error of a failed check."""
    code = c.body.load(status, typ=I64)
    rebuild = c.get(special, at.REBUILD, PTR)
    with c.when(c.body.and_(c.test("==", code), c.test("!=", rebuild)), likely=False):
        c.body.store(_call_python(c, rebuild, c.body.load(result, typ=PTR)), result)
    with c.when(c.test("!=", code), likely=False):
        with c.when(c.test("==", c.call("PyErr_Occurred", PTR))):
            number = c.call("PyLong_FromLongLong", PTR, code)
            c.body.store(_call_python(c, c.get(special, at.ON_ERROR, PTR), number), result)
