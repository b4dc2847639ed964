"""LLVM IR written as text: a module of functions, a function of blocks, an instruction of one line.

Formatting strings costs a twentieth of building llvmlite.ir objects, and compile time is a budget. A Writer hands out names, so
whoever writes sees only operands. `Inserted` is the same Writer inside a function that llvmlite.ir builds.
May import: llvmlite. Read next: lanes.py.
"""

from __future__ import annotations

from collections.abc import Container

import llvmlite.ir as ir
import numpy as np

_SCALARS = {np.dtype(name): kind for name, kind in (
    ("bool", "i1"), ("uint8", "i8"), ("int32", "i32"), ("uint32", "i32"), ("int64", "i64"), ("uint64", "i64"),
    ("float32", "float"), ("float64", "double"))}
_SUFFIXES = {"i1": "i1", "i8": "i8", "i32": "i32", "i64": "i64", "float": "f32", "double": "f64", "ptr": "p0"}


def scalar_type(dtype: np.dtype) -> str:
    """The LLVM type of one value."""
    return _SCALARS[dtype]


def memory_type(dtype: np.dtype) -> str:
    """The LLVM type of one element in memory: a bool is a byte."""
    return "i8" if dtype.kind == "b" else _SCALARS[dtype]


def wide(scalar: str, lanes: int) -> str:
    """The type of `lanes` values; one lane is the scalar itself."""
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def suffix(scalar: str, lanes: int) -> str:
    """How intrinsics name that type."""
    return _SUFFIXES[scalar] if lanes == 1 else f"v{lanes}{_SUFFIXES[scalar]}"


def literal(value: object, dtype: np.dtype) -> str:
    """A scalar constant."""
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind == "f":
        return f"0x{np.float64(value).view(np.uint64):016X}"
    return str(int(value))


def vector_literal(scalar: str, elements: list[int]) -> str:
    """A constant vector of integers."""
    return "<" + ", ".join(f"{scalar} {each}" for each in elements) + ">"


class ModuleText:
    """Functions and declarations of one module; `texts` are whole definitions, whose own names begin with `prefix`."""

    def __init__(self, attributes: tuple[str, ...] = (), prefix: str = "adjoint.") -> None:
        self.attributes, self.prefix = " ".join(("nounwind", *attributes)), prefix
        self.texts: list[str] = []
        self.declares: dict[str, str] = {}
        self.defined: set[str] = set()

    def declare(self, name: str, result: str, arguments: str) -> str:
        """A function defined elsewhere; returns how to name it."""
        self.declares[name] = f"declare {result} @{name}({arguments})"
        return f"@{name}"

    def print(self, known: Container[str] = ()) -> str:
        """The text of the module; `known` names are declared already."""
        declares = [line for name, line in self.declares.items() if name not in self.defined and name not in known]
        return "\n".join([*declares, *self.texts, f"attributes #0 = {{ {self.attributes} }}", ""])

    def __str__(self) -> str:
        return self.print()


class Writer:
    """One function being written. `op` names its result, `do` is for instructions without one."""

    def __init__(self, module: ModuleText, name: str, result: str, arguments: str, *, linkage: str = "internal") -> None:
        self.module, self.name = module, name
        self._head = f"define {linkage} {result} @{name}({arguments}) #0 {{"
        self._top: list[str] = []
        self._lines: list[str] = []
        self._late: list[tuple[str, list[str]]] = []
        self._count = 0
        self.label = "entry"
        self.instructions = 0
        module.defined.add(name)

    def fresh(self, hint: str = "v") -> str:
        self._count += 1
        return f"{hint}{self._count}"

    def op(self, text: str) -> str:
        """%name = text."""
        name = "%" + self.fresh()
        self._lines.append(f"  {name} = {text}")
        self.instructions += 1
        return name

    def do(self, text: str) -> None:
        self._lines.append("  " + text)
        self.instructions += 1

    def at_top(self, text: str) -> str:
        """An instruction of the entry block, before everything else (alloca, loads of the pointer table)."""
        name = "%" + self.fresh("t")
        self._top.append(f"  {name} = {text}")
        self.instructions += 1
        return name

    def enter(self, label: str) -> None:
        """Start the block `label`."""
        self._lines.append(f"{label}:")
        self.label = label

    def jump(self, label: str) -> None:
        self.do(f"br label %{label}")

    def branch(self, condition: str, yes: str, no: str, weights: str = "") -> None:
        self.do(f"br i1 {condition}, label %{yes}, label %{no}{weights}")

    def phi(self, kind: str, initial: str, before: str) -> Phi:
        """A phi whose second operand is given later, by `close`."""
        self._lines.append("")
        self.instructions += 1
        return Phi("%" + self.fresh("p"), kind, initial, before, len(self._lines) - 1)

    def close(self, phi: Phi, following: str) -> None:
        """The value that comes in from the current block, which is about to branch back."""
        self._lines[phi.line] = (
            f"  {phi.name} = phi {phi.kind} [ {phi.initial}, %{phi.before} ], [ {following}, %{self.label} ]")

    def later(self, label: str, lines: list[str]) -> None:
        """A cold block, put at the end."""
        self._late.append((label, lines))
        self.instructions += len(lines)

    def finish(self) -> str:
        """The whole definition."""
        cold = [line for label, lines in self._late for line in (f"{label}:", *("  " + each for each in lines))]
        return "\n".join([self._head, "entry:", *self._top, *self._lines, *cold, "}"])


class Phi:
    """A value of a loop that still lacks what the loop's end brings."""

    __slots__ = ("before", "initial", "kind", "line", "name")

    def __init__(self, name: str, kind: str, initial: str, before: str, line: int) -> None:
        self.name, self.kind, self.initial, self.before, self.line = name, kind, initial, before, line


class Inserted:
    """A Writer for straight-line code that lands in the current block of an llvmlite.ir builder."""

    _count = 0

    def __init__(self, builder: ir.IRBuilder, module: ModuleText) -> None:
        self.builder, self.module = builder, module

    def op(self, text: str) -> str:
        Inserted._count += 1
        name = f"e{Inserted._count}"
        self._insert(f'%"{name}" = {text}')
        return f'%"{name}"'

    at_top = op

    def do(self, text: str) -> None:
        self._insert(text)

    def _insert(self, text: str) -> None:
        self.builder._insert(_Line(self.builder.block, text))


class _Line(ir.Instruction):
    """An instruction that is already text."""

    def __init__(self, block: ir.Block, text: str) -> None:
        super().__init__(block, ir.VoidType(), "text", ())
        self._text = text

    def descr(self, buf: list[str]) -> None:
        buf.append(self._text + "\n")
