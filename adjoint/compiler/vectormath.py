"""Vector mathematics in loop IR: exp, log, sin, tanh and relatives, branch-free, at most 1 ulp in float32 and float64.

Each function writes its operations through an emitter: the reference executor and every backend give the same bits. A
value is a sum (high, low) wherever one rounding more would cost the ulp. Polynomials are from tools/minimax.py, reductions
Cody and Waite's with fma, special values NumPy's. May import: loops. Read next: exact.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from .loops import Value

if TYPE_CHECKING:
    from .emitter import LoopEmitter
COEFFICIENTS: dict[tuple[str, str], tuple[float, ...]] = {
    ("exp", "float32"): (  # error 2**-27.9
        0.16666534543037415, 0.041667237877845764, 0.00836750864982605, 0.0013863763306289911),
    ("exp", "float64"): (  # error 2**-57.3
        0.16666666666666433, 0.04166666666660375, 0.008333333333500519, 0.0013888888926892019, 0.00019841269465442336,
        2.4801508549789426e-05, 2.7557641257646053e-06, 2.76252442799857e-07, 2.497836457023533e-08),
    ("expm1", "float32"): (  # error 2**-29.8
        0.1666666567325592, 0.041666481643915176, 0.0083334194496274, 0.0013933288864791393, 0.0001982411922654137),
    ("expm1", "float64"): (  # error 2**-59.0
        0.16666666666666677, 0.041666666666666574, 0.008333333333322123, 0.001388888888894281, 0.00019841269885049475,
        2.4801587198026787e-05, 2.7557245173471637e-06, 2.7557387110448653e-07, 2.5108732669815474e-08,
        2.0878926426195074e-09),
    ("log", "float32"): (  # error 2**-28.2
        0.3333331346511841, -0.25000008940696716, 0.2000211924314499, -0.1666799634695053, 0.14219553768634796,
        -0.1240558996796608, 0.11888153105974197, -0.11675631254911423, 0.06746625900268555),
    ("log", "float64"): (  # error 2**-57.1
        0.3333333333333335, -0.25000000000000366, 0.19999999999993948, -0.16666666666547908, 0.1428571428657415,
        -0.1250000001454948, 0.11111111058638494, -0.09999999075827049, 0.09090910480138022, -0.08333367530603247,
        0.07692305007927304, -0.07142088379725492, 0.06665899081125579, -0.06260369228710075, 0.05902502281366935,
        -0.05479459167171161, 0.050279356354977225, -0.05189245964004414, 0.060529029528035815, -0.054096209588753164,
        0.022483236171333014),
    ("sin", "float32"): (  # error 2**-27.2
        -0.16666655242443085, 0.00833216868340969, -0.0001951601152541116),
    ("sin", "float64"): (  # error 2**-56.4
        -0.16666666666666632, 0.008333333333322205, -0.0001984126982963276, 2.7557313628712642e-06,
        -2.5050747859035456e-08, 1.58961816486996e-10),
    ("cos", "float32"): (  # error 2**-31.1
        0.04166664555668831, -0.001388735487125814, 2.443700941512361e-05),
    ("cos", "float64"): (  # error 2**-59.6
        0.041666666666666595, -0.001388888888887384, 2.4801587289297487e-05, -2.755731429670858e-07,
        2.087571542493008e-09, -1.135922748056951e-11),
    ("erf", "float32"): (  # error 2**-26.5
        0.12837916612625122, -0.3761262595653534, 0.11283598840236664, -0.026854394003748894,
        0.0051894476637244225, -0.0008020123350434005, 7.886855746619403e-05),
    ("erf", "float64"): (  # error 2**-56.3
        0.1283791670955126, -0.3761263890318375, 0.11283791670954876, -0.02686617064507676,
        0.005223977624819413, -0.0008548326980973958, 0.00012055331118184418, -1.4925595447482872e-05,
        1.6461003644788708e-06, -1.6350348170350483e-07, 1.4660023091795114e-08, -1.1373831293583299e-09,
        5.958865303041892e-11),
    ("log_erfc", "float32"): (  # error 2**-27.0
        0.00018344202544540167, -1.1295567750930786, -0.6332626342773438, -0.10837245732545853,
        0.025178955867886543, -0.004193606786429882, 0.0004391054972074926, -2.149604551959783e-05),
    ("log_erfc", "float64"): (  # error 2**-55.7
        -8.928016371283418e-09, -1.1283791093289635, -0.636619805559265, -0.10277358351186737,
        0.019133790838552073, 0.0001934775229998851, -0.001664560683742839, 0.0005427324395562998,
        2.9106019462723163e-05, -0.00011498836880136413, 6.677066661147159e-05, -2.5055065784779137e-05,
        7.024153072566557e-06, -1.5289109895579968e-06, 2.5960068359283477e-07, -3.389638420581534e-08,
        3.2950215404674752e-09, -2.2480668525937147e-10, 9.606551453105613e-12, -1.934147259830705e-13),
}

class Format(Struct, frozen=True):
    """A floating format, and the constants of the reductions in it; a pair (high, low) sums to twice the precision."""

    integer: np.dtype
    digits: int                       # bits stored of the significand
    bias: int
    magic: float                      # 1.5 * 2**digits: adding it leaves the nearest integer in the low bits
    ln2: tuple[float, float]          # high is the format's nearest, used with fma
    ln2_short: tuple[float, float]    # high has so few bits that exponent * high is exact
    log2_e: tuple[float, float]
    log10_e: tuple[float, float]
    log10_2: tuple[float, float]      # high short as in ln2_short
    half_pi: tuple[float, float, float]
    two_over_pi: float
    exp_range: tuple[float, float]    # below: 0; above: infinity
    half_range: int                   # exponents are applied in two factors, one of them 2**+-half_range
    expm1_lowest: float               # below: -1
    tanh_highest: float               # above: 1
    erf_highest: float                # above: 1
    trig_highest: float               # above, sin and cos ask the C library


SINGLE = Format(
    integer=np.dtype(np.int32), digits=23, bias=127, magic=1.5 * 2**23,
    ln2=(0.6931471824645996, -1.9046542121259336e-09), ln2_short=(0.693145751953125, 1.428606765330187e-06),
    log2_e=(1.4426950216293335, 1.925963033500011e-08), log10_e=(0.4342944920063019, -1.0103049952192578e-08),
    log10_2=(0.301025390625, 4.605039066518657e-06),
    half_pi=(1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15), two_over_pi=0.6366197466850281,
    exp_range=(-104.0, 89.0), half_range=64, expm1_lowest=-20.0, tanh_highest=9.25, erf_highest=4.0, trig_highest=32768.0)

DOUBLE = Format(
    integer=np.dtype(np.int64), digits=52, bias=1023, magic=1.5 * 2**52,
    ln2=(0.6931471805599453, 2.3190468138462996e-17), ln2_short=(0.693147180559663, 2.8235290563031577e-13),
    log2_e=(1.4426950408889634, 2.0355273740931033e-17), log10_e=(0.4342944819032518, 1.098319650216765e-17),
    log10_2=(0.30102999566383914, 1.42050232272661e-13),
    half_pi=(1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33), two_over_pi=0.6366197723675814,
    exp_range=(-746.0, 710.0), half_range=512, expm1_lowest=-40.0, tanh_highest=19.25, erf_highest=6.0, trig_highest=1048576.0)


def _format(x: Value) -> Format:
    return SINGLE if x.dtype.itemsize == 4 else DOUBLE


def _polynomial(e: LoopEmitter, name: str, x: Value) -> Value:
    """The table's polynomial: Horner's rule; a long one as even + x odd, two chains that run side by side."""
    coefficients = COEFFICIENTS[name, x.dtype.name]
    if len(coefficients) < 10:
        return _horner(e, coefficients, x)
    square = e.mul(x, x)
    return e.fma(_horner(e, coefficients[1::2], square), x, _horner(e, coefficients[::2], square))


def _horner(e: LoopEmitter, coefficients: tuple[float, ...], x: Value) -> Value:
    total = e.const(coefficients[-1], x)
    for coefficient in coefficients[-2::-1]:
        total = e.fma(total, x, coefficient)
    return total


def _clamp_below(e: LoopEmitter, x: Value, low: float) -> Value:
    """x, at least low; NaN stays."""
    return e.select(e.lt(x, low), low, x)


def _clamp_above(e: LoopEmitter, x: Value, high: float) -> Value:
    """x, at most high; NaN stays."""
    return e.select(e.gt(x, high), high, x)


def _fast_two_sum(e: LoopEmitter, x: Value | float, y: Value) -> tuple[Value, Value]:
    """x + y as (high, low), exactly, where |x| >= |y| or x = 0 (Dekker)."""
    high = e.add(x, y)
    return high, e.sub(y, e.sub(high, x))


def _two_sum(e: LoopEmitter, x: Value, y: Value | float) -> tuple[Value, Value]:
    """x + y as (high, low), exactly (Knuth)."""
    high = e.add(x, y)
    part = e.sub(high, x)
    return high, e.add(e.sub(x, e.sub(high, part)), e.sub(y, part))


def _quotient(e: LoopEmitter, numerator: tuple[Value, Value], denominator: tuple[Value, Value]) -> Value:
    """The quotient of two (high, low) sums: the rounded one, corrected by its remainder."""
    inverse = e.div(1.0, denominator[0])
    quotient = e.mul(numerator[0], inverse)
    minus = e.neg(quotient)
    remainder = e.add(e.fma(minus, denominator[0], numerator[0]), e.fma(minus, denominator[1], numerator[1]))
    return e.fma(remainder, inverse, quotient)


# -- the exponential family -------------------------------------------------------------------------------------------


def _nearest_multiple(e: LoopEmitter, x: Value, inverse: float) -> tuple[Value, Value]:
    """n = the integer nearest to x * inverse, as a float, and as an integer in the low bits of the second value."""
    f = _format(x)
    shifted = e.fma(x, inverse, f.magic)
    return e.sub(shifted, f.magic), e.bitcast(shifted, f.integer)


def _reduce_exp(e: LoopEmitter, x: Value) -> tuple[Value, Value, Value]:
    """x = n ln 2 + r: the bits that hold n, r before its last rounding, n as a float."""
    f = _format(x)
    n, bits = _nearest_multiple(e, x, f.log2_e[0])
    return bits, e.fma(n, -f.ln2[0], x), n


def _power_of_two(e: LoopEmitter, bits: Value, like: Value, offset: Value | int) -> Value:
    """2**(n + offset), n in the low bits of `bits`; offset is an int, or a value: bias + offset shifted into place."""
    f = _format(like)
    if isinstance(offset, int):
        offset = e.const((f.bias + offset) << f.digits, f.integer)
    return e.bitcast(e.add(e.shl(bits, f.digits), offset), like.dtype)


def _scaled(e: LoopEmitter, significand: Value, bits: Value, negative: Value) -> Value:
    """significand * 2**n through two factors, so that overflow and gradual underflow come about by themselves."""
    f = _format(significand)
    offset = e.select(negative, e.const((f.bias + f.half_range) << f.digits, f.integer),
                      e.const((f.bias - f.half_range) << f.digits, f.integer))
    second = e.select(negative, e.const(2.0 ** -f.half_range, significand), e.const(2.0 ** f.half_range, significand))
    return e.mul(e.mul(significand, _power_of_two(e, bits, significand, offset)), second)


def _exp_of_remainder(e: LoopEmitter, r: Value, low: Value | None = None) -> Value:
    """e**(r + low) for |r| <= ln(2)/2."""
    curve = e.fma(_polynomial(e, "exp", r), r, 0.5)
    high, lost = _fast_two_sum(e, e.const(1.0, r), r)
    return e.add(high, e.fma(e.mul(r, r), curve, lost if low is None else e.add(lost, low)))


def exp(e: LoopEmitter, x: Value) -> Value:
    """e**x."""
    f = _format(x)
    x = _clamp_above(e, _clamp_below(e, x, f.exp_range[0]), f.exp_range[1])
    bits, r, n = _reduce_exp(e, x)
    r = e.fma(n, -f.ln2[1], r)
    return _scaled(e, _exp_of_remainder(e, r), bits, e.lt(x, 0.0))


def exp2(e: LoopEmitter, x: Value) -> Value:
    """2**x."""
    f = _format(x)
    x = _clamp_above(e, _clamp_below(e, x, -2.5 * f.half_range), 2.5 * f.half_range)
    n, bits = _nearest_multiple(e, x, 1.0)
    rest = e.sub(x, n)
    r = e.mul(rest, f.ln2[0])
    low = e.fma(rest, f.ln2[1], e.fma(rest, f.ln2[0], e.neg(r)))
    return _scaled(e, _exp_of_remainder(e, r, low), bits, e.lt(x, 0.0))


def _expm1_parts(e: LoopEmitter, x: Value) -> tuple[Value, Value, Value]:
    """e**x = 2**n (1 + r + t): the bits that hold n, r, and t, which is small and carries what rounding took from r."""
    f = _format(x)
    bits, first, n = _reduce_exp(e, x)
    r = e.fma(n, -f.ln2[1], first)
    low = e.fma(n, -f.ln2[1], e.sub(first, r))
    curve = e.fma(_polynomial(e, "expm1", r), r, 0.5)
    return bits, r, e.fma(e.mul(r, r), curve, e.fma(low, r, low))


def expm1(e: LoopEmitter, x: Value) -> Value:
    """e**x - 1, exact to the last place near 0 too."""
    f = _format(x)
    clamped = _clamp_above(e, _clamp_below(e, x, f.expm1_lowest), f.exp_range[1])
    bits, r, t = _expm1_parts(e, clamped)
    half = _power_of_two(e, bits, x, -1)                    # half of 2**n: n may be one more than the format has
    whole = e.sub(half, 0.5)
    lost = e.sub(e.sub(half, whole), 0.5)
    high, low = _fast_two_sum(e, whole, e.mul(half, r))
    y = e.add(high, e.fma(half, t, e.add(low, lost)))
    return e.select(e.lt(e.abs(x), 2.0 ** -(f.digits + 2)), x, e.add(y, y))


def tanh(e: LoopEmitter, x: Value) -> Value:
    """(e**2x - 1) / (e**2x + 1)."""
    f = _format(x)
    size = _clamp_above(e, e.abs(x), f.tanh_highest)
    bits, r, t = _expm1_parts(e, e.add(size, size))
    power = _power_of_two(e, bits, x, 0)
    high, low = _fast_two_sum(e, e.sub(power, 1.0), e.mul(power, r))
    high, low = _fast_two_sum(e, high, e.fma(power, t, low))
    total, rest = _two_sum(e, high, 2.0)
    rest = e.add(rest, low)
    return e.copysign(_quotient(e, (high, low), (total, rest)), x)


def logistic(e: LoopEmitter, x: Value) -> Value:
    """1 / (1 + e**-x), through e**-|x|, so that neither end loses digits."""
    f = _format(x)
    negative = e.lt(x, 0.0)
    bits, r, t = _expm1_parts(e, _clamp_below(e, e.neg(e.abs(x)), f.exp_range[0]))
    high, low = _fast_two_sum(e, e.const(1.0, x), r)
    high, low = _fast_two_sum(e, high, e.add(low, t))
    first, second = _power_of_two(e, bits, x, f.half_range), 2.0 ** -f.half_range
    power = e.mul(first, second)
    total = e.fma(high, power, 1.0)
    rest = e.fma(low, power, e.fma(high, power, e.sub(1.0, total)))
    ratio = _quotient(e, (e.select(negative, high, 1.0), e.select(negative, low, 0.0)), (total, rest))
    return e.mul(e.mul(ratio, e.select(negative, first, 1.0)), e.select(negative, e.const(second, x), 1.0))


def erf(e: LoopEmitter, x: Value) -> Value:
    """x (1 + p(x**2)) near 0; elsewhere 1 - e**q(|x|) with q = log erfc: an ulp of a power of at most 0.16 is none of the result."""
    size = _clamp_above(e, e.abs(x), _format(x).erf_highest)
    near = e.fma(_polynomial(e, "erf", e.mul(size, size)), size, size)
    bits, r, n = _reduce_exp(e, _polynomial(e, "log_erfc", size))
    r = e.fma(n, -_format(x).ln2[1], r)
    power = e.add(1.0, e.fma(e.mul(r, r), e.fma(_polynomial(e, "exp", r), r, 0.5), r))
    far = e.fma(e.neg(power), _power_of_two(e, bits, x, 0), 1.0)
    return e.copysign(e.select(e.lt(size, 1.0), near, far), x)


# -- logarithms -------------------------------------------------------------------------------------------------------


def _split(e: LoopEmitter, x: Value) -> tuple[Value, Value, Value]:
    """x = 2**k m with m in [sqrt(1/2), sqrt(2)): k as a float, the biased k as an integer, m - 1."""
    f = _format(x)
    one = f.bias << f.digits
    root = int(np.sqrt(x.dtype.type(0.5)).view(f.integer))
    moved = e.add(e.bitcast(x, f.integer), one - root)
    biased = e.lshr(moved, f.digits)
    m = e.bitcast(e.add(e.and_(moved, (1 << f.digits) - 1), root), x.dtype)
    magic = int(x.dtype.type(f.magic).view(f.integer))
    k = e.sub(e.bitcast(e.add(biased, magic), x.dtype), f.magic + f.bias)
    return k, biased, e.sub(m, 1.0)


def _log1p_tail(e: LoopEmitter, y: Value) -> Value:
    """log(1 + y) - y for 1 + y in [sqrt(1/2), sqrt(2))."""
    return e.mul(e.mul(y, y), e.fma(_polynomial(e, "log", y), y, -0.5))


def _normal(e: LoopEmitter, x: Value) -> tuple[Value, Value]:
    """x scaled up where it is subnormal, and the exponent that this added, negated."""
    f = _format(x)
    subnormal = e.lt(x, 2.0 ** (1 - f.bias))
    shift = f.digits + 2
    return (e.select(subnormal, e.mul(x, 2.0**shift), x), e.select(subnormal, e.const(-float(shift), x), 0.0))


def _log_sum(e: LoopEmitter, k: Value, y: Value, tail: Value) -> Value:
    """k ln 2 + y + tail."""
    f = _format(y)
    high, low = _fast_two_sum(e, e.mul(k, f.ln2_short[0]), y)
    return e.add(high, e.add(low, e.fma(k, f.ln2_short[1], tail)))


def _log_edges(e: LoopEmitter, x: Value, y: Value) -> Value:
    """The logarithm y of x where x is positive and finite; else what it is at 0, at infinity and below 0."""
    y = e.select(e.lt(x, np.inf), y, x)
    return e.select(e.gt(x, 0.0), y, e.select(e.eq(x, 0.0), e.const(-np.inf, x), np.nan))


def log(e: LoopEmitter, x: Value) -> Value:
    """The natural logarithm."""
    scaled, shift = _normal(e, x)
    k, _, y = _split(e, scaled)
    return _log_edges(e, x, _log_sum(e, e.add(k, shift), y, _log1p_tail(e, y)))


def log1p(e: LoopEmitter, x: Value) -> Value:
    """log(1 + x), exact to the last place near 0 too."""
    f = _format(x)
    total = e.add(x, 1.0)
    k, biased, y = _split(e, total)
    lost = e.sub(x, e.sub(total, 1.0))              # what rounding 1 + x took; nothing that matters if x is huge
    power = e.bitcast(e.shl(e.sub(2 * f.bias, biased), f.digits), x.dtype)
    lost = e.select(e.lt(x, 2.0 ** (f.digits + 2)), e.mul(lost, power), 0.0)
    high = e.add(y, lost)
    low = e.sub(lost, e.sub(high, y))
    result = _log_sum(e, k, high, e.add(_log1p_tail(e, high), low))
    return e.copysign(_log_edges(e, total, result), x)


def _log_in_base(e: LoopEmitter, x: Value, unit: tuple[float, float], factor: tuple[float, float]) -> Value:
    """k unit + log(m) factor, with log(m) and the product kept as (high, low)."""
    scaled, shift = _normal(e, x)
    k, _, y = _split(e, scaled)
    k = e.add(k, shift)
    half = e.mul(y, -0.5)
    square = e.mul(y, half)
    high, low = _fast_two_sum(e, y, square)
    cube = e.mul(e.mul(e.mul(y, y), y), _polynomial(e, "log", y))
    low = e.add(low, e.add(e.fma(y, half, e.neg(square)), cube))
    high, low = _fast_two_sum(e, high, low)
    product = e.mul(high, factor[0])
    rest = e.fma(low, factor[0], e.fma(high, factor[1], e.fma(high, factor[0], e.neg(product))))
    total, lost = _fast_two_sum(e, e.mul(k, unit[0]), product)
    rest = e.add(lost, e.fma(k, unit[1], rest)) if unit[1] else e.add(lost, rest)
    return _log_edges(e, x, e.add(total, rest))


def log2(e: LoopEmitter, x: Value) -> Value:
    """The logarithm to base 2; exact at powers of 2."""
    return _log_in_base(e, x, (1.0, 0.0), _format(x).log2_e)


def log10(e: LoopEmitter, x: Value) -> Value:
    """The logarithm to base 10."""
    f = _format(x)
    return _log_in_base(e, x, f.log10_2, f.log10_e)


def logaddexp(e: LoopEmitter, x: Value, y: Value) -> Value:
    """log(e**x + e**y), without overflow."""
    gap = e.neg(e.abs(e.sub(x, y)))
    gap = e.select(e.eq(x, y), 0.0, gap)                    # equal infinities
    return e.add(e.maximum(x, y), log1p(e, exp(e, gap)))


def softplus(e: LoopEmitter, x: Value) -> Value:
    """log(1 + e**x), without overflow."""
    return e.add(e.maximum(x, 0.0), log1p(e, exp(e, e.neg(e.abs(x)))))


# -- sine and cosine --------------------------------------------------------------------------------------------------


def _reduce_circle(e: LoopEmitter, x: Value) -> tuple[Value, Value, Value]:
    """x = n pi/2 + r + low: the bits that hold n, r, low."""
    f = _format(x)
    n, bits = _nearest_multiple(e, x, f.two_over_pi)
    first = e.fma(n, -f.half_pi[0], x)                      # exact
    product = e.mul(n, -f.half_pi[1])
    lost = e.fma(n, -f.half_pi[1], e.neg(product))
    r, low = _two_sum(e, first, product)
    return bits, r, e.fma(n, -f.half_pi[2], e.add(low, lost))


def _sine_part(e: LoopEmitter, r: Value, low: Value, square: Value) -> Value:
    return e.add(r, e.fma(e.mul(square, r), _polynomial(e, "sin", square), low))


def _cosine_part(e: LoopEmitter, r: Value, low: Value, square: Value) -> Value:
    half = e.mul(square, 0.5)
    high = e.sub(1.0, half)
    rest = e.sub(e.sub(1.0, high), half)
    correction = e.fma(e.mul(square, square), _polynomial(e, "cos", square), e.neg(e.mul(r, low)))
    return e.add(high, e.add(rest, correction))


def _circular(e: LoopEmitter, x: Value, name: str) -> Value:
    f = _format(x)
    bits, r, low = _reduce_circle(e, x)
    square = e.mul(r, r)
    sine, cosine = _sine_part(e, r, low, square), _cosine_part(e, r, low, square)
    if name == "cos":
        bits = e.add(bits, 1)
    y = e.select(e.eq(e.and_(bits, 1), 0), sine, cosine)
    width = f.integer.itemsize * 8
    sign = e.shl(e.lshr(bits, 1), width - 1)
    y = e.bitcast(e.xor(e.bitcast(y, f.integer), sign), x.dtype)
    if name == "sin":
        y = e.select(e.eq(x, 0.0), x, y)
    return e.libm_where(name, e.gt(e.abs(x), f.trig_highest), y, x)


def sin(e: LoopEmitter, x: Value) -> Value:
    """The sine; huge arguments go to the C library."""
    return _circular(e, x, "sin")


def cos(e: LoopEmitter, x: Value) -> Value:
    """The cosine; huge arguments go to the C library."""
    return _circular(e, x, "cos")


def sqrt(e: LoopEmitter, x: Value) -> Value:
    """The square root, correctly rounded by the machine."""
    return e.sqrt(x)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    function.__name__: function
    for function in (exp, exp2, expm1, tanh, logistic, erf, log, log1p, log2, log10, logaddexp, softplus, sin, cos,
                     sqrt)
}
