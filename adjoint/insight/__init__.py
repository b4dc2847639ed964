"""Insight: what a training run did, as pictures that open anywhere; and what every layer does to signals and gradients.

Invariant: a report is one file without a network address in it, safe to open whatever the names in it are.
May import: L0-L5, train.files. Read next: report.py, layers.py.
"""

from .layers import LayerFacts, layer_analysis, layer_table
from .report import render, write_report

__all__ = ["LayerFacts", "layer_analysis", "layer_table", "render", "write_report"]
