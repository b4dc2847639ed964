"""Entries to try: small native programs with their signatures, for the tests of the way into a compiled function."""

import threading

import native_programs as programs
import numpy as np

from adjoint.compiler.entry import Entry, Specialization
from adjoint.compiler.signature import (
    Array,
    Fresh,
    Handle,
    Held,
    Scalar,
    Signature,
)

F8, F4, I8, I4, U1, B1 = (np.dtype(code) for code in ("f8", "f4", "i8", "i4", "u1", "?"))
SLOW = "slow"


class Failed(Exception):
    pass


def on_error(status):
    raise Failed(status)


def slow(*args, **kwargs):
    return SLOW, args, kwargs


def specialize(text, signature, **options):
    code = programs.code_of(text)
    return Specialization(signature, code["program"], on_error, owner=code, **options)


def entry_of(route, text, signature, **options):
    entry = Entry(slow, native=route)
    entry.add(specialize(text, signature, **options))
    return entry


def plus_one(route, size=6, shape=None):
    return entry_of(route, programs.add_one(size),
                    Signature((Array(F8, shape or (size,), 0),), Fresh(F8, shape or (size,), 1), 2))


class Tree:
    def __init__(self, leaf):
        self.leaf = leaf


def step_entry(route):
    signature = Signature((Handle(0), Handle(1), Array(F8, (6,), 1), Scalar(float, F8, 2)),
                          (Held(0), Held(1), Fresh(F8, (), 3)), 4, slots=2)
    entry = entry_of(route, programs.axpy_step(6), signature, exclusive=True)
    special, model, state = entry.specializations[0], Tree(np.zeros(6)), Tree(None)
    special.hold(0, model, {0: model.leaf})
    special.hold(1, state, {})
    return entry, model, state


def run_in_thread(function, *args):
    box = []
    thread = threading.Thread(target=lambda: box.append(function(*args)))
    thread.start()
    return thread, box
