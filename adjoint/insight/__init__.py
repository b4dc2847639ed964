"""Insight: what a training run did, as pictures that open anywhere.

Invariant: a report is one file without a network address in it, safe to open whatever the names in it are.
May import: errors, train.files. Read next: report.py.
"""

from .report import render, write_report

__all__ = ["render", "write_report"]
