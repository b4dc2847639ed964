"""NumPy's names: importing this package lets plain NumPy code meet traced values. `adjoint.numpy` is also a namespace of its own.

Invariant: outside of a trace every name here is NumPy's. May import: L0-L2. Read next: registry.py, cells.py, docs/numpy.md.
"""

from . import dispatch, elementwise, indexing, methods, products, reductions, shaping

__all__ = ["dispatch", "elementwise", "indexing", "methods", "products", "reductions", "shaping"]
