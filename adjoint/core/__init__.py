"""What a program is: avals, rows, interpreters, graphs, traces, their text. No arithmetic is named here. Read next: aval.py."""

from . import pretty

__all__ = ["pretty"]
