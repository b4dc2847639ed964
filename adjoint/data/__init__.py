"""Data: files that are checked before they are believed, mini-batches and augmentation that resume to the same examples.

Invariant: everything here is NumPy arrays in, NumPy arrays out; no derivative, no compiler.
May import: errors. Read next: datasets.py, batches.py, augmentation.py.
"""

from .augmentation import Flip, InTurn, Shift
from .batches import Batches
from .cifar import load_cifar10
from .datasets import Dataset, load_digits, load_fashion_mnist
from .normalization import Normalization
from .tables import Table, load_table
from .text import Text, load_text, load_tiny_shakespeare

__all__ = ["Batches", "Dataset", "Flip", "InTurn", "Normalization", "Shift", "Table", "Text", "load_cifar10", "load_digits",
           "load_fashion_mnist", "load_table", "load_text", "load_tiny_shakespeare"]
