"""Every example in a docstring runs, and every function that the package makes public has one."""

import doctest
import importlib
import inspect
import pkgutil
import types

import numpy as np
import pytest

import adjoint as ad

MODULES = sorted(found.name for found in pkgutil.walk_packages(ad.__path__, "adjoint.") if not found.name.endswith("__main__"))
PUBLIC = (ad, ad.data, ad.insight, ad.nn, ad.nn.init, ad.optim, ad.optim.schedules, ad.testing, ad.train, ad.tree)
# Records that functions return, and what writes to the disk, to the terminal or needs files of its own: shown in docs/training.md.
SHOWN_ELSEWHERE = {"Checkpoint", "CheckpointWarning", "Fit", "Optimizer", "Progress", "RunFolder", "Step", "Structure",
                   "Table", "load_cifar10", "load_fashion_mnist", "load_latest", "load_table", "load_tensors", "load_text",
                   "load_tiny_shakespeare", "save_latest", "survivors"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    printed = []
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    module = importlib.import_module(name)
    with np.printoptions(legacy=False):
        for test in finder.find(module, name):
            runner.run(test, out=printed.append)
    assert not printed, "".join(printed)


def public_functions():
    for package in PUBLIC:
        for name in getattr(package, "__all__", None) or vars(package):
            value = getattr(package, name)
            if name[0] != "_" and callable(value) and not isinstance(value, types.ModuleType) and name not in SHOWN_ELSEWHERE:
                if value.__module__.startswith("adjoint.") and not issubclass(value if inspect.isclass(value) else int, Exception):
                    yield value


@pytest.mark.parametrize("function", {f: None for f in public_functions() if f.__module__ != "adjoint.errors"},
                         ids=lambda f: f"{f.__module__}.{f.__qualname__}")
def test_public_functions_have_an_example(function):
    assert ">>>" in (inspect.getdoc(function) or ""), f"{function.__module__}.{function.__qualname__} has no example"
