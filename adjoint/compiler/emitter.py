"""LoopEmitter: writes loop IR, one scalar operation at a time; rows lower through it and the compiler builds kernels.

Invariant: every call appends statements in single assignment to the innermost open block; a Python number takes the
dtype of its partner. Composites (maximum, floor_divide ...) have NumPy's values.
May import: errors, loops, vectormath. Read next: vectormath.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..errors import CompileError
from . import vectormath
from .loops import Carry, Check, Fold, Index, Let, Load, Loop, Statement, Store, Value, Var

BOOL = np.dtype(np.bool_)
INT64 = np.dtype(np.int64)
Scalar = Value | bool | int | float

LIBM = frozenset(
    "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh "
    "erf erfc tgamma lgamma cbrt pow fmod atan2 hypot nextafter".split())
_ALIASES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "arctan2": "atan2", "power": "pow", "gammaln": "lgamma"}


class LoopEmitter:
    """Collects statements; `statements` is the finished block. Loops are opened by `loop`, `carry` and `fold`."""

    def __init__(self) -> None:
        self._blocks: list[list[Statement]] = [[]]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What has been written so far, outside every open loop."""
        return tuple(self._blocks[0])

    # -- one statement ------------------------------------------------------------------------------------------------

    def let(self, op: str, args: Sequence[Value | Var], dtype: np.dtype, attr: object = None) -> Value:
        """out = op(*args), as loops.Let says."""
        out = Value(np.dtype(dtype))
        self._blocks[-1].append(Let(out, op, tuple(args), attr))
        return out

    def load(self, buffer: int, index: Index, dtype: np.dtype) -> Value:
        """buffer[index], an element of `dtype` (the buffer's own)."""
        out = Value(np.dtype(dtype))
        self._blocks[-1].append(Load(out, buffer, index))
        return out

    def store(self, buffer: int, index: Index, value: Value) -> None:
        """buffer[index] = value."""
        self._blocks[-1].append(Store(buffer, index, value))

    def check(self, ok: Value, code: int) -> None:
        """Stop the program with error `code` unless `ok`."""
        self._blocks[-1].append(Check(ok, code))

    def index(self, var: Var) -> Value:
        """The loop variable as an int64 value."""
        return self.let("index", (var,), INT64)

    # -- structure ----------------------------------------------------------------------------------------------------

    @contextmanager
    def loop(self, extent: int, kind: str = "serial") -> Iterator[Var]:
        """`with e.loop(n, "vector") as i:` writes the body of a Loop."""
        var = Var()
        self._blocks.append([])
        yield var
        body = tuple(self._blocks.pop())
        self._blocks[-1].append(Loop(var, extent, body, kind))

    def carry(self, extent: int, initials: Sequence[Value], body: Callable) -> tuple[Value, ...]:
        """A serial loop that carries values: body(i, *inside) -> as many following values; returns the last ones."""
        var, inside = Var(), [Value(value.dtype) for value in initials]
        self._blocks.append([])
        following = body(var, *inside)
        statements = tuple(self._blocks.pop())
        results = tuple(Value(value.dtype) for value in initials)
        carries = tuple(Carry(*four) for four in zip(initials, inside, following, results, strict=True))
        self._blocks[-1].append(Loop(var, extent, statements, "serial", carries))
        return results

    def fold(self, extent: int, body: Callable[[Var], Value], combine: str) -> Value:
        """The reduction of body(i) over i = 0 .. extent-1, in the order that loops.Fold fixes."""
        var = Var()
        self._blocks.append([])
        value = body(var)
        statements = tuple(self._blocks.pop())
        result = Value(value.dtype)
        self._blocks[-1].append(Fold(var, extent, statements, value, combine, result))
        return result

    # -- constants and conversions ------------------------------------------------------------------------------------

    def const(self, value: bool | int | float, like: Value | np.dtype) -> Value:
        """A constant of the dtype of `like` (a value or a dtype); integers wrap as NumPy's casts do."""
        dtype = like.dtype if isinstance(like, Value) else np.dtype(like)
        if dtype.kind in "iu":
            bits = 8 * dtype.itemsize
            value = int(value) & ((1 << bits) - 1)
            value -= (1 << bits) if dtype.kind == "i" and value >> (bits - 1) else 0
        return self.let("const", (), dtype, dtype.type(value))

    def convert(self, x: Value, dtype: np.dtype) -> Value:
        """x in another dtype: floats truncate to integers and saturate, NaN becomes 0."""
        dtype = np.dtype(dtype)
        return x if x.dtype == dtype else self.let("convert", (x,), dtype, dtype)

    def bitcast(self, x: Value, dtype: np.dtype) -> Value:
        """The same bits read as another dtype of the same width."""
        dtype = np.dtype(dtype)
        return x if x.dtype == dtype else self.let("bitcast", (x,), dtype, dtype)

    def lift(self, *xs: Scalar) -> tuple[Value, ...]:
        """Values for all of xs; a Python number takes the dtype of the first Value among them."""
        like = next(x for x in xs if isinstance(x, Value))
        return tuple(x if isinstance(x, Value) else self.const(x, like) for x in xs)

    def _same(self, op: str, *xs: Scalar, attr: object = None) -> Value:
        values = self.lift(*xs)
        return self.let(op, values, values[0].dtype, attr)

    def _compare(self, op: str, x: Scalar, y: Scalar) -> Value:
        return self.let(op, self.lift(x, y), BOOL)

    # -- arithmetic ---------------------------------------------------------------------------------------------------

    def add(self, x: Scalar, y: Scalar) -> Value:
        return self._same("add", x, y)

    def sub(self, x: Scalar, y: Scalar) -> Value:
        return self._same("sub", x, y)

    def mul(self, x: Scalar, y: Scalar) -> Value:
        return self._same("mul", x, y)

    def div(self, x: Scalar, y: Scalar) -> Value:
        return self._same("div", x, y)

    def neg(self, x: Value) -> Value:
        return self._same("neg", x)

    def fma(self, x: Scalar, y: Scalar, z: Scalar) -> Value:
        """x * y + z with one rounding."""
        return self._same("fma", x, y, z)

    def sqrt(self, x: Value) -> Value:
        return self._same("sqrt", x)

    def abs(self, x: Value) -> Value:
        """|x|; the smallest integer stays itself, as in NumPy."""
        if x.dtype.kind == "f":
            return self._same("abs", x)
        return x if x.dtype.kind in "bu" else self.select(self.lt(x, 0), self.neg(x), x)

    def floor(self, x: Value) -> Value:
        return self._same("floor", x)

    def ceil(self, x: Value) -> Value:
        return self._same("ceil", x)

    def trunc(self, x: Value) -> Value:
        return self._same("trunc", x)

    def rint(self, x: Value) -> Value:
        """The nearest integer, halves to even."""
        return self._same("rint", x)

    def copysign(self, x: Scalar, y: Scalar) -> Value:
        return self._same("copysign", x, y)

    # -- comparison, logic, bits --------------------------------------------------------------------------------------

    def eq(self, x: Scalar, y: Scalar) -> Value:
        return self._compare("eq", x, y)

    def ne(self, x: Scalar, y: Scalar) -> Value:
        return self._compare("ne", x, y)

    def lt(self, x: Scalar, y: Scalar) -> Value:
        return self._compare("lt", x, y)

    def le(self, x: Scalar, y: Scalar) -> Value:
        return self._compare("le", x, y)

    def gt(self, x: Scalar, y: Scalar) -> Value:
        return self._compare("gt", x, y)

    def ge(self, x: Scalar, y: Scalar) -> Value:
        return self._compare("ge", x, y)

    def and_(self, x: Scalar, y: Scalar) -> Value:
        return self._same("and", x, y)

    def or_(self, x: Scalar, y: Scalar) -> Value:
        return self._same("or", x, y)

    def xor(self, x: Scalar, y: Scalar) -> Value:
        return self._same("xor", x, y)

    def not_(self, x: Value) -> Value:
        return self._same("not", x)

    def shl(self, x: Scalar, amount: Scalar) -> Value:
        return self._same("shl", x, amount)

    def lshr(self, x: Scalar, amount: Scalar) -> Value:
        return self._same("lshr", x, amount)

    def ashr(self, x: Scalar, amount: Scalar) -> Value:
        return self._same("ashr", x, amount)

    def mulhi(self, x: Scalar, y: Scalar) -> Value:
        """The high half of the product of two unsigned integers."""
        return self._same("mulhi", x, y)

    def select(self, condition: Value, x: Scalar, y: Scalar) -> Value:
        """x where the condition holds, else y."""
        values = self.lift(x, y)
        return self.let("select", (condition, *values), values[0].dtype)

    def isnan(self, x: Value) -> Value:
        return self.ne(x, x) if x.dtype.kind == "f" else self.const(False, BOOL)

    def maximum(self, x: Scalar, y: Scalar) -> Value:
        """NumPy's maximum: NaN wins, and of two equal values the first."""
        return self._extreme("lt", *self.lift(x, y))

    def minimum(self, x: Scalar, y: Scalar) -> Value:
        """NumPy's minimum: NaN wins, and of two equal values the first."""
        return self._extreme("gt", *self.lift(x, y))

    def _extreme(self, op: str, x: Value, y: Value) -> Value:
        better = self.select(self._compare(op, x, y), y, x)
        return better if x.dtype.kind != "f" else self.select(self.ne(y, y), y, better)

    # -- division with NumPy's rounding -------------------------------------------------------------------------------

    def safe_divisor(self, x: Value, y: Value) -> Value:
        """y, or 1 where the machine would trap: y = 0, and the smallest integer by -1."""
        unsafe = self.eq(y, 0)
        if x.dtype.kind == "i":
            smallest = self.eq(x, int(np.iinfo(x.dtype).min))
            unsafe = self.or_(unsafe, self.and_(smallest, self.eq(y, -1)))
        return self.select(unsafe, 1, y)

    def division_is_defined(self, x: Value, y: Value) -> Value:
        """True where integer x // y has a value: the condition to `check`."""
        fine = self.ne(y, 0)
        if x.dtype.kind != "i":
            return fine
        return self.and_(fine, self.or_(self.ne(x, int(np.iinfo(x.dtype).min)), self.ne(y, -1)))

    def floor_divide(self, x: Scalar, y: Scalar) -> Value:
        """floor(x / y) as NumPy computes it."""
        return self._divmod(*self.lift(x, y))[0]

    def remainder(self, x: Scalar, y: Scalar) -> Value:
        """x - floor(x / y) y, with the sign of y, as NumPy computes it."""
        return self._divmod(*self.lift(x, y))[1]

    def _divmod(self, x: Value, y: Value) -> tuple[Value, Value]:
        if x.dtype.kind == "f":
            return self._float_divmod(x, y)
        y = self.safe_divisor(x, y)
        quotient, rest = self._same("sdiv", x, y), self._same("srem", x, y)
        if x.dtype.kind == "u":
            return quotient, rest
        crossed = self.and_(self.ne(rest, 0), self.lt(self.xor(rest, y), 0))
        return (self.select(crossed, self.sub(quotient, 1), quotient), self.select(crossed, self.add(rest, y), rest))

    def _float_divmod(self, x: Value, y: Value) -> tuple[Value, Value]:
        rest = self.call("fmod", x, y)
        whole = self.div(self.sub(x, rest), y)
        nonzero = self.ne(rest, 0.0)
        crossed = self.and_(nonzero, self.xor(self.lt(y, 0.0), self.lt(rest, 0.0)))
        whole = self.select(crossed, self.sub(whole, 1.0), whole)
        below = self.floor(whole)
        rounded = self.select(self.gt(self.sub(whole, below), 0.5), self.add(below, 1.0), below)
        plain = self.div(x, y)
        rounded = self.select(self.eq(whole, 0.0), self.copysign(0.0, plain), rounded)
        modulus = self.select(nonzero, self.select(crossed, self.add(rest, y), rest), self.copysign(0.0, y))
        by_zero = self.eq(y, 0.0)
        return self.select(by_zero, plain, rounded), self.select(by_zero, rest, modulus)

    # -- mathematics --------------------------------------------------------------------------------------------------

    def call(self, name: str, *xs: Value) -> Value:
        """A function of mathematics: expanded in loop IR where vectormath has it, else libm's, element by element."""
        if name in vectormath.FUNCTIONS:
            return vectormath.FUNCTIONS[name](self, *xs)
        return self.libm(name, *self.lift(*xs))

    def libm(self, name: str, *xs: Value) -> Value:
        """The C library's function on each element."""
        symbol = _ALIASES.get(name, name)
        if symbol not in LIBM:
            raise CompileError(f"there is no native function named {name!r}")
        return self.let("call", xs, xs[0].dtype, symbol + ("f" if xs[0].dtype.itemsize == 4 else ""))

    def libm_where(self, name: str, condition: Value, default: Value, *xs: Value) -> Value:
        """The C library's function where `condition` holds (rarely), elsewhere `default`."""
        symbol = name + ("f" if xs[0].dtype.itemsize == 4 else "")
        return self.let("call_where", (condition, default, *xs), xs[0].dtype, symbol)
