"""Machine code equals the reference executor bit for bit: every operation, fold, address and loop, on two vector widths."""

import numpy as np
import pytest
from run_native import Native, check_program, same_bits

from adjoint.compiler import control as at
from adjoint.compiler import reference
from adjoint.compiler.emitter import LoopEmitter
from adjoint.compiler.llvm import emit_object, emit_text
from adjoint.compiler.loops import Buffer, Contraction, Index, Kernel, Operand, Program, Value, Var
from adjoint.compiler.loops_check import check
from adjoint.compiler.target import host_target
from adjoint.errors import CompileError

WIDE, NARROW = host_target(), host_target(32)
FLOATS = (np.float32, np.float64)
EXTENTS = (0, 1, 2, 15, 16, 17, 31, 33, 100)


def flat(var, offset=0):
    return Index(offset, ((var, 1),))


def map_program(body, dtypes, extents, result):
    """Kernels out = body(e, *in) of several extents, all in one program (compiling is the slow part of these tests)."""
    buffers, kernels = [], []
    for extent in extents:
        e, var, first = LoopEmitter(), Var(), len(buffers)
        xs = [e.load(first + i, flat(var), dtype) for i, dtype in enumerate(dtypes)]
        e.store(first + len(xs), flat(var), body(e, *xs))
        buffers += [Buffer(np.dtype(dtype), extent, "input", first + i) for i, dtype in enumerate(dtypes)]
        buffers.append(Buffer(np.dtype(result), extent, "output", len(kernels)))
        kernels.append(Kernel(f"map{extent}", var, extent, e.statements))
    program = Program(tuple(buffers), tuple(kernels), len(kernels), 0)
    check(program)
    return program


def sample(dtype, size, rng):
    """Special values first, random ones of every magnitude after them."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(size) < 0.5
    if dtype.kind == "f":
        info = np.finfo(dtype)
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, info.max, -info.max, info.tiny,
                   info.smallest_subnormal, -info.smallest_subnormal, 2.0**31, -(2.0**31), 2.0**63, 1e10, -7.25]
        exponents = rng.uniform(info.minexp, info.maxexp - 1, size) * (rng.random(size) < 0.3)
        values = np.ldexp(rng.uniform(-2, 2, size), exponents.astype(int)).astype(dtype)
    else:
        info = np.iinfo(dtype)
        special = [0, 1, 2, 7, info.min, info.max, info.max - 1, info.min + 1]
        values = rng.integers(info.min, info.max, size, dtype, endpoint=True)
    special = np.array(special, dtype)[rng.permutation(len(special))][:size]
    values[:len(special)] = special
    return values[rng.permutation(size)]


def check_map(body, dtypes, result, extents=EXTENTS, seed=0):
    rng = np.random.default_rng(seed)
    program = map_program(body, dtypes, extents, result)
    given = {i: sample(b.dtype, b.size, rng) for i, b in enumerate(program.buffers) if b.role == "input"}
    check_program(program, given, WIDE, NARROW)


def both(*bodies):
    """Several operations in one kernel, their bits mixed so that a difference in any shows."""
    def body(e, *xs):
        total = None
        for each in bodies:
            bits = each(e, *xs)
            if bits.dtype.kind == "f":
                bits = e.select(e.ne(bits, bits), e.const(0.0, bits), bits)
                bits = e.bitcast(bits, np.dtype(f"i{bits.dtype.itemsize}"))
            bits = e.convert(bits, np.int64)
            total = bits if total is None else e.xor(e.mul(total, 31), bits)
        return total
    return body


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_operations(dtype):
    two = [lambda e, x, y, name=name: getattr(e, name)(x, y)
           for name in "add sub mul div copysign maximum minimum eq ne lt le gt ge floor_divide remainder".split()]
    one = [lambda e, x, y, name=name: getattr(e, name)(x) for name in "neg sqrt abs floor ceil trunc rint isnan".split()]
    for body in (both(*two), both(*one), both(lambda e, x, y: e.fma(x, y, x), lambda e, x, y: e.select(e.lt(x, y), x, y))):
        check_map(body, (dtype, dtype), np.int64)
    check_map(lambda e, x, y: e.add(e.mul(x, y), x), (dtype, dtype), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_fma_rounds_once(dtype):
    rng = np.random.default_rng(3)
    program = map_program(lambda e, x, y, z: e.fma(x, y, z), (dtype,) * 3, (5000,), dtype)
    x, y = sample(dtype, 5000, rng), sample(dtype, 5000, rng)
    with np.errstate(all="ignore"):
        near = -(x * y) * dtype(1 + 3 * np.finfo(dtype).eps)
    z = np.where(rng.random(5000) < 0.5, near, sample(dtype, 5000, rng))
    check_program(program, {0: x, 1: y, 2: z}, WIDE, NARROW)


@pytest.mark.parametrize("dtype", (np.int32, np.int64, np.uint8, np.uint32, np.uint64))
def test_integer_operations(dtype):
    names = "add sub mul and_ or_ xor eq ne lt le gt ge maximum minimum floor_divide remainder".split()
    two = [lambda e, x, y, name=name: getattr(e, name)(x, y) for name in names]
    bits = 8 * np.dtype(dtype).itemsize
    shifts = [lambda e, x, y, name=name: getattr(e, name)(x, e.and_(y, bits - 1)) for name in ("shl", "lshr", "ashr")]
    check_map(both(*two), (dtype, dtype), np.int64, (1, 17, 100))
    check_map(both(*shifts, lambda e, x, y: e.not_(x), lambda e, x, y: e.neg(y), lambda e, x, y: e.abs(x)), (dtype, dtype), np.int64)
    if dtype in (np.uint32, np.uint64):
        check_map(both(lambda e, x, y: e.mulhi(x, y)), (dtype, dtype), np.int64, (3, 40))


def test_bool_operations_and_buffers():
    check_map(lambda e, x, y: e.or_(e.and_(x, e.not_(y)), e.xor(x, y)), (bool, bool), bool)
    check_map(lambda e, x, y: e.select(x, y, e.le(x, y)), (bool, bool), bool)


@pytest.mark.parametrize("source", (bool, np.uint8, np.int32, np.int64, np.uint32, np.uint64, np.float32, np.float64))
def test_conversions(source):
    targets = (bool, np.uint8, np.int32, np.int64, np.uint32, np.uint64, np.float32, np.float64)
    check_map(both(*(lambda e, x, t=t: e.convert(x, t) for t in targets)), (source,), np.int64, (7, 33, 100))


def test_index_and_constants():
    e, var = LoopEmitter(), Var()
    e.store(0, flat(var), e.add(e.mul(e.index(var), 3), e.const(7, np.int64)))
    program = Program((Buffer(np.dtype(np.int64), 37, "output"),), (Kernel("iota", var, 37, e.statements),), 1, 0)
    found = check_program(program, {}, WIDE, NARROW)
    assert found[0].tolist() == [3 * i + 7 for i in range(37)]


@pytest.mark.parametrize("dtype", FLOATS)
def test_library_calls(dtype):
    names = "erf tan asin acos atan cbrt lgamma sinh".split()
    check_map(both(*(lambda e, x, y, name=name: e.call(name, x) for name in names)), (dtype, dtype), np.int64, (3, 40))
    check_map(both(*(lambda e, x, y, name=name: e.call(name, x, y) for name in ("pow", "atan2", "hypot", "fmod"))),
              (dtype, dtype), np.int64, (3, 40))


@pytest.mark.parametrize("dtype", FLOATS)
def test_vector_mathematics(dtype):
    names = "exp exp2 expm1 log log1p log2 log10 sin cos tanh logistic softplus".split()
    check_map(both(*(lambda e, x, name=name: e.call(name, x) for name in names[:6])), (dtype,), np.int64, (100, 500))
    check_map(both(*(lambda e, x, name=name: e.call(name, x) for name in names[6:])), (dtype,), np.int64, (100, 500))


def fold_program(dtype, combine, extents, columns, body=lambda e, x: x):
    """Row folds of 3 rows, or column folds over 19 columns, of several extents in one program."""
    buffers, kernels, dtype = [], [], np.dtype(dtype)
    for extent in extents:
        e, var, here = LoopEmitter(), Var(), len(buffers)
        count = 19 if columns else 3
        place = (lambda i, v: ((v, 1), (i, 19))) if columns else (lambda i, v, n=extent: ((v, n), (i, 1)))
        result = e.fold(extent, lambda i, e=e, here=here, var=var, place=place: body(
            e, e.load(here, Index(0, place(i, var)), dtype)), combine)
        e.store(here + 1, flat(var), result)
        buffers += [Buffer(dtype, max(extent, 0) * count, "input", here), Buffer(result.dtype, count, "output", here)]
        kernels.append(Kernel(f"fold{extent}", var, count, e.statements))
    program = Program(tuple(buffers), tuple(kernels), len(kernels), 0)
    check(program)
    return program


@pytest.mark.parametrize("columns", (False, True))
@pytest.mark.parametrize("dtype, combines", [
    (np.float32, "add mul max min"), (np.float64, "add mul max min"), (np.int32, "add mul max"), (np.int64, "add min and"),
    (bool, "and or max"), (np.uint8, "add max or")])
def test_folds(dtype, combines, columns):
    rng = np.random.default_rng(7)
    for combine in combines.split():
        program = fold_program(dtype, combine, (0, 1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 100, 130), columns)
        given = {i: sample(b.dtype, b.size, rng) for i, b in enumerate(program.buffers) if b.role == "input"}
        check_program(program, given, WIDE, NARROW)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", (False, True))
def test_folds_around_blocks(dtype, columns):
    rng = np.random.default_rng(8)
    program = fold_program(dtype, "add", (4095, 4096, 4097, 8192, 8211), columns)
    given = {i: rng.standard_normal(b.size).astype(dtype) for i, b in enumerate(program.buffers) if b.role == "input"}
    check_program(program, given, WIDE, NARROW)


def test_heavy_column_fold_keeps_lanes_in_memory():
    program = fold_program(np.float32, "add", (5, 40, 4100), True, lambda e, x: e.call("tanh", e.call("exp", x)))
    rng = np.random.default_rng(9)
    given = {i: rng.standard_normal(b.size).astype(b.dtype) for i, b in enumerate(program.buffers) if b.role == "input"}
    check_program(program, given, WIDE, NARROW)


def test_the_order_of_a_fold_is_its_extent_and_dtype_alone():
    rng = np.random.default_rng(10)
    x = (rng.standard_normal(100) * 10.0 ** rng.integers(-6, 6, 100)).astype(np.float32)
    rows = fold_program(np.float32, "add", (100,), False)
    columns = fold_program(np.float32, "add", (100,), True)
    row = check_program(rows, {0: np.tile(x, 3)})[1]
    column = check_program(columns, {0: np.repeat(x, 19)})[1]
    assert set(row.tolist()) == set(column.tolist()) == {float(reference.folded(x, "add"))}


STRIDES = [(1, 0), (1, 5), (2, 0), (-1, 99), (-3, 290), (7, 3), (0, 4)]


@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.int32, bool, np.uint8))
def test_strided_loads_and_stores(dtype):
    rng, buffers, kernels = np.random.default_rng(11), [], []
    for stride, offset in STRIDES:
        for extent in (1, 33, 80):
            e, var, here = LoopEmitter(), Var(), len(buffers)
            x = e.load(here, Index(offset, ((var, stride),)), dtype)
            e.store(here + 1, Index(abs(offset), ((var, stride or 1),)), x)
            buffers += [Buffer(np.dtype(dtype), 700, "input", here), Buffer(np.dtype(dtype), 700, "output", here)]
            kernels.append(Kernel("copy", var, extent, e.statements))
    program = Program(tuple(buffers), tuple(kernels), len(kernels), 0)
    check(program)
    given = {i: sample(dtype, 700, rng) if b.role == "input" else np.zeros(700, dtype) for i, b in enumerate(buffers)}
    check_program(program, given, WIDE, NARROW)


@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.int64, bool))
def test_gather_and_scatter_by_value(dtype):
    rng = np.random.default_rng(12)
    e, var = LoopEmitter(), Var()
    place = e.load(0, flat(var), np.int64)
    x = e.load(1, Index(2, ((place, 3), (var, 1))), dtype)
    e.store(2, Index(0, ((place, 1),)), x)
    program = Program((Buffer(np.dtype(np.int64), 45, "input"), Buffer(np.dtype(dtype), 200, "input", 1),
                       Buffer(np.dtype(dtype), 45, "output")), (Kernel("gather", var, 45, e.statements),), 1, 0)
    check(program)
    check_program(program, {0: rng.permutation(45), 1: sample(dtype, 200, rng)}, WIDE, NARROW)


def test_transpose_and_broadcast_in_nested_loops():
    rng = np.random.default_rng(13)
    e, row = LoopEmitter(), Var()
    with e.loop(37, "vector") as column:
        x = e.load(0, Index(0, ((column, 20), (row, 1))), np.float32)
        bias = e.load(1, flat(row), np.float32)
        e.store(2, Index(0, ((row, 37), (column, 1))), e.add(x, bias))
    program = Program((Buffer(np.dtype(np.float32), 740, "input"), Buffer(np.dtype(np.float32), 20, "input", 1),
                       Buffer(np.dtype(np.float32), 740, "output")), (Kernel("transpose", row, 20, e.statements),), 1, 0)
    check(program)
    given = {0: rng.standard_normal(740).astype(np.float32), 1: rng.standard_normal(20).astype(np.float32)}
    found = check_program(program, given, WIDE, NARROW)
    assert same_bits(found[2].reshape(20, 37), given[0].reshape(37, 20).T + given[1][:, None])


def test_softmax_of_rows():
    """Two folds and a vector loop that share values of the row."""
    rng, n = np.random.default_rng(14), 27
    e, row = LoopEmitter(), Var()
    place = lambda i: Index(0, ((row, n), (i, 1)))
    highest = e.fold(n, lambda i: e.load(0, place(i), np.float32), "max")
    total = e.fold(n, lambda i: e.call("exp", e.sub(e.load(0, place(i), np.float32), highest)), "add")
    with e.loop(n, "vector") as i:
        x = e.load(0, place(i), np.float32)
        e.store(1, place(i), e.div(e.call("exp", e.sub(x, highest)), total))
    size = 11 * n
    program = Program((Buffer(np.dtype(np.float32), size, "input"), Buffer(np.dtype(np.float32), size, "output")),
                      (Kernel("softmax", row, 11, e.statements),), 1, 0)
    check(program)
    found = check_program(program, {0: rng.standard_normal(size).astype(np.float32)}, WIDE, NARROW)
    np.testing.assert_allclose(found[1].reshape(11, n).sum(1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("extent", (0, 1, 6))
@pytest.mark.parametrize("vector", (False, True))
def test_serial_loops_carry(extent, vector):
    """Running sums along rows; the rows in lanes or one by one; a stack of carried values of two dtypes."""
    rng = np.random.default_rng(15)
    e, row = LoopEmitter(), Var()

    def body(i, total, count):
        x = e.load(0, Index(0, ((row, 6), (i, 1))), np.float64)
        e.store(1, Index(0, ((row, 6), (i, 1))), e.add(total, x))
        return e.add(total, x), e.add(count, e.convert(e.gt(x, 0.0), np.int32))

    total, count = e.carry(extent, (e.const(0.0, np.float64), e.const(0, np.int32)), body)
    if not vector:
        with e.loop(2, "vector") as other:
            e.store(3, Index(0, ((row, 2), (other, 1))), total)
    e.store(2, flat(row), e.add(total, e.convert(count, np.float64)))
    f64 = np.dtype(np.float64)
    program = Program((Buffer(f64, 126, "input"), Buffer(f64, 126, "output"), Buffer(f64, 21, "output", 1),
                       Buffer(f64, 42, "output", 2)), (Kernel("scan", row, 21, e.statements),), 1, 0)
    check(program)
    given = {0: rng.standard_normal(126), 1: np.zeros(126), 3: np.zeros(42)}
    check_program(program, given, WIDE, NARROW)


def test_folds_inside_folds_and_vector_loops():
    rng = np.random.default_rng(16)
    e, row = LoopEmitter(), Var()
    f64 = np.dtype(np.float64)

    def inner(i):
        return e.fold(7, lambda j: e.load(0, Index(0, ((row, 140), (i, 7), (j, 1))), f64), "max")

    e.store(1, flat(row), e.fold(20, inner, "add"))
    with e.loop(20, "vector") as i:
        e.store(2, Index(0, ((row, 20), (i, 1))), inner(i))
    program = Program((Buffer(f64, 5 * 140, "input"), Buffer(f64, 5, "output"), Buffer(f64, 100, "output", 1)),
                      (Kernel("nested", row, 5, e.statements),), 1, 0)
    check(program)
    check_program(program, {0: rng.standard_normal(700)}, WIDE, NARROW)


@pytest.mark.parametrize("extent", (1, 5, 50))
def test_a_check_stops_before_what_follows(extent):
    """A failed check leaves its code, and no later step writes."""
    e, var = LoopEmitter(), Var()
    i = e.load(0, flat(var), np.int64)
    e.check(e.and_(e.ge(i, 0), e.lt(i, 10)), 3)
    first = Kernel("range", var, extent, e.statements)
    e, var = LoopEmitter(), Var()
    place = e.load(0, flat(var), np.int64)
    e.store(2, flat(var), e.load(1, Index(0, ((place, 1),)), np.float64))
    buffers = (Buffer(np.dtype(np.int64), extent, "input"), Buffer(np.dtype(np.float64), 10, "input", 1),
               Buffer(np.dtype(np.float64), extent, "output"))
    program = Program(buffers, (first, Kernel("gather", var, extent, e.statements)), 2, 0, ("a", "b", "c", "index"))
    check(program)
    native = Native(program)
    good, table = np.arange(extent) % 10, np.arange(10.0)
    for wrong in (None, 0, extent - 1):
        indices = good.copy()
        if wrong is not None:
            indices[wrong] = 10**15
        buffers_ = [indices, table, np.full(extent, -1.0)]
        assert native(buffers_) == (0 if wrong is None else 4)
        assert buffers_[2].tolist() == ([-1.0] * extent if wrong is not None else table[good].tolist())


@pytest.mark.parametrize("extent", (17, 3001))
def test_the_parts_of_several_threads_cover_the_extent(extent):
    """Called in turn as each of n threads, a step writes what one thread writes; a light step runs on the first alone."""
    e, var, other = LoopEmitter(), Var(), Var()
    e.store(1, flat(var), e.call("sin", e.load(0, flat(var), np.float32)))
    rows = LoopEmitter()
    with rows.loop(3, "vector") as i:
        rows.store(2, Index(0, ((other, 3), (i, 1))), rows.load(0, flat(other), np.float32))
    f32 = np.dtype(np.float32)
    kernels = (Kernel("sin", var, extent, e.statements, 1e6), Kernel("rows", other, extent, rows.statements, 10.0))
    buffers = (Buffer(f32, extent, "input"), Buffer(f32, extent, "output"), Buffer(f32, 3 * extent, "output", 1))
    x = np.random.default_rng(17).standard_normal(extent).astype(np.float32)
    expected = check_program(Program(buffers, kernels, 2, 0), {0: x})
    for step in range(2):                                    # alone in its program, after the commit point: no barrier
        native = Native(Program(buffers, kernels[step:step + 1], 0, 0))
        for threads in (2, 3, 7):
            found = [x, np.full(extent, np.nan, np.float32), np.full(3 * extent, np.nan, np.float32)]
            table, control = native.table(found), np.zeros(at.CONTROL_BYTES // 8, np.int64)
            for thread in range(threads):
                assert native.function(table.ctypes.data, thread, threads, control.ctypes.data) == 0
            assert same_bits(found[1 + step], expected[1 + step])


def test_a_cancelled_program_stops_between_pieces():
    """A long kernel looks at the cancel flag before each piece, and answers -1; past the commit point nothing stops it."""
    e, var = LoopEmitter(), Var()
    e.store(1, flat(var), e.add(e.load(0, flat(var), np.float32), 1.0))
    buffers = (Buffer(np.dtype(np.float32), 5000, "input"), Buffer(np.dtype(np.float32), 5000, "output"))
    kernel = Kernel("long", var, 5000, e.statements, 1e9)
    for commit, answer in ((1, at.CANCELLED), (0, 0)):
        native = Native(Program(buffers, (kernel,), commit, 0))
        found = [np.ones(5000, np.float32), np.zeros(5000, np.float32)]
        table, control = native.table(found), np.zeros(at.CONTROL_BYTES // 8, np.int64)
        control[at.DEADLINE // 8] = at.UNTIL_NEVER
        control[at.CANCEL // 8] = 1
        assert native.function(table.ctypes.data, 0, 1, control.ctypes.data) == answer
        assert found[1].sum() == (0 if answer else 10000)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_narrowest_vectors(dtype):
    """SSE without fma: the same bits through the C library's fma."""
    program = map_program(lambda e, x: e.call("exp", e.floor(e.mul(x, 1.5))), (dtype,), (5, 33), dtype)
    given = {i: np.linspace(-5, 5, b.size).astype(dtype) for i, b in enumerate(program.buffers) if b.role == "input"}
    check_program(program, given, host_target(16))


@pytest.mark.parametrize("dtype", FLOATS)
def test_contraction_with_epilogue(dtype):
    rng, dtype = np.random.default_rng(18), np.dtype(dtype)
    for b, m, n, k in ((1, 1, 1, 1), (2, 5, 18, 7), (1, 33, 40, 20)):
        e, variables, accumulator = LoopEmitter(), (Var(), Var(), Var()), Value(dtype)
        place = Index(0, tuple(zip(variables, (m * n, n, 1), strict=True)))
        y = e.call("sin", e.add(accumulator, e.load(2, flat(variables[2]), dtype)))
        e.store(3, place, e.maximum(y, 0.0))
        e.store(4, place, e.gt(y, 0.0))
        operands = Operand(0, 0, (m * k, k, 1)), Operand(1, 0, (k * n, n, 1))
        step = Contraction("product", dtype, b, m, n, k, *operands, variables, accumulator, e.statements)
        buffers = (Buffer(dtype, b * m * k, "input"), Buffer(dtype, b * k * n, "input", 1), Buffer(dtype, n, "input", 2),
                   Buffer(dtype, b * m * n, "output"), Buffer(np.dtype(bool), b * m * n, "output", 1))
        program = Program(buffers, (step,), 1, 0)
        check(program)
        given = {i: rng.standard_normal(buffers[i].size).astype(dtype) for i in range(3)}
        check_program(program, given, WIDE, NARROW)


def test_kernels_of_the_same_text_share_a_function():
    program = map_program(lambda e, x: e.add(x, 1.0), (np.float32,), (1024, 2048, 4096), np.float32)
    assert emit_text(program, WIDE).count("define internal void @kernel") == 1


def test_what_a_program_needs_is_listed_and_an_unknown_name_is_refused():
    program = map_program(lambda e, x: e.call("erfc", x), (np.float64,), (9,), np.float64)
    assert "erfc" in emit_object(program, WIDE).symbols
    with pytest.raises(CompileError, match="no native function"):
        LoopEmitter().call("zeta", Value(np.dtype(np.float64)))


def test_no_instruction_may_reorder_arithmetic():
    program = fold_program(np.float32, "add", (100,), True, lambda e, x: e.call("exp", e.mul(x, x)))
    words = set(emit_text(program, WIDE).replace(",", " ").split())
    assert not words & {"fast", "contract", "reassoc", "nsz", "arcp", "afn", "nnan", "ninf", "nsw", "inttoptr"}
