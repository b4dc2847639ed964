"""Only MPI's buffer calls: mpi4py's others pickle, and what arrives would be run."""

import ast
from pathlib import Path

import pytest

import adjoint.distributed

MODULES = sorted(Path(adjoint.distributed.__file__).parent.glob("mpi*.py"))
PICKLING = {"send", "ssend", "bsend", "isend", "issend", "ibsend", "recv", "irecv", "sendrecv", "bcast", "gather", "scatter", "allgather",
            "alltoall", "reduce", "allreduce", "scan", "exscan", "probe", "iprobe", "mprobe", "improbe"}


def called(tree):
    """Names of the methods that a module calls, on whatever."""
    return {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}


def test_every_name_is_one_of_mpi4py_and_its_buffer_call_is_used():
    mpi = pytest.importorskip("mpi4py.MPI", reason="there is no mpi4py here", exc_type=ImportError)
    assert not {name for name in PICKLING if not hasattr(mpi.Intracomm, name)}
    assert "Isend" in set().union(*(called(ast.parse(path.read_text())) for path in MODULES))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_of_mpi_calls_one_that_pickles(path):
    assert not called(ast.parse(path.read_text())) & PICKLING


def test_a_call_that_pickles_would_be_seen():
    assert called(ast.parse("comm.bcast(x)")) & PICKLING and not called(ast.parse("comm.Bcast(x)")) & PICKLING
