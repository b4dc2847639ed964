"""Neural networks: layers, activations, losses and initial values; a model is a frozen tree on which every transformation works.

Invariant: names follow PyTorch, so that weights travel. May import: L0-L3. Read next: module.py.
"""

from . import init, random
from .activations import gelu, leaky_relu, relu, sigmoid, silu, softmax, softplus, tanh
from .attention import MultiheadAttention, scaled_dot_product_attention
from .convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, conv, conv_transpose
from .dropout import Dropout, dropout
from .embedding import Embedding, one_hot
from .layers import Flatten, Linear, Sequential, mlp
from .losses import cross_entropy, logistic_loss, squared_error
from .modes import absorb, has_modes, trainable, training
from .module import Module, buffer, load_parameters, named_parameters
from .normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm, RMSNorm
from .pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    max_pool,
)
from .recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GroupNorm",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "LocalResponseNorm",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "MultiheadAttention",
    "RMSNorm",
    "RNNCell",
    "Sequential",
    "absorb",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "buffer",
    "conv",
    "conv_transpose",
    "cross_entropy",
    "dropout",
    "gelu",
    "has_modes",
    "init",
    "leaky_relu",
    "load_parameters",
    "logistic_loss",
    "max_pool",
    "mlp",
    "named_parameters",
    "one_hot",
    "random",
    "relu",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "squared_error",
    "tanh",
    "trainable",
    "training",
]
