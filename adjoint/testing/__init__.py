"""Checks that any test suite can use: `check_grads` for functions, `check_row` for primitives, `survivors` for the checks themselves."""

from .gradients import check_grads
from .mutants import survivors
from .rows import check_row

__all__ = ["check_grads", "check_row", "survivors"]
