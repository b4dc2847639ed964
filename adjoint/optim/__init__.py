"""Optimizers: update rules as pairs of pure functions, composed by `chain`, driven by schedules.

Invariant: an optimizer is `init` and `update`; the state is a tree that compiles, travels and is saved like a model.
May import: L0-L4, nn. Read next: rule.py.
"""

from . import schedules
from .adam import adam, adamw, amsgrad, lion, scale_by_adam, scale_by_amsgrad, scale_by_lion
from .adaptive import (
    adadelta,
    adagrad,
    full_adagrad,
    rmsprop,
    scale_by_adadelta,
    scale_by_adagrad,
    scale_by_full_adagrad,
    scale_by_rms,
)
from .clipping import clip_adaptively, clip_by_global_norm, clip_by_value, global_norm
from .grouping import accumulate, masked, partition
from .lbfgs import Minimum, minimize
from .momentum import average_of, gd, heavy_ball, momentum_of, nesterov, sgd
from .muon import muon, orthogonalize, scale_by_muon
from .plateau import observe, plateau, rate_now
from .projection import Best, Descent, ball, best_of, box, keep_best, project, simplex, subgradient_descent
from .rule import Optimizer, apply_updates, chain, matrices
from .scaling import add_weight_decay, scale, scale_by_learning_rate
from .schedule_free import evaluation_parameters, schedule_free_adamw
from .sharpness import sam, sharpness_aware

__all__ = ["Best", "Descent", "Minimum", "Optimizer", "accumulate", "adadelta", "adagrad", "adam", "adamw", "add_weight_decay", "amsgrad",
           "apply_updates", "average_of", "ball", "best_of", "box", "chain", "clip_adaptively", "clip_by_global_norm", "clip_by_value",
           "evaluation_parameters", "full_adagrad", "gd", "global_norm", "heavy_ball", "keep_best", "lion", "masked", "matrices",
           "minimize", "momentum_of", "muon", "nesterov", "observe", "orthogonalize", "partition", "plateau", "project", "rate_now",
           "rmsprop", "sam", "scale", "scale_by_adadelta", "scale_by_adagrad", "scale_by_adam", "scale_by_amsgrad",
           "scale_by_full_adagrad", "scale_by_learning_rate", "scale_by_lion", "scale_by_muon", "scale_by_rms", "schedule_free_adamw",
           "schedules", "sgd", "sharpness_aware", "simplex", "subgradient_descent"]
