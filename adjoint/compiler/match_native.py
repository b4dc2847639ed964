"""Do the arguments of a call fit a signature? The records say what to look for; the table of buffers is filled on the way.

Parts of trees are read into the frame with a reference each, so that another thread may change a list or dict while the
program runs. Invariant: a value that does not fit exactly is a miss, never an error and never converted.
May import: control, assembler, capi. Read next: entry_native.py.
"""

from __future__ import annotations

from llvmlite import ir

from . import control as at
from .assembler import F32, F64, I1, I8, I32, I64, PTR, VOID, Routine
from .capi import Layout


def emit_match(module: ir.Module, layout: Layout) -> None:
    """The internal routine i1 adjoint_match(special, args, frame) and those that it calls."""
    _emit_match_array(module, layout)
    _emit_match_scalar(module, layout)
    _emit_match_static(module, layout)
    _emit_open(module, layout)
    _emit_overlap(module)
    _emit_match_all(module)


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


def _emit_match_static(module: ir.Module, layout: Layout) -> None:
    """i1 adjoint_match_static(record, object): the expected object itself, or an int, float or str equal to it."""
    c = Routine(module, "adjoint_match_static", I1, PTR, PTR, internal=True)
    record, value = c.args
    kind, expected, of_type = c.get(record, at.KIND), c.get(record, at.EXPECTED), c.get(value, layout.type, PTR)
    with c.when(c.test("==", value, c.get(record, at.SAME_OBJECT, PTR)), likely=True):
        c.give(1)
    with c.when(c.test("!=", of_type, c.get(record, at.NODE_TYPE, PTR)), likely=False):
        c.give(0)
    with c.when(c.test("==", kind, at.SAME_INT)):
        overflow = c.variable(I32)
        number = c.call("PyLong_AsLongLongAndOverflow", I64, value, overflow)
        fits = c.test("==", c.body.load(overflow, typ=I32))
        c.give(c.body.and_(fits, c.test("==", number, expected)))
    with c.when(c.test("==", kind, at.SAME_FLOAT)):
        c.give(c.test("==", c.body.bitcast(c.call("PyFloat_AsDouble", F64, value), I64), expected))
    with c.when(c.test("==", kind, at.SAME_STR)):
        c.give(c.test("==", c.call("PyUnicode_Compare", I32, value, c.get(record, at.SAME_OBJECT, PTR))))
    c.give(0)


def _emit_open(module: ir.Module, layout: Layout) -> None:
    """i1 adjoint_open(record, node, frame): a node of the expected type and size? Puts references to its parts in the frame."""
    c = Routine(module, "adjoint_open", I1, PTR, PTR, PTR, internal=True)
    record, node, frame = c.args
    kind, size, keys = c.get(record, at.KIND), c.get(record, at.SIZE), c.get(record, at.KEYS, PTR)
    parts = c.at(frame, c.get(record, at.PLACE))
    with c.when(c.test("!=", c.get(node, layout.type, PTR), c.get(record, at.NODE_TYPE, PTR)), likely=False):
        c.give(0)
    ways = ((at.TUPLE_NODE, "PyTuple_Size", "PyTuple_GetItem"), (at.LIST_NODE, "PyList_Size", "PyList_GetItem"),
            (at.DICT_NODE, "PyDict_Size", "PyDict_GetItemWithError"), (at.RECORD_NODE, "", "PyObject_GetAttr"))
    for name, measure, pick in ways:
        with c.when(c.test("==", kind, name)):
            if measure:
                with c.when(c.test("!=", c.call(measure, I64, node), size), likely=False):
                    c.give(0)
            with c.count(0, size) as index:
                place = c.body.shl(index, ir.Constant(I64, 3))
                by_key = name in (at.DICT_NODE, at.RECORD_NODE)
                part = c.call(pick, PTR, node, c.get(keys, place, PTR) if by_key else index)
                with c.when(c.test("==", part), likely=False):
                    c.call("PyErr_Clear", VOID)
                    c.give(0)
                if name != at.RECORD_NODE:      # an attribute comes with a reference, the others are borrowed
                    c.call("Py_IncRef", VOID, part)
                c.put(parts, place, part)
            c.give(1)
    c.give(0)


def _emit_match_all(module: ir.Module) -> None:
    """i1 adjoint_match(special, args, frame): do all arguments fit? Fills the frame's table."""
    c = Routine(module, "adjoint_match", I1, PTR, PTR, PTR, internal=True)
    special, args, frame = c.args
    records, exclusive = c.get(special, at.ARGUMENT_RECORDS, PTR), c.get(special, at.EXCLUSIVE)
    fits = c.variable(I1)
    with c.count(0, c.get(special, at.ARGUMENTS)) as index:
        record = c.at(records, c.body.mul(index, ir.Constant(I64, at.RECORD)))
        source = c.body.select(c.test("!=", c.get(record, at.NESTED)), frame, args)
        value, kind = c.get(source, c.get(record, at.SOURCE), PTR), c.get(record, at.KIND)
        with c.body.if_else(c.test("==", kind, at.ARRAY), likely=True) as (array, other):
            with array:
                c.body.store(c.call("adjoint_match_array", I1, record, value, frame), fits)
                with c.when(c.body.and_(c.test("!=", exclusive), c.body.load(fits, typ=I1))):
                    c.body.store(c.body.not_(c.call("adjoint_overlap", I1, special, index, frame)), fits)
            with other:
                _match_other(c, record, value, frame, fits)
        with c.when(c.body.not_(c.body.load(fits, typ=I1)), likely=False):
            c.give(0)
    c.give(1)


def _match_other(c: Routine, record: ir.Value, value: ir.Value, frame: ir.Value, fits: ir.Value) -> None:
    """Anything but an array: a handle, a scalar, a node of a tree, a value that belongs to the program."""
    kind = c.get(record, at.KIND)
    with c.when(c.test("==", kind, at.HANDLE)):
        c.body.store(c.test("==", value, c.get(c.get(record, at.CELL, PTR), 0, PTR)), fits)
    with c.when(c.test("<", kind, at.HANDLE)):
        c.body.store(c.call("adjoint_match_scalar", I1, record, value, frame), fits)
    with c.when(c.body.and_(c.test(">", kind, at.HANDLE), c.test("<", kind, at.SAME))):
        c.body.store(c.call("adjoint_open", I1, record, value, frame), fits)
    with c.when(c.test(">=", kind, at.SAME)):
        c.body.store(c.call("adjoint_match_static", I1, record, value), fits)
