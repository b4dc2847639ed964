"""The table: importing this package registers every row."""

from . import arithmetic, contraction, operators, reduction, structure, transcendental

__all__ = ["arithmetic", "contraction", "operators", "reduction", "structure", "transcendental"]
