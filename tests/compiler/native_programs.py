"""Programs written by hand in LLVM IR, so that the entry and the threads are tested without the rest of the compiler.

Each is `i64 program(ptr buffers, i64 thread, i64 threads, ptr control)`. Read next: test_entry.py.
"""

from __future__ import annotations

from functools import cache

import llvmlite.binding as llvm

from adjoint.compiler import control as at
from adjoint.compiler.jit import Code
from adjoint.compiler.runtime import load_program
from adjoint.compiler.target import host_target

_DECLARATIONS = "declare i64 @adjoint_barrier(ptr, i64)\ndeclare i1 @adjoint_poll(ptr)\n"
_HEAD = "define i64 @program(ptr %buffers, i64 %thread, i64 %threads, ptr %control) {\n"


@cache
def object_code(text: str) -> bytes:
    host_target()       # makes LLVM ready for this machine
    module = llvm.parse_assembly(_DECLARATIONS + text)
    module.verify()
    return host_target().machine(1).emit_object(module)


def code_of(text: str) -> Code:
    """The linked code of a module with a function `program`."""
    return load_program([object_code(text)], ["program"])


def loop(size: int, body: str, start: str = "0", stop: str | None = None, exits: str = "ret i64 0", name: str = "l") -> str:
    """body for %i from start to stop; falls through to `exits`."""
    stop = str(size) if stop is None else stop
    return f"""
  br label %{name}check
{name}check:
  %{name}i = phi i64 [{start}, %{name}before], [%{name}n, %{name}after]
  %{name}c = icmp slt i64 %{name}i, {stop}
  br i1 %{name}c, label %{name}body, label %{name}done
{name}body:
{body.replace("%i", f"%{name}i")}
  br label %{name}after
{name}after:
  %{name}n = add i64 %{name}i, 1
  br label %{name}check
{name}done:
  {exits}
"""


def pointer(name: str, buffer: int) -> str:
    return f"""
  %{name}_slot = getelementptr ptr, ptr %buffers, i64 {buffer}
  %{name} = load ptr, ptr %{name}_slot"""


def load(name: str, array: str, kind: str, index: str = "%i") -> str:
    return f"""
  %{name}_at = getelementptr {kind}, ptr %{array}, i64 {index}
  %{name} = load {kind}, ptr %{name}_at"""


def store(value: str, array: str, kind: str, index: str = "%i") -> str:
    place = f"%{array}_{value.strip('%')}_out"
    return f"""
  {place} = getelementptr {kind}, ptr %{array}, i64 {index}
  store {kind} {value}, ptr {place}"""


def _begin() -> str:
    return "\n  br label %lbefore\nlbefore:"


def add_one(size: int, kind: str = "double", one: str = "1.0", add: str = "fadd") -> str:
    """buffer 1 = buffer 0 + 1."""
    body = load("v", "x", kind) + f"\n  %w = {add} {kind} %v, {one}" + store("%w", "y", kind)
    return _HEAD + pointer("x", 0) + pointer("y", 1) + _begin() + loop(size, body) + "}\n"


def copy_bytes(sizes: list[int]) -> str:
    """Buffer i + n = buffer i, for each of the n sizes in bytes."""
    text = _HEAD
    for i, size in enumerate(sizes):
        text += pointer(f"a{i}", i) + pointer(f"b{i}", i + len(sizes))
        text += f"\n  call void @llvm.memcpy.p0.p0.i64(ptr %b{i}, ptr %a{i}, i64 {size}, i1 false)"
    return text + "\n  ret i64 0\n}\ndeclare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n"


def axpy_step(size: int) -> str:
    """Donated buffer 0 += buffer 2 (float) * buffer 1; buffer 3 = the last element after it."""
    body = load("p", "w", "double") + load("g", "x", "double") + """
  %d = fmul double %g, %rate
  %q = fadd double %p, %d""" + store("%q", "w", "double")
    exits = load("last", "w", "double", str(size - 1)) + "\n  store double %last, ptr %loss\n  ret i64 0"
    return (_HEAD + pointer("w", 0) + pointer("x", 1) + pointer("r", 2) + pointer("loss", 3)
            + "\n  %rate = load double, ptr %r" + _begin() + loop(size, body, exits=exits) + "}\n")


def check_first(size: int) -> str:
    """Status 3 where buffer 0 starts with a negative number; else buffer 1 = buffer 0 + 1."""
    guard = """
  %first = load double, ptr %x
  %bad = fcmp olt double %first, 0.0
  br i1 %bad, label %fail, label %lbefore
fail:
  store i64 3, ptr %control
  %status = call i64 @adjoint_barrier(ptr %control, i64 %threads)
  ret i64 %status
lbefore:"""
    body = load("v", "x", "double") + "\n  %w = fadd double %v, 1.0" + store("%w", "y", "double")
    return _HEAD + pointer("x", 0) + pointer("y", 1) + guard + loop(size, body) + "}\n"


def endless(size: int) -> str:
    """Thread 0 polls in a loop while the others wait at the barrier; only then buffer 0 is written (the commit)."""
    return _HEAD + pointer("w", 0) + """
  %me = icmp eq i64 %thread, 0
  br i1 %me, label %work, label %meet
work:
  %n = phi i64 [0, %0], [%m, %work]
  %m = add i64 %n, 1
  %stop = call i1 @adjoint_poll(ptr %control)
  %enough = icmp sgt i64 %n, 100000000000
  %out = or i1 %stop, %enough
  br i1 %out, label %meet, label %work
meet:
  %status = call i64 @adjoint_barrier(ptr %control, i64 %threads)
  %bad = icmp ne i64 %status, 0
  br i1 %bad, label %leave, label %lbefore
leave:
  ret i64 %status
lbefore:""" + loop(size, store("-1.0", "w", "double").replace("%w_-1.0", "%w_minus")) + "}\n"


def long_step(size: int, rounds: int) -> str:
    """Donated buffer 0 += 1 for all elements, after `rounds` polls by each thread and a barrier; thread 0 does the commit."""
    return _HEAD + pointer("w", 0) + f"""
  br label %work
work:
  %n = phi i64 [0, %0], [%m, %work]
  %m = add i64 %n, 1
  %stop = call i1 @adjoint_poll(ptr %control)
  %enough = icmp sge i64 %m, {rounds}
  %out = or i1 %stop, %enough
  br i1 %out, label %meet, label %work
meet:
  %status = call i64 @adjoint_barrier(ptr %control, i64 %threads)
  %bad = icmp ne i64 %status, 0
  br i1 %bad, label %leave, label %go
leave:
  ret i64 %status
go:
  %me = icmp eq i64 %thread, 0
  br i1 %me, label %commit, label %idle
idle:
  ret i64 0
commit:
  %deadline = getelementptr i8, ptr %control, i64 {at.DEADLINE}
  store i64 {at.UNTIL_NEVER}, ptr %deadline
  br label %lbefore
lbefore:""" + loop(size, load("p", "w", "double") + "\n  %q = fadd double %p, 1.0" + store("%q", "w", "double")) + "}\n"


def waiting(size: int) -> str:
    """Spins without polling until byte 0 of buffer 0 becomes nonzero; then buffer 1 = 7 for all elements."""
    body = store("7.0", "y", "double")
    return _HEAD + pointer("flag", 0) + pointer("y", 1) + """
  br label %spin
spin:
  %f = load atomic i64, ptr %flag acquire, align 8
  %go = icmp ne i64 %f, 0
  br i1 %go, label %lbefore, label %spin
lbefore:""" + loop(size, body) + "}\n"


def halves(size: int, rounds: int = 3) -> str:
    """Each thread adds 1 to its part of the arena buffer 1, `rounds` times with barriers; then writes the reverse to buffer 2.

    Buffer 1 starts as buffer 0. The part of thread t is [t * size / threads, (t + 1) * size / threads).
    """
    text = _HEAD + pointer("x", 0) + pointer("a", 1) + pointer("y", 2) + f"""
  %lo0 = mul i64 %thread, {size}
  %lo = sdiv i64 %lo0, %threads
  %t1 = add i64 %thread, 1
  %hi0 = mul i64 %t1, {size}
  %hi = sdiv i64 %hi0, %threads
  br label %r0before
r0before:"""
    copy = load("c0", "x", "double") + store("%c0", "a", "double")
    text += loop(size, copy, "%lo", "%hi", exits="br label %r1before", name="r0")
    for k in range(1, rounds + 1):
        # every round reads the mirror image that other threads wrote in the round before, into the other half of the arena
        source, target = ("0", str(size)) if k % 2 else (str(size), "0")
        body = f"""
  %m{k} = sub i64 {size - 1}, %i
  %s{k} = add i64 %m{k}, {source}
  %o{k} = add i64 %i, {target}""" + load(f"v{k}", "a", "double", f"%s{k}") + f"""
  %w{k} = fadd double %v{k}, 1.0""" + store(f"%w{k}", "a", "double", f"%o{k}")
        text += f"\nr{k}before:\n  %b{k} = call i64 @adjoint_barrier(ptr %control, i64 %threads)\n  br label %r{k}start\nr{k}start:"
        text += loop(size, body, "%lo", "%hi", exits=f"br label %r{k + 1}before", name=f"r{k}").replace(
            f"%r{k}before]", f"%r{k}start]")
    last = rounds + 1
    final = f"""
  %fs = add i64 %i, {size if rounds % 2 else 0}""" + load("fv", "a", "double", "%fs") + store("%fv", "y", "double")
    text += f"\nr{last}before:" + loop(size, final, "%lo", "%hi", name=f"r{last}")
    return text + "}\n"


assert at.STATUS == 0       # `check_first` stores to the start of the control block
