"""Optimizers: update rules as pairs of pure functions, composed by `chain`, driven by schedules.

Invariant: an optimizer is `init` and `update`; the state is a tree that compiles, travels and is saved like a model.
May import: L0-L3. Read next: rule.py.
"""

from . import schedules
from .rule import Optimizer, apply_updates, chain
from .rules import (
    adagrad,
    adam,
    adamw,
    add_weight_decay,
    clip_by_global_norm,
    global_norm,
    momentum_of,
    rmsprop,
    scale,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_rms,
    sgd,
)

__all__ = ["Optimizer", "adagrad", "adam", "adamw", "add_weight_decay", "apply_updates", "chain", "clip_by_global_norm", "global_norm",
           "momentum_of", "rmsprop", "scale", "scale_by_adagrad", "scale_by_adam", "scale_by_learning_rate", "scale_by_rms", "schedules",
           "sgd"]
