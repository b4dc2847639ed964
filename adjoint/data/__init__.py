"""Data: files that are checked before they are believed, and mini-batches that resume to the same examples.

Invariant: everything here is NumPy arrays in, NumPy arrays out; no derivative, no compiler.
May import: errors. Read next: datasets.py, batches.py.
"""

from .batches import Batches
from .datasets import Dataset, load_digits, load_fashion_mnist

__all__ = ["Batches", "Dataset", "load_digits", "load_fashion_mnist"]
