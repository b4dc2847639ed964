"""LAPACK in compiled code: found and tried, called by symbol, failing before the commit point, on any number of threads, from the cache."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import adjoint as ad
from adjoint.compiler import lapack, reference
from adjoint.compiler.loops import Buffer, Foreign, Index, Kernel, Program, Var
from adjoint.compiler.loops_check import check
from adjoint.compiler.native import make_native
from adjoint.compiler.pipeline import build
from adjoint.core.aval import aval_of
from adjoint.core.trace import trace_graph
from adjoint.errors import CompileError, LinearAlgebraError, NoLowering

L = np.linalg
RNG = np.random.default_rng(4)
DEFINITE = np.matmul(a := RNG.standard_normal((60, 5, 5)), np.swapaxes(a, -1, -2)) + np.eye(5)
ROUTINES = {
    "solve": lambda a: L.solve(a, a[..., :2]), "inv": L.inv, "cholesky": L.cholesky, "slogdet": lambda a: tuple(L.slogdet(a)),
    "eigh": lambda a: tuple(L.eigh(a)), "eigh upper": lambda a: tuple(L.eigh(a, UPLO="U")),
    "svd": lambda a: tuple(L.svd(a, full_matrices=False)), "svd wide": lambda a: tuple(L.svd(a[..., :3, :], full_matrices=False)),
}


def flat(y: Any) -> list:
    return list(y) if isinstance(y, tuple) else [y]


def test_the_library_is_found_and_tried() -> None:
    found = lapack.library()
    assert found is not None and found.width in (4, 8)
    for addresses in (*lapack._in_numpy(), *lapack._in_scipy()):
        assert lapack._tried(addresses) in (4, 8)
    wrong = found.addresses | {"dgesv": found.addresses["dgetrf"]}           # another routine under its name is refused, not trusted
    assert lapack._tried(wrong) == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ROUTINES)
def test_compiled_code_has_numpys_bits(name: str, dtype: type) -> None:
    """It is the same routine on the same numbers; the logarithm of a determinant alone is the compiler's own."""
    f, a = ROUTINES[name], DEFINITE.astype(dtype)
    for x, y in zip(flat(ad.compile(f)(a)), flat(f(a)), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=4 * np.finfo(dtype).eps if name == "slogdet" else 0, atol=0)


@pytest.mark.parametrize("name", ROUTINES)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    a = np.concatenate([DEFINITE * s for s in np.linspace(1.0, 2.0, 8)])
    f = ad.compile(ROUTINES[name])
    with ad.threads(1):
        one = flat(f(a))
    with ad.threads(2):
        two = flat(f(a))
    assert all(np.array_equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("n", [1, 2, 64, 150])
def test_larger_matrices(n: int) -> None:
    a = np.random.default_rng(n).standard_normal((n, n)) + 2.0 * n ** 0.5 * np.eye(n)
    inv, svd = ad.compile(L.inv), ad.compile(lambda a: tuple(L.svd(a)))
    np.testing.assert_allclose(inv(a) @ a, np.eye(n), atol=1e-12)
    u, s, vt = svd(a)
    np.testing.assert_allclose((u * s) @ vt, a, atol=1e-11)
    np.testing.assert_allclose(ad.compile(ad.grad(lambda a: L.slogdet(a)[1]))(a), L.inv(a).T, rtol=1e-9, atol=1e-12)


def test_the_reference_executor_agrees_on_factors_and_triangles() -> None:
    """Where NumPy has no such routine, the reference computes it itself."""
    for function, args in ((lambda a, b: [ad.numpy.solve_triangular(a, b, lower=True)], (DEFINITE, DEFINITE)),
                           (lambda a: list(L.slogdet(a)), (-DEFINITE[:, ::-1],))):
        graph = trace_graph(function, list(map(aval_of, args)))
        built = build(graph, None)
        given = {i: np.array(args[b.slot]) for i, b in enumerate(built.program.buffers) if b.role == "input"}
        buffers = reference.buffers_for(built.program, given)
        assert reference.run(built.program, buffers) == 0
        places = {b.slot: i for i, b in enumerate(built.program.buffers) if b.role == "output"}
        for j, y in enumerate(ad.compile(function)(*args)):
            np.testing.assert_allclose(buffers[places[j]].reshape(y.shape), y, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------------------------ failures


def test_a_failure_stops_before_donated_arrays_are_written() -> None:
    step = ad.compile(lambda w, a: w - L.solve(a, w), donate=0)
    for problems in (1, 60):
        a = DEFINITE[:problems].copy()
        a[-1] = 0.0
        w = step(np.ones((problems, 5, 1)), DEFINITE[:problems])             # from here on w is written in place
        before = w.copy()
        with pytest.raises(LinearAlgebraError, match=r"solve: the matrix is singular\.\n  at .*test_lapack\.py:\d+"):
            step(w, a)
        assert np.array_equal(w, before)
        assert step(w, DEFINITE[:problems]) is w and not np.any(w == before)


def test_a_failure_in_one_thread_is_an_error_for_all() -> None:
    f, a = ad.compile(L.cholesky), np.concatenate([DEFINITE] * 20)
    for at in (0, 17, len(a) - 1):
        wrong = a.copy()
        wrong[at] = -np.eye(5)
        with ad.threads(2), pytest.raises(LinearAlgebraError, match="positive definite"):
            f(wrong)
    assert np.array_equal(f(a), L.cholesky(a))


def test_a_call_beyond_its_buffers_or_after_the_commit_point_is_no_program() -> None:
    problem = Var()

    def program(elements: int, commit: int) -> Program:
        call = Foreign(lapack.PREFIX + "cholesky", ((0, Index(0, ((problem, 4),)), elements),), (2,), 0)
        return Program((Buffer(np.dtype(np.float64), 12, "input"),), (Kernel("cholesky", problem, 3, (call,)),), commit, 0, (0,))
    check(program(4, 1))
    with pytest.raises(CompileError, match=r"elements 0\.\.12 of buffer 0, which has 12"):
        check(program(5, 1))
    with pytest.raises(CompileError, match="after the commit point can fail"):
        check(program(4, 0))


def test_a_loop_that_fails_in_its_second_turn_is_an_error() -> None:
    f = ad.compile(lambda ts: ad.scan(lambda c, t: (c, L.inv(np.eye(2) * t)), 0.0, ts)[1])
    np.testing.assert_array_equal(f(np.array([1.0, 2.0]))[1], np.eye(2) / 2.0)
    with pytest.raises(LinearAlgebraError, match="inv: the matrix is singular"):
        f(np.array([1.0, 0.0]))


# ------------------------------------------------------------------------------------------------ where LAPACK comes from


@pytest.fixture
def other_library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a test say which library the process has."""
    def use(find: Any) -> None:
        monkeypatch.setattr(lapack, "_in_numpy", lambda: [])
        monkeypatch.setattr(lapack, "_in_scipy", find)
        lapack.library.cache_clear()
        lapack.symbols.cache_clear()
    yield use
    monkeypatch.undo()
    lapack.library.cache_clear()
    lapack.symbols.cache_clear()


def test_scipys_routines_do_where_numpys_are_not_seen(other_library: Any) -> None:
    pytest.importorskip("scipy.linalg.cython_lapack", reason="SciPy is not installed")
    in_scipy = lapack._in_scipy
    other_library(in_scipy)
    assert lapack.library() is not None and lapack.library().addresses == in_scipy()[0]
    for name, f in ROUTINES.items():
        for x, y in zip(flat(ad.compile(lambda a, f=f: f(a * 1.0))(DEFINITE)), flat(f(DEFINITE)), strict=True):
            np.testing.assert_allclose(np.abs(x), np.abs(y), rtol=1e-10, atol=1e-12, err_msg=name)
    permutations = np.eye(5)[np.array([np.random.default_rng(k).permutation(5) for k in range(20)])]        # pivots of 32 bits, each a sign
    np.testing.assert_array_equal(ad.compile(lambda a: L.det(a * 1.0))(permutations), np.linalg.det(permutations))
    with pytest.raises(LinearAlgebraError):
        ad.compile(lambda a: L.inv(a * 1.0))(np.zeros((2, 2)))


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3), (0, 3), (3, 0)])
def test_empty_matrices(shape: tuple) -> None:
    """LAPACK wants leading dimensions of at least one, and there is nothing to do."""
    square = {name: f for name, f in ROUTINES.items() if name != "svd"}
    for name, f in (square if shape[-1] == shape[-2] else {"svd": lambda a: L.svd(a, full_matrices=False)}).items():
        for x, y in zip(flat(ad.compile(lambda a, f=f: f(a * 1.0))(np.zeros(shape))), flat(f(np.zeros(shape))), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)
    if shape[-1] == 3:
        assert ad.compile(lambda a, b: L.solve(a, b))(np.eye(3), np.zeros((3, 0))).shape == (3, 0)


def test_without_a_lapack_the_error_says_what_to_install(other_library: Any) -> None:
    other_library(lambda: [])
    with pytest.raises(NoLowering, match=r"inv has no native code here: .*\n.*test_lapack\.py:\d+\n  pip install scipy"):
        ad.compile(lambda a: L.inv(a) + 2.0)(np.eye(2))
    assert ad.grad(lambda a: L.inv(a).sum())(np.eye(2)).shape == (2, 2)                   # eager needs none


def test_programs_name_the_routine_and_hold_no_address() -> None:
    graph = trace_graph(lambda a: [L.inv(a)], [aval_of(DEFINITE)])
    make_native(graph, {})
    second = make_native(graph, {})
    assert second.facts["cached"]
    f = ad.compile(lambda a: L.inv(a) * 3.0)
    f(DEFINITE)
    assert "call i64 @adjoint_lapack_solve(" in f.ir() and "inttoptr" not in f.ir()


def test_another_process_runs_the_cached_code() -> None:
    program = ("import numpy as np, adjoint as ad; f = ad.compile(lambda a: np.linalg.inv(a) - 5.0); "
               "print(f(np.diag([2.0, 4.0])).tolist(), f.programs[0].native.facts['cached'])")
    first, second = (subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == "[[-4.5, -5.0], [-5.0, -4.75]] False\n" and second == "[[-4.5, -5.0], [-5.0, -4.75]] True\n"


def test_a_loop_of_factorizations_is_one_program() -> None:
    def smoothed(a: Any) -> Any:
        for _ in range(3):
            a = 0.5 * (a + L.inv(a))                                                    # Newton's iteration for the sign of a
        return a
    f = ad.compile(ad.grad(lambda a: (smoothed(a) ** 2).sum()))
    np.testing.assert_allclose(f(DEFINITE[:4]), ad.grad(lambda a: (smoothed(a) ** 2).sum())(DEFINITE[:4]), rtol=1e-9, atol=1e-12)
