"""The way into a compiled function for trees of arguments: what matches node by node, and what leaks. Both entries."""

import collections
import dataclasses
import gc
import sys
from typing import NamedTuple

import native_programs as programs
import numpy as np
from entries import F8, I8, SLOW, entry_of, plus_one, run_in_thread, specialize

from adjoint.compiler.signature import (
    Array,
    Fresh,
    Named,
    Record,
    Scalar,
    Signature,
    Static,
    is_readable,
    tree_of,
)
from adjoint.tree import flatten


@dataclasses.dataclass(frozen=True)
class Layer:
    weight: object
    bias: object
    size: int
    name: str
    rate: float
    act: object = np.tanh


class Pair(NamedTuple):
    first: object
    second: object


def layer(**changes):
    values = {"weight": np.arange(2.0), "bias": np.arange(3.0), "size": 10**6, "name": "".join(["hid", "den"]), "rate": 0.5 + 0.25}
    return Layer(**{**values, **changes})


def tree_entry(route):
    """f([layer, {"k": (a, 2.0)}], pair) -> a tree of copies, of every kind of node."""
    statics = [Static(10**6), Static("hidden"), Static(0.75), Static(np.tanh)]
    argument = [Record(Layer, ("weight", "bias", "size", "name", "rate", "act"), (Array(F8, (2,), 0), Array(F8, (3,), 1), *statics)),
                {"k": (Array(F8, (), 2), Scalar(float, F8, 3))}]
    pair = Named(Pair, (Array(F8, (1,), 4), Static(None)))
    names = ("weight", "bias", "size", "name", "rate", "act")
    results = {"layer": Record(Layer, names, (Fresh(F8, (2,), 5), Fresh(F8, (3,), 6), *statics)),
               "pair": Named(Pair, ([Fresh(F8, (), 7)], (Fresh(F8, (), 8), Fresh(F8, (1,), 9))))}
    return entry_of(route, programs.copy_bytes([16, 24, 8, 8, 8]), Signature((argument, pair), results, 10))


def tree_arguments(**changes):
    return [layer(**changes), {"k": (np.array(5.0), 2.0)}], Pair(np.array([7.0]), None)


def test_trees_of_arguments(route):
    f = tree_entry(route).call
    for _ in range(3):
        result = f(*tree_arguments())
        made = result["layer"]
        assert type(made) is Layer and made.weight.tolist() == [0, 1] and made.bias.tolist() == [0, 1, 2]
        assert (made.size, made.name, made.rate, made.act) == (10**6, "hidden", 0.75, np.tanh)
        assert type(result["pair"]) is Pair and result["pair"].first == [5.0] and result["pair"].second[0] == 2.0
        assert result["pair"].second[1].tolist() == [7.0]


def test_trees_that_differ_go_the_slow_path(route):
    f = tree_entry(route).call
    (first, second), pair = tree_arguments()

    class Other(Layer):
        pass

    other = Other(**{name: getattr(first, name) for name in first.__dataclass_fields__})
    torn = layer()
    object.__delattr__(torn, "weight")
    k = second["k"]
    wrong = [
        ([layer(size=7), second], pair), ([layer(name="other"), second], pair), ([layer(rate=0.5), second], pair),
        ([layer(act=np.sin), second], pair), ([layer(size=1e6), second], pair), ([layer(size=True), second], pair),
        ([layer(size=10**30), second], pair), ([layer(weight=np.arange(3.0)), second], pair), ([layer(weight=None), second], pair),
        ([other, second], pair), ([torn, second], pair), ([Layer, second], pair), ([first], pair), ([first, second, 1], pair),
        ((first, second), pair), ([first, {}], pair), ([first, {"j": k}], pair), ([first, {"k": k, "j": 1}], pair),
        ([first, {"k": [*k]}], pair), ([first, {"k": (k[0], 2)}], pair), ([first, collections.OrderedDict(k=k)], pair),
        ([first, second], tuple(pair)), ([first, second], Pair(pair.first, 0)), ([first, second], None), (first, pair), (None, None),
    ]
    for args in wrong:
        assert f(*args)[1] == args
    assert not isinstance(f([first, second], pair), tuple)


def test_trees_leak_no_reference(route):
    f = tree_entry(route).call
    args = tree_arguments()
    wrong = (args[0], Pair(np.zeros(2), None))
    objects = [args[0], args[0][0], args[0][0].weight, args[0][1], args[0][1]["k"], args[1], args[1].first, Layer, Pair]
    counts = []
    for _ in range(2):
        for _ in range(300):
            f(*args)
            f(*wrong)
        gc.collect()
        counts.append([sys.getrefcount(o) for o in objects])
    assert counts[0] == counts[1]


def test_list_changed_during_a_call_keeps_its_arrays_alive():
    """The program reads an array that the list lost meanwhile."""
    entry = entry_of(True, programs.waiting(6), Signature(([Array(I8, (1,), 0)],), Fresh(F8, (6,), 1), 2), release_gil=True)
    box_of_flag = [np.zeros(1, I8)]
    flag = box_of_flag[0]
    thread, box = run_in_thread(entry.call, box_of_flag)
    while not entry.specializations[0].busy:
        pass
    before = sys.getrefcount(flag)
    box_of_flag.clear()
    assert sys.getrefcount(flag) == before - 1 >= 3
    flag[0] = 1
    thread.join(10)
    assert np.array_equal(box[0], np.full(6, 7.0))


def test_attribute_that_is_computed_after_all(route):
    """A property put on the class later calls the function itself and changes the chain, while arguments are being read."""
    class Field:
        pass

    entry = plus_one(route)
    special = specialize(programs.add_one(6), Signature((Record(Field, ("x",), (Array(F8, (6,), 0),)),), Fresh(F8, (6,), 1), 2))
    entry.add(special)
    field, calls = Field(), []
    field.x = np.zeros(6)
    assert entry.call(field)[0] == 1

    def computed(_):
        calls.append(entry.call(np.full(6, 5.0))[0])
        for old in entry.specializations:
            entry.remove(old)
        gc.collect()
        return np.full(6, 3.0)

    Field.x = property(computed)
    assert entry.call(field)[0] == 4 and calls[0] == 6
    assert entry.call(field)[0] == SLOW


def test_readable_trees():
    class Computed:
        @property
        def x(self):
            return 1

    class Dynamic:
        def __getattr__(self, name):
            return 1

    class Slotted:
        __slots__ = ("x",)

    class Plain:
        x = np.tanh

    leaf = Array(F8, (), 0)
    assert is_readable(Record(Plain, ("x",), (leaf,))) and is_readable(Record(Slotted, ("x",), (leaf,)))
    assert not is_readable([Record(Computed, ("x",), (leaf,))]) and not is_readable(({"a": Record(Dynamic, ("x",), (leaf,))},))
    assert is_readable({"a": leaf, 1: leaf}) and not is_readable({(1, 2): leaf})


def test_signature_tree_of_a_structure():
    tree = {"b": [1.0, np.zeros(2)], "a": (Pair(np.ones(1), "word"), layer())}
    leaves, structure = flatten(tree)
    found = tree_of(structure, range(len(leaves)))
    assert list(found) == ["a", "b"] and found["b"] == [5, 6] and type(found["a"]) is tuple
    pair, record = found["a"]
    assert pair.type is Pair and pair.children[0] == 0 and pair.children[1].value == "word"
    assert record.type is Layer and record.names == ("weight", "bias", "size", "name", "rate", "act")
    assert record.children[:3] == (1, 2, 3) and record.children[3].value == "hidden" and record.children[4] == 4
