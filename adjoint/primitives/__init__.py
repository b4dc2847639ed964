"""The table: importing this package registers every row."""

from . import (
    arithmetic,
    collective,
    comparison,
    contraction,
    convolution,
    cumulative,
    decompositions,
    indexing,
    linalg,
    operators,
    piecewise,
    pooling,
    reduction,
    sorting,
    special,
    structure,
    transcendental,
)

__all__ = ["arithmetic", "collective", "comparison", "contraction", "convolution", "cumulative", "decompositions", "indexing", "linalg",
           "operators", "piecewise", "pooling", "reduction", "sorting", "special", "structure", "transcendental"]
