"""The digest of sources: found through trees, closures and texts; it changes with code and not with words."""

import functools

import numpy as np
import pytest

from adjoint import nn, optim
from evidence import sources
from evidence.target import NAMES, target


def test_modules_are_found_through_trees_and_closures():
    model = nn.Sequential(nn.Linear(2, 3, rng=np.random.default_rng(0)), nn.relu)
    found = sources.modules_of([model, functools.partial(nn.cross_entropy, label_smoothing=0.1), optim.sgd(optim.schedules.cosine(0.1, 5))])
    assert {"adjoint.nn.layers", "adjoint.nn.activations", "adjoint.nn.losses", "adjoint.optim.schedules", "adjoint.optim.rule"} <= found
    assert all(sources.in_scope(name) for name in found)


def test_texts_lead_on_through_packages():
    found = sources.closure(["examples.lenet"])
    assert {"adjoint.nn.convolution", "adjoint.nn.pooling", "adjoint.nn.dropout", "adjoint.nn.init", "adjoint.nn.losses",
            "adjoint.optim.schedules"} <= set(found)
    assert not {"adjoint.nn", "adjoint.optim", "adjoint.nn.recurrent", "adjoint.nn.attention", "adjoint.optim.muon"} & set(found)


@pytest.mark.parametrize("name", NAMES)
def test_every_target_names_its_example_and_what_it_is_made_of(name):
    modules = sources.closure(sources.modules_of(list(target(name).sources())))
    assert any(module.startswith("examples.") for module in modules) and any(module.startswith("adjoint.") for module in modules)


TEXT = '''"""A module."""
import math  # why


class A:
    """Words.

    More words.
    """

    rate = 0.1      # a number

    def f(self, x):
        """Words."""
        return "# no comment" + x
'''
before_return = lambda text: TEXT.replace("        return", f"        {text}\n        return")
SAME = [TEXT.replace("Words.", "Other words."), TEXT.replace("# a number", "# the rate"), TEXT.replace("import math", "\n\nimport math"),
        TEXT.replace("  # why", ""), TEXT.replace("    More words.\n", "    More words,\n    and more.\n"),
        before_return("if x is None:\n            raise ValueError(\n                x)")]
OTHER = [TEXT.replace("0.1", "0.2"), TEXT.replace("# no comment", "# a comment"), TEXT.replace("+ x", "+ x + x"),
         TEXT.replace("import math", "import cmath"), before_return("if x is None:\n            x = 0"),
         before_return("if x is None:\n            raise ValueError(x)\n        else:\n            x = 0")]


def test_the_essence_is_the_code():
    assert all(sources.essence(text) == sources.essence(TEXT) for text in SAME)
    assert all(sources.essence(text) != sources.essence(TEXT) for text in OTHER)


def test_the_digest_changes_with_any_of_its_modules(monkeypatch):
    modules, text_of = ["adjoint.nn.losses", "adjoint.nn.module"], sources.text_of
    first = sources.digest(modules)
    assert first == sources.digest(modules[::-1]) != sources.digest(modules[:1])
    for changed in modules:
        monkeypatch.setattr(sources, "text_of", lambda name, changed=changed: text_of(name) + ("x = 1\n" if name == changed else ""))
        assert sources.digest(modules) != first
