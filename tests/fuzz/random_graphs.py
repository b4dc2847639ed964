"""Random programs over the table: typed, with odd, empty and unit axes, broadcasting, views, reductions, gathers, products.

A program is data (instructions over numbered values), so every route runs the same one; its result is one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adjoint.core.primitive import TABLE

SHAPES = [(), (1,), (3,), (5,), (17,), (4, 3), (1, 3), (4, 1), (3, 4), (2, 4, 3), (0, 3), (2, 1, 5)]


@dataclass(frozen=True)
class Instruction:
    """values.append(make(*[values[i] for i in arguments]))."""

    label: str
    arguments: tuple[int, ...]
    make: Callable


@dataclass(frozen=True)
class RandomProgram:
    """inputs -> one number."""

    inputs: tuple[np.ndarray, ...]
    instructions: tuple[Instruction, ...]
    weights: tuple[tuple[int, np.ndarray], ...]

    def __call__(self, *inputs: Any) -> Any:
        values = list(inputs)
        for i in self.instructions:
            values.append(i.make(*[values[a] for a in i.arguments]))
        total = 0.0
        for number, weight in self.weights:
            y = values[number]
            total = TABLE["add"](total, TABLE["sum"](TABLE["multiply"](y, weight), axes=tuple(range(len(y.shape)))))
        return total

    def __repr__(self) -> str:
        return " ".join(f"v{len(self.inputs) + k}={i.label}{i.arguments}" for k, i in enumerate(self.instructions))


def random_program(seed: int, length: int = 7) -> RandomProgram:
    """The program of a seed."""
    rng = np.random.default_rng(seed)
    inputs = tuple(np.asarray(rng.uniform(-1.5, 1.5, SHAPES[rng.integers(len(SHAPES))])) for _ in range(rng.integers(1, 4)))
    values: list[Any] = list(inputs)
    instructions: list[Instruction] = []
    makers = [m for m in MAKERS if m.__name__.lstrip("_") in TABLE or m in COMPOSED]
    while len(instructions) < length:
        made = makers[rng.integers(len(makers))](rng, values)
        if made is None:
            continue
        y = made.make(*[values[a] for a in made.arguments])
        if y.size <= 400:
            instructions.append(made)
            values.append(y)
    read = {a for i in instructions for a in i.arguments}
    ends = [k for k in range(len(values)) if k not in read or k == len(values) - 1]
    return RandomProgram(inputs, tuple(instructions), tuple((k, np.asarray(rng.standard_normal(np.shape(values[k])))) for k in ends))


def _pick(rng: np.random.Generator, values: Sequence[Any], least: int = 0) -> int | None:
    found = [i for i, v in enumerate(values) if np.ndim(v) >= least]
    return int(rng.choice(found)) if found else None


def _unary(rng: np.random.Generator, values: Sequence[Any]) -> Instruction:
    i = _pick(rng, values)
    t = TABLE
    makes = {
        "tanh": t["tanh"], "sin": t["sin"], "cos": t["cos"], "negative": t["negative"], "exp": lambda x: t["exp"](t["sin"](x)),
        "log": lambda x: t["log"](t["add"](2.0, t["sin"](x))), "half": lambda x: t["multiply"](x, 0.5),
        "divide": lambda x: t["divide"](1.0, t["add"](3.0, t["multiply"](x, x))),
    }
    for name in ("absolute", "sqrt", "expm1", "log1p", "logistic", "arctan", "erf", "relu"):
        if name in t:
            safe = {"sqrt": lambda x: t["sqrt"](t["add"](1.5, t["sin"](x))), "log1p": lambda x: t["log1p"](t["multiply"](x, x)),
                    "expm1": lambda x: t["expm1"](t["sin"](x))}
            makes[name] = safe.get(name, t[name])
    name = str(rng.choice(list(makes)))
    return Instruction(name, (i,), makes[name])


def _binary(rng: np.random.Generator, values: Sequence[Any]) -> Instruction | None:
    i = _pick(rng, values)
    partners = [j for j, v in enumerate(values) if _fits(np.shape(values[i]), np.shape(v))]
    j = int(rng.choice(partners))
    t = TABLE
    makes = {"add": t["add"], "subtract": t["subtract"], "multiply": t["multiply"],
             "divide": lambda x, y: t["divide"](x, t["add"](2.5, t["sin"](y)))}
    makes |= {n: t[n] for n in ("maximum", "minimum", "hypot", "arctan2") if n in t and n in ("maximum", "minimum")}
    if "greater" in t:
        makes["where"] = lambda x, y: t["where"](t["greater"](x, y), t["sin"](x), t["multiply"](y, y))
    name = str(rng.choice(list(makes)))
    return Instruction(name, (i, j), makes[name])


def _fits(a: tuple, b: tuple) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return True


def _sum(rng: np.random.Generator, values: Sequence[Any]) -> Instruction | None:
    i = _pick(rng, values, 1)
    if i is None:
        return None
    axes = tuple(sorted(rng.choice(np.ndim(values[i]), rng.integers(1, np.ndim(values[i]) + 1), replace=False).tolist()))
    names = [n for n in ("sum", "max", "min", "prod") if n in TABLE and (n == "sum" or np.size(values[i]))]
    name = str(rng.choice(names))
    return Instruction(f"{name}{axes}", (i,), lambda x: TABLE[name](x, axes=axes))


def _permute(rng: np.random.Generator, values: Sequence[Any]) -> Instruction | None:
    i = _pick(rng, values, 2)
    if i is None:
        return None
    axes = tuple(int(a) for a in rng.permutation(np.ndim(values[i])))
    return Instruction(f"permute{axes}", (i,), lambda x: TABLE["permute"](x, axes=axes))


def _reshape(rng: np.random.Generator, values: Sequence[Any]) -> Instruction:
    i = _pick(rng, values)
    n = int(np.size(values[i]))
    divisors = [d for d in range(1, n + 1) if n % d == 0] or [0]
    d = int(rng.choice(divisors))
    shape = [(n,), (d, n // d if d else 3), (1, n), (d, 1, n // d if d else 0)][rng.integers(4)]
    return Instruction(f"reshape{shape}", (i,), lambda x: TABLE["reshape"](x, shape=shape))


def _slice(rng: np.random.Generator, values: Sequence[Any]) -> Instruction | None:
    i = _pick(rng, values, 1)
    if i is None:
        return None
    bounds = []
    for n in np.shape(values[i]):
        step = int(rng.choice([1, 1, 2, -1, -2]))
        start = int(rng.integers(0, max(n, 1)))
        bounds.append((start, n, step) if step > 0 else (max(n - 1, 0), -1, step) if n else (0, 0, 1))
    bounds = tuple(bounds)
    return Instruction(f"slice{bounds}", (i,), lambda x: TABLE["slice"](x, bounds=bounds))


def _broadcast(rng: np.random.Generator, values: Sequence[Any]) -> Instruction:
    i = _pick(rng, values)
    shape = (int(rng.integers(1, 4)), *(int(rng.integers(1, 4)) if n == 1 else n for n in np.shape(values[i])))
    return Instruction(f"broadcast{shape}", (i,), lambda x: TABLE["broadcast"](x, shape=shape))


def _dot(rng: np.random.Generator, values: Sequence[Any]) -> Instruction | None:
    pairs = [(i, j, a, b) for i, x in enumerate(values) for j, w in enumerate(values) for a in range(np.ndim(x)) for b in range(np.ndim(w))
             if np.shape(x)[a] == np.shape(w)[b]]
    if not pairs:
        return None
    i, j, a, b = pairs[rng.integers(len(pairs))]
    contract = ((a,), (b,))
    return Instruction(f"dot{contract}", (i, j), lambda x, w: TABLE["dot"](x, w, contract=contract, batch=((), ())))


def _gather(rng: np.random.Generator, values: Sequence[Any]) -> Instruction | None:
    i = _pick(rng, [v if np.ndim(v) and np.shape(v)[0] else () for v in values], 1)
    if i is None or not np.ndim(values[i]) or not np.shape(values[i])[0]:
        return None
    n = np.shape(values[i])[0]
    index = rng.integers(-n, n, tuple(rng.integers(1, 4, rng.integers(1, 3))))
    return Instruction(f"gather{index.shape}", (i,), lambda x: TABLE["gather"](x, index))


def _concatenate(rng: np.random.Generator, values: Sequence[Any]) -> Instruction | None:
    i = _pick(rng, values, 1)
    if i is None:
        return None
    axis = int(rng.integers(np.ndim(values[i])))
    return Instruction(f"concatenate{axis}", (i, i), lambda x, y: TABLE["concatenate"](x, y, axis=axis))


def _cumsum(rng: np.random.Generator, values: Sequence[Any]) -> Instruction | None:
    i = _pick(rng, values, 1)
    if i is None:
        return None
    axis = int(rng.integers(np.ndim(values[i])))
    return Instruction(f"cumsum{axis}", (i,), lambda x: TABLE["cumsum"](x, axis=axis, reverse=False))


MAKERS = [_unary, _unary, _binary, _binary, _sum, _permute, _reshape, _slice, _broadcast, _dot, _gather, _concatenate, _cumsum]
COMPOSED = (_unary, _binary)
