"""Which sources a model, its loss and its optimizer are made of, and a digest of them: old evidence is told by it.

The modules are found, not listed: those of every class and function in the trees that a target names (through closures), then those that
their text refers to, as long as they lie in adjoint.nn, adjoint.optim or examples. What cannot change a run that has ended well does not
count: comments, docstrings, blank lines, and checks that only raise.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import io
import tokenize
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PARTS = ("adjoint.nn", "adjoint.optim", "examples")


def in_scope(module: str | None) -> bool:
    """True for modules of the parts that count, not for the packages themselves, which only collect names."""
    return module is not None and any(module.startswith(part + ".") for part in PARTS)


def modules_of(value: Any) -> set[str]:
    """The modules of all classes and functions in a tree: fields, items, closures."""
    found: set[str] = set()
    _walk(value, found, set())
    return {name for name in found if in_scope(name)}


def _walk(value: Any, found: set[str], seen: set[int]) -> None:
    if id(value) in seen or isinstance(value, (str, bytes, int, float, types.ModuleType)):
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        parts: Iterable[Any] = (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        parts = (value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        found.add(value.__module__)
        parts = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)] + list(value.__defaults__ or ())
    elif isinstance(value, type):
        found.update(base.__module__ for base in value.__mro__)
        parts = ()
    elif isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, (list, tuple)):
        parts = [type(value), *value]
    elif dataclasses.is_dataclass(value):
        parts = [type(value), *(getattr(value, field.name) for field in dataclasses.fields(value))]
    else:
        parts = [type(value)]
    for part in parts:
        _walk(part, found, seen)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:                  # a name that its function has not bound yet
        return False


def closure(modules: Iterable[str]) -> list[str]:
    """These modules and all that their texts refer to, in the parts that count, by name."""
    waiting, found = list(modules), set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += referred(name) - found
    return sorted(found)


def referred(name: str) -> set[str]:
    """The modules in scope that a module's text imports, or takes names from through a package (nn.Conv2d: adjoint.nn.convolution)."""
    tree, found, aliases = ast.parse(text_of(name)), set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.add(alias.name)
                aliases[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name)
            found.add(base)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if _is_module(full):
                    found.add(full)
                    aliases[alias.asname or alias.name] = full
                elif in_scope(base) or base in PARTS:
                    found.add(_home(importlib.import_module(base), [alias.name]))
    for node in ast.walk(tree):
        chain = _chain(node)
        if chain and chain[0] in aliases and aliases[chain[0]].split(".")[0] in {part.split(".")[0] for part in PARTS}:
            found.add(_home(importlib.import_module(aliases[chain[0]]), chain[1:]))
    return {module for module in found if in_scope(module)}


def _absolute(node: ast.ImportFrom, name: str) -> str:
    package = name.split(".")[:-node.level] if node.level else []
    return ".".join([*package, *([node.module] if node.module else [])])


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def _chain(node: ast.AST) -> list[str]:
    """[a, b, c] for the expression a.b.c."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if names and isinstance(node, ast.Name) else []


def _home(value: Any, names: list[str]) -> str:
    """The module in which value.a.b.c is defined, going on as long as the value is a module."""
    for name in names:
        if not isinstance(value, types.ModuleType):
            break
        value = getattr(value, name, None)
    return value.__name__ if isinstance(value, types.ModuleType) else str(getattr(value, "__module__", ""))


def text_of(name: str) -> str:
    """The source of a module."""
    return file_of(name).read_text(encoding="utf-8")


def file_of(name: str) -> Path:
    """The file of a module."""
    return Path(importlib.import_module(name).__file__)


def essence(text: str) -> str:
    """The code of a source that a run's numbers depend on: better words and a further check do not make evidence old.

    >>> essence("def f(x):\\n    if x < 0:  # no root\\n        raise ValueError(x)\\n    return x\\n")
    'def f(x):\\n    return x'
    """
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node) is not None:
            first = node.body[0]
            _blank(lines, first)
        elif isinstance(node, ast.If) and not node.orelse and all(isinstance(x, ast.Raise) for x in node.body):
            _blank(lines, node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] == "errors":
            _blank(lines, node)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _blank(lines: list[str], node: ast.stmt) -> None:
    lines[node.lineno - 1:node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)


def digest(modules: Iterable[str]) -> str:
    """One number for the code of these modules."""
    total = hashlib.sha256()
    for name in sorted(modules):
        total.update(f"{name}\n{hashlib.sha256(essence(text_of(name)).encode()).hexdigest()}\n".encode())
    return total.hexdigest()
