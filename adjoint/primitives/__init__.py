"""The table: importing this package registers every row."""

from . import (arithmetic, comparison, contraction, operators, piecewise, reduction, special, structure, transcendental)  # noqa: I001

__all__ = ["arithmetic", "comparison", "contraction", "operators", "piecewise", "reduction", "special", "structure", "transcendental"]
