"""Control flow by values: cond, while_loop, fori_loop, scan. Each traces its functions once, and is one row with Graph params.

Invariant: they nest in every order under every transformation, and compile to native loops and branches inside the one call.
May import: L0-L2, branches, scan, while_loops. Read next: scan.py.
"""

from .branches import cond
from .scan import scan
from .while_loops import fori_loop, while_loop

__all__ = ["cond", "fori_loop", "scan", "while_loop"]
