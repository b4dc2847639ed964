"""Neural networks: layers, activations, losses and initial values; a model is a frozen tree on which every transformation works.

Invariant: names follow PyTorch, so that weights travel. May import: L0-L3. Read next: module.py.
"""

from . import init
from .activations import gelu, leaky_relu, relu, sigmoid, silu, softmax, softplus, tanh
from .layers import Flatten, Linear, Sequential, mlp
from .losses import cross_entropy, logistic_loss, squared_error
from .module import Module, load_parameters, named_parameters

__all__ = ["Flatten", "Linear", "Module", "Sequential", "cross_entropy", "gelu", "init", "leaky_relu", "load_parameters",
           "logistic_loss", "mlp", "named_parameters", "relu", "sigmoid", "silu", "softmax", "softplus", "squared_error", "tanh"]
