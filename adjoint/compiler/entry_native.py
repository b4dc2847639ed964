"""The entry as native code: a METH_FASTCALL|METH_KEYWORDS function that reads a signature as data.

One function serves every compiled function (its `self` leads to the records), so a new signature costs no compilation.
Invariant: until all arguments match, nothing is allocated from Python and no Python code runs; a miss goes to the next
specialization, then to the slow path with the original arguments. May import: control, assembler. Read next: entry.py.
"""

from __future__ import annotations

from llvmlite import ir

from . import control as at
from .assembler import F32, F64, I1, I8, I32, I64, NULL, ONE, PTR, VOID, Routine
from .capi import Layout


def emit_entry(module: ir.Module, layout: Layout) -> None:
    """ptr adjoint_entry(self, args, nargs, kwnames), and the internal routines that it is made of."""
    _emit_match_array(module, layout)
    _emit_match_scalar(module, layout)
    _emit_overlap(module)
    _emit_match(module, layout)
    _emit_borrow(module)
    _emit_allocate(module, layout)
    _emit_drop(module)
    _emit_container(module)
    _emit_build(module)
    _emit_finish(module)
    _emit_try(module)
    c = Routine(module, "adjoint_entry", PTR, PTR, PTR, I64, PTR)
    me, args, nargs, names = c.args
    head = c.get(me, layout.data, PTR)
    place = c.variable(PTR)
    c.body.store(c.get(head, at.CHAIN, PTR), place)
    with c.forever() as leave_if:
        special = c.get(c.body.load(place, typ=PTR), 0, PTR)
        leave_if(c.body.or_(c.test("==", special), c.test("!=", names)))
        with c.when(c.test("==", c.get(special, at.ARGUMENTS), nargs), likely=True):
            result = c.call("adjoint_try", PTR, special, args)
            with c.when(c.test("!=", result, c.external("adjoint_state")), likely=True):
                c.give(result)
        c.body.store(c.at(c.body.load(place, typ=PTR), 8), place)
    c.give(c.call("PyObject_Vectorcall", PTR, c.get(head, at.SLOW, PTR), args, nargs, names))


def _emit_match_array(module: ir.Module, layout: Layout) -> None:
    """i1 adjoint_match_array(record, object, frame):

    An exact, native, aligned, contiguous array of the dtype and shape?
    """
    c = Routine(module, "adjoint_match_array", I1, PTR, PTR, PTR, internal=True)
    record, value, frame = c.args
    kind = c.get(value, layout.type, PTR)
    with c.when(c.test("!=", kind, c.external("PyArray_Type")), likely=False):
        with c.when(c.test("!=", kind, c.get(record, at.SCALAR_TYPE, PTR))):
            c.give(0)
        storage = c.at(frame, c.get(record, at.STORAGE))
        c.call("PyArray_ScalarAsCtype", VOID, value, storage)
        c.put(frame, c.get(record, at.SLOT), storage)
        c.give(1)
    descr = c.get(value, layout.descr, PTR)
    number = c.body.sext(c.get(descr, layout.type_num, I32), I64)
    with c.when(c.test("!=", number, c.get(record, at.TYPE_NUM)), likely=False):
        with c.when(c.test("!=", number, c.get(record, at.OTHER_NUM))):
            c.give(0)
    order = c.body.zext(c.get(descr, layout.byte_order, I8), I64)
    flags, wanted = c.body.zext(c.get(value, layout.flags, I32), I64), c.get(record, at.FLAGS)
    ndim = c.get(record, at.NDIM)
    same = c.body.and_(c.test("==", order, c.get(record, at.ORDER)), c.test("==", c.body.and_(flags, wanted), wanted))
    same = c.body.and_(same, c.test("==", c.body.sext(c.get(value, layout.ndim, I32), I64), ndim))
    with c.when(c.body.not_(same), likely=False):
        c.give(0)
    extents, expected = c.get(value, layout.shape, PTR), c.get(record, at.SHAPE, PTR)
    with c.count(0, ndim) as axis:
        place = c.body.shl(axis, ir.Constant(I64, 3))
        with c.when(c.test("!=", c.get(extents, place), c.get(expected, place)), likely=False):
            c.give(0)
    c.put(frame, c.get(record, at.SLOT), c.get(value, layout.data, PTR))
    c.give(1)


def _emit_match_scalar(module: ir.Module, layout: Layout) -> None:
    """i1 adjoint_match_scalar(record, object, frame):

    A Python float, int or bool, stored in the dtype of its buffer.
    """
    c = Routine(module, "adjoint_match_scalar", I1, PTR, PTR, PTR, internal=True)
    record, value, frame = c.args
    kind, code, storage = c.get(record, at.KIND), c.get(record, at.CODE), c.at(frame, c.get(record, at.STORAGE))
    of_type = c.get(value, layout.type, PTR)
    with c.when(c.test("==", kind, at.BOOL)):
        true = c.test("==", value, c.external("_Py_TrueStruct"))
        c.body.store(c.body.zext(true, I8), storage)
        c.give(c.body.or_(true, c.test("==", value, c.external("_Py_FalseStruct"))))
    number = c.variable(F64)
    with c.when(c.test("==", kind, at.FLOAT)):
        with c.when(c.test("!=", of_type, c.external("PyFloat_Type")), likely=False):
            c.give(0)
        c.body.store(c.call("PyFloat_AsDouble", F64, value), number)
    with c.when(c.test("==", kind, at.INT)):
        with c.when(c.test("!=", of_type, c.external("PyLong_Type")), likely=False):
            c.give(0)
        overflow = c.variable(I32)
        integer = c.call("PyLong_AsLongLongAndOverflow", I64, value, overflow)
        with c.when(c.test("!=", c.body.load(overflow, typ=I32)), likely=False):
            c.give(0)
        _store_integer(c, code, integer, storage)
        c.body.store(c.body.sitofp(integer, F64), number)
    real = c.body.load(number, typ=F64)
    with c.when(c.test("==", code, at.FLOAT64)):
        c.body.store(real, storage)
    with c.when(c.test("==", code, at.FLOAT32)):
        c.body.store(c.body.fptrunc(real, F32), storage)
    c.give(1)


def _store_integer(c: Routine, code: ir.Value, integer: ir.Value, storage: ir.Value) -> None:
    """Store the integer where its dtype is one; a value that does not fit is a miss, never wrapped."""
    for name, kind, low, high in ((at.INT32, I32, -(2**31), 2**31 - 1), (at.UINT8, I8, 0, 255)):
        with c.when(c.test("==", code, name)):
            with c.when(c.body.or_(c.test("<", integer, low), c.test(">", integer, high)), likely=False):
                c.give(0)
            c.body.store(c.body.trunc(integer, kind), storage)
    with c.when(c.test("==", code, at.INT64)):
        c.body.store(integer, storage)


def _emit_overlap(module: ir.Module) -> None:
    """i1 adjoint_overlap(special, index, frame): does array `index` share memory with donated data?"""
    c = Routine(module, "adjoint_overlap", I1, PTR, I64, PTR, internal=True)
    special, index, frame = c.args
    records = c.get(special, at.ARGUMENT_RECORDS, PTR)

    def span(position: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        record = c.at(records, c.body.mul(position, ir.Constant(I64, at.RECORD)))
        start = c.get(frame, c.get(record, at.SLOT))
        return record, start, c.body.add(start, c.get(record, at.BYTES))

    record, start, stop = span(index)
    cells = c.get(special, at.CELLS, PTR)
    with c.count(0, c.get(special, at.SLOTS)) as slot:
        cell = c.at(cells, c.body.mul(slot, ir.Constant(I64, at.CELL_BYTES)))
        inside = c.body.and_(c.body.icmp_unsigned("<", start, c.get(cell, at.CELL_END)),
                             c.body.icmp_unsigned(">", stop, c.get(cell, at.CELL_BEGIN)))
        with c.when(inside, likely=False):
            c.give(1)
    with c.count(0, index) as earlier:
        other, begin, end = span(earlier)
        crossing = c.body.and_(c.body.icmp_unsigned("<", start, end), c.body.icmp_unsigned(">", stop, begin))
        donated = c.test("!=", c.body.or_(c.get(record, at.DONATED), c.get(other, at.DONATED)))
        arrays = c.test("==", c.get(other, at.KIND), at.ARRAY)
        with c.when(c.body.and_(c.body.and_(crossing, donated), arrays), likely=False):
            c.give(1)
    c.give(0)


def _emit_match(module: ir.Module, layout: Layout) -> None:
    """i1 adjoint_match(special, args, frame): do all arguments fit? Fills the frame's table."""
    c = Routine(module, "adjoint_match", I1, PTR, PTR, PTR, internal=True)
    special, args, frame = c.args
    records, exclusive = c.get(special, at.ARGUMENT_RECORDS, PTR), c.get(special, at.EXCLUSIVE)
    with c.count(0, c.get(special, at.ARGUMENTS)) as index:
        record = c.at(records, c.body.mul(index, ir.Constant(I64, at.RECORD)))
        value, kind = c.get(args, c.body.shl(index, ir.Constant(I64, 3)), PTR), c.get(record, at.KIND)
        fits = c.variable(I1)
        c.body.store(ir.Constant(I1, 1), fits)
        with c.body.if_else(c.test("==", kind, at.ARRAY), likely=True) as (array, other):
            with array:
                c.body.store(c.call("adjoint_match_array", I1, record, value, frame), fits)
                wary = c.body.and_(c.test("!=", exclusive), c.body.load(fits, typ=I1))
                with c.when(wary):
                    c.body.store(c.body.not_(c.call("adjoint_overlap", I1, special, index, frame)), fits)
            with other, c.body.if_else(c.test("==", kind, at.HANDLE)) as (handle, scalar):
                with handle:
                    expected = c.get(c.get(record, at.CELL, PTR), 0, PTR)
                    c.body.store(c.test("==", value, expected), fits)
                with scalar:
                    c.body.store(c.call("adjoint_match_scalar", I1, record, value, frame), fits)
        with c.when(c.body.not_(c.body.load(fits, typ=I1)), likely=False):
            c.give(0)
    c.give(1)


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
    with c.count(0, c.body.lshr(c.get(special, at.FRAME_HEAD), ir.Constant(I64, 3))) as index:
        place = c.body.shl(index, ir.Constant(I64, 3))
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
    stack, records = c.at(frame, c.get(special, at.FRAME_HEAD)), c.get(special, at.BUILD_RECORDS, PTR)
    depth = c.variable(I64, 0)      # bytes; the stack grows downwards from the end of the frame's head
    with c.count(0, c.get(special, at.BUILD)) as index:
        record = c.at(records, c.body.mul(index, ir.Constant(I64, at.BUILD_RECORD)))
        kind, which = c.get(record, at.KIND), c.get(record, at.WHICH)
        item = c.variable(PTR)
        c.body.store(NULL, item)
        leaf = c.test("<=", kind, at.GIVEN)
        with c.when(leaf, likely=True):
            for name, source in ((at.TAKE, frame), (at.GIVEN, args)):
                with c.when(c.test("==", kind, name)):
                    c.body.store(c.get(source, which, PTR), item)
            with c.when(c.test("==", kind, at.HELD)):
                c.body.store(c.get(c.get(record, at.WHICH, PTR), 0, PTR), item)
            found = c.body.load(item, typ=PTR)
            with c.when(c.test("!=", found), likely=True):
                c.call("Py_IncRef", VOID, found)
        with c.when(c.body.not_(leaf)):
            base = c.body.sub(c.body.load(depth, typ=I64), c.body.shl(which, ir.Constant(I64, 3)))
            container = c.call("adjoint_container", PTR, record, stack, base)
            c.body.store(container, item)
            with c.when(c.test("!=", container), likely=True):
                c.body.store(base, depth)
        made = c.body.load(item, typ=PTR)
        with c.when(c.test("==", made), likely=False):
            c.call("adjoint_drop", VOID, stack, c.body.load(depth, typ=I64))
            c.give(NULL)
        here = c.body.load(depth, typ=I64)
        c.put(stack, c.body.sub(ir.Constant(I64, -8), here), made)
        c.body.store(c.body.add(here, ir.Constant(I64, 8)), depth)
    c.give(c.get(stack, -8, PTR))


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
    """void adjoint_drop(stack, depth): give up what a failed build has on its stack."""
    c = Routine(module, "adjoint_drop", VOID, PTR, I64, internal=True)
    stack, depth = c.args
    with c.count(0, c.body.lshr(depth, ir.Constant(I64, 3))) as index:
        c.call("Py_DecRef", VOID, _item(c, stack, ir.Constant(I64, 0), index))
    c.give()


def _item(c: Routine, stack: ir.Value, base: ir.Value, index: ir.Value) -> ir.Value:
    """The object `index` places above `base` (bytes) on a stack that grows downwards."""
    down = c.body.add(base, c.body.shl(c.body.add(index, ONE), ir.Constant(I64, 3)))
    return c.get(stack, c.body.neg(down), PTR)


def _emit_container(module: ir.Module) -> None:
    """ptr adjoint_container(record, stack, base):

    A tuple, list or dict that takes the objects above `base`; or null.
    """
    c = Routine(module, "adjoint_container", PTR, PTR, PTR, I64, internal=True)
    record, stack, base = c.args
    kind, size = c.get(record, at.KIND), c.get(record, at.WHICH)
    for name, make, fill in ((at.TUPLE, "PyTuple_New", "PyTuple_SetItem"), (at.LIST, "PyList_New", "PyList_SetItem")):
        with c.when(c.test("==", kind, name)):
            made = c.call(make, PTR, size)
            with c.when(c.test("==", made), likely=False):
                c.give(NULL)
            with c.count(0, size) as index:
                c.call(fill, I32, made, index, _item(c, stack, base, index))
            c.give(made)
    made, keys = c.call("PyDict_New", PTR), c.get(record, at.KEYS, PTR)
    with c.when(c.test("==", made), likely=False):
        c.give(NULL)
    with c.count(0, size) as index:
        key = c.get(keys, c.body.shl(index, ir.Constant(I64, 3)), PTR)
        failed = c.call("PyDict_SetItem", I32, made, key, _item(c, stack, base, index))
        with c.when(c.test("!=", failed), likely=False):
            c.call("Py_DecRef", VOID, made)
            c.give(NULL)
    with c.count(0, size) as index:
        c.call("Py_DecRef", VOID, _item(c, stack, base, index))
    c.give(made)


def _emit_finish(module: ir.Module) -> None:
    """void adjoint_finish(special, frame): give up the frame and its references to results."""
    c = Routine(module, "adjoint_finish", VOID, PTR, PTR, internal=True)
    special, frame = c.args
    records = c.get(special, at.FRESH_RECORDS, PTR)
    with c.count(0, c.get(special, at.FRESH)) as index:
        record = c.at(records, c.body.mul(index, ir.Constant(I64, at.RECORD)))
        place = c.get(record, at.OBJECT)
        held = c.get(frame, place, PTR)
        with c.when(c.test("!=", held), likely=True):
            c.put(frame, place, NULL)
            c.call("Py_DecRef", VOID, held)
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
    with c.when(c.body.not_(c.call("adjoint_match", I1, special, args, frame)), likely=False):
        with c.when(taken, likely=False):
            c.call("PyMem_RawFree", VOID, c.get(frame, -8, PTR))
        c.give(c.external("adjoint_state"))
    keep = c.get(special, at.KEEP, PTR)
    c.call("Py_IncRef", VOID, keep)
    c.put(special, at.TAKEN, generation)
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
