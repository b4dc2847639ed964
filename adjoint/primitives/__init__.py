"""The table: importing this package registers every row."""

from . import (
    arithmetic,
    comparison,
    contraction,
    cumulative,
    indexing,
    operators,
    piecewise,
    reduction,
    sorting,
    special,
    structure,
    transcendental,
)

__all__ = ["arithmetic", "comparison", "contraction", "cumulative", "indexing", "operators", "piecewise", "reduction", "sorting",
           "special", "structure", "transcendental"]
