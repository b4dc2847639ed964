"""Neural networks: layers, activations, losses and initial values; a model is a frozen tree on which every transformation works.

Invariant: names follow PyTorch, so that weights travel. May import: L0-L3. Read next: module.py.
"""

from . import init, random
from .activations import gelu, leaky_relu, relu, sigmoid, silu, softmax, softplus, tanh
from .dropout import Dropout, dropout
from .layers import Flatten, Linear, Sequential, mlp
from .losses import cross_entropy, logistic_loss, squared_error
from .modes import absorb, has_modes, trainable, training
from .module import Module, buffer, load_parameters, named_parameters

__all__ = ["Dropout", "Flatten", "Linear", "Module", "Sequential", "absorb", "buffer", "cross_entropy", "dropout", "gelu", "has_modes",
           "init", "leaky_relu", "load_parameters", "logistic_loss", "mlp", "named_parameters", "random", "relu", "sigmoid", "silu",
           "softmax", "softplus", "squared_error", "tanh", "trainable", "training"]
