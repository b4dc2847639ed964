"""Attention: every position reads from all others, by the softmax of how well its query fits their keys.

Invariant: a position that is masked out has weight exactly 0, and neither its value nor its gradient reaches the result.
May import: L0-L3, module, init, dropout, layers. Read next: recurrent.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import ConfigError, DtypeError, ShapeError, explain
from ..transforms.custom import stop_gradient
from . import init
from .dropout import dropout as _dropout
from .layers import Linear, sizes
from .module import Module


def scaled_dot_product_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *, is_causal: bool = False,
                                 scale: float | None = None) -> Any:
    """y = softmax(scale Q K^T + mask) V, the softmax over keys; scale: 1 / sqrt(d) unless given.

    Shapes: query [..., L, d], key [..., S, d], value [..., S, e], y [..., L, e]. attn_mask, broadcast to [..., L, S]: boolean, True where
    a key takes part (PyTorch's), or numbers that are added. is_causal: query i sees keys 0..i. A query that sees no key gets 0.
    Cost: 2 L S (d + e) flops a head. Source: Vaswani et al., Attention is all you need, NeurIPS 2017, arXiv 1706.03762, eq. 1.

    >>> x = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    >>> scaled_dot_product_attention(np.zeros((3, 2)), x, x, is_causal=True)
    array([[0., 1.],
           [1., 2.],
           [2., 3.]])
    """
    return attention_weights(query, key, attn_mask, is_causal=is_causal, scale=scale) @ value


def attention_weights(query: Any, key: Any, attn_mask: Any = None, *, is_causal: bool = False, scale: float | None = None) -> Any:
    """softmax(scale Q K^T + mask) over keys, [..., L, S]: each row sums to 1, or is 0 where nothing may be seen.

    >>> attention_weights(np.zeros((2, 1)), np.zeros((4, 1)), np.array([True, False, False, True]))
    array([[0.5, 0. , 0. , 0.5],
           [0.5, 0. , 0. , 0.5]])
    """
    features = np.shape(query)[-1]
    if np.shape(key)[-1] != features:
        raise ShapeError(explain(f"attention: queries {np.shape(query)} and keys {np.shape(key)} differ in their last axis.",
                                 remedy="Both are projected to the same number of features per head."))
    scores = (query * (1.0 / math.sqrt(features) if scale is None else scale)) @ np.swapaxes(key, -1, -2)
    length, seen = np.shape(scores)[-2:]
    if is_causal:
        causal = np.arange(length)[:, None] >= np.arange(seen)
        if attn_mask is None:                                       # every query sees key 0: no row is empty
            return _normalized(np.where(causal, scores, -np.inf), 0.0)
        attn_mask = attn_mask & causal if _boolean(attn_mask) else np.where(causal, attn_mask, -np.inf)
    if attn_mask is None:
        return _normalized(scores, 0.0)
    if _boolean(attn_mask):
        return _normalized(np.where(attn_mask, scores, -np.inf), 1.0)
    return _normalized(scores + attn_mask, 1.0)


def _boolean(mask: Any) -> bool:
    return aval_of(mask).dtype.kind == "b"


def _normalized(scores: Any, guard: float) -> Any:
    """softmax along the last axis. guard 1: rows of minus infinity alone give 0 (their sum 0 is replaced), as masked rows must."""
    top = stop_gradient(np.max(scores, axis=-1, keepdims=True))
    if guard:
        top = np.where(top > -np.inf, top, 0.0)
    e = np.exp(scores - top)
    total = np.sum(e, axis=-1, keepdims=True)
    return e / (np.where(total > 0, total, guard) if guard else total)


class MultiheadAttention(Module):
    """num_heads attentions side by side on parts of the features: y = W_out [head_1, ..., head_n], head_i of W_q x, W_k x, W_v x.

    Shapes: query [L, batch, embed_dim], key and value [S, batch, embed_dim] (batch first with batch_first; without batch too);
    in_proj_weight [3 embed_dim, embed_dim] (queries, keys, values), in_proj_bias, out_proj.weight, out_proj.bias as PyTorch's.
    Called as (query, key, value, key_padding_mask=, need_weights=, attn_mask=, is_causal=) it returns (y, weights averaged over heads
    [batch, L, S], or None). Masks as PyTorch's layer has them: boolean, True where a key must NOT be seen ([batch, S] and [L, S]), or
    numbers to add. dropout: share of weights left out in training mode. Source: Vaswani et al., arXiv 1706.03762, section 3.2.2.

    Example:
        >>> layer = MultiheadAttention(4, 2, batch_first=True, rng=np.random.default_rng(0))
        >>> x = np.ones((2, 3, 4), np.float32)
        >>> y, weights = layer(x, x, x)
        >>> y.shape, weights.shape
        ((2, 3, 4), (2, 3, 3))
    """

    in_proj_weight: np.ndarray
    in_proj_bias: np.ndarray | None
    out_proj: Linear
    num_heads: int
    dropout: float
    batch_first: bool
    key: np.ndarray | None

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, *, batch_first: bool = False,
                 rng: np.random.Generator, dtype: Any = np.float32) -> None:
        sizes("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ConfigError(explain(f"MultiheadAttention: {embed_dim} features cannot be shared by {num_heads} heads.",
                                      remedy="Choose num_heads that divides embed_dim."))
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(explain(f"MultiheadAttention: dropout is {dropout!r}, expected a share from 0 to below 1.",
                                      remedy="0.1 is usual."))
        out = Linear(embed_dim, embed_dim, bias, rng=rng, dtype=dtype)
        self._place(in_proj_weight=init.xavier_uniform((3 * embed_dim, embed_dim), rng, dtype=dtype),
                    in_proj_bias=np.zeros(3 * embed_dim, dtype) if bias else None,
                    out_proj=_without_bias_values(out), num_heads=num_heads, dropout=float(dropout), batch_first=batch_first, key=None)

    def training(self, path: str, key: Any) -> MultiheadAttention:
        """The layer that leaves out weights, drawn by this key."""
        if key is None and self.dropout > 0.0:
            raise ConfigError(explain(f"MultiheadAttention ({path or 'the model'}): training needs a key of random numbers.",
                                      remedy="nn.training(model, key=np.array([seed, step]))"))
        layer = MultiheadAttention.__new__(MultiheadAttention)
        layer._place(**{**self.__dict__, "key": key if self.dropout > 0.0 else None})
        return layer

    def __call__(self, query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: bool = True,
                 attn_mask: Any = None, *, is_causal: bool = False) -> tuple:
        self._check(query, key, value)
        batched = np.ndim(query) == 3
        inputs = [x if batched else x[None] for x in (query, key, value)]
        if batched and not self.batch_first:
            inputs = [np.swapaxes(x, 0, 1) for x in inputs]
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask[None]
        self._fit([np.shape(x) for x in inputs], np.shape(key_padding_mask), np.shape(attn_mask))
        weights = self._weights(*inputs[:2], key_padding_mask, attn_mask, is_causal)
        used = weights if self.key is None else _dropout(weights, self.dropout, self.key)
        heads = np.swapaxes(used @ self._heads(inputs[2], 2), 1, 2)
        y = self.out_proj(heads.reshape((*np.shape(heads)[:2], -1)))
        average = np.mean(weights, axis=1) if need_weights else None
        if not batched:
            return y[0], average if average is None else average[0]
        return y if self.batch_first else np.swapaxes(y, 0, 1), average

    def _heads(self, x: Any, part: int) -> Any:
        """Queries (part 0), keys (1) or values (2) of all heads: [batch, heads, length, features of a head]."""
        width = self.out_proj.weight.shape[0]
        rows = slice(part * width, (part + 1) * width)
        y = x @ self.in_proj_weight[rows].T
        y = y if self.in_proj_bias is None else y + self.in_proj_bias[rows]
        return np.swapaxes(y.reshape((*np.shape(x)[:2], self.num_heads, -1)), 1, 2)

    def _weights(self, query: Any, key: Any, padding: Any, mask: Any, is_causal: bool) -> Any:
        masks = [m for m in (None if padding is None else padding[:, None, None, :], self._per_head(mask)) if m is not None]
        if all(_boolean(m) for m in masks):
            allowed = [~m for m in masks]
            merged = allowed[0] & allowed[1] if len(masks) == 2 else (allowed[0] if masks else None)
        else:
            numbers = [np.where(m, -np.inf, 0.0).astype(aval_of(query).dtype) if _boolean(m) else m for m in masks]
            merged = numbers[0] + numbers[1] if len(masks) == 2 else numbers[0]
        return attention_weights(self._heads(query, 0), self._heads(key, 1), merged, is_causal=is_causal)

    def _per_head(self, mask: Any) -> Any:
        """[L, S] for all, or [batch heads, L, S] as PyTorch gives one for each head."""
        return mask if mask is None or np.ndim(mask) == 2 else mask.reshape((-1, self.num_heads, *np.shape(mask)[1:]))

    def _fit(self, shapes: list[tuple], padding: tuple, mask: tuple) -> None:
        """Refuse keys without values, another batch, and masks of other lengths; shapes are [batch, length, features]."""
        (batch, length, _), (key_batch, seen, _), value = shapes
        if shapes[1] != value or batch != key_batch:
            raise ShapeError(explain(f"MultiheadAttention: as [batch, length, features] queries are {shapes[0]}, keys {shapes[1]}, values "
                                     f"{value}, expected one batch, and a value for each key.", remedy="Check batch_first."))
        if padding and padding != (batch, seen):
            raise ShapeError(explain(f"MultiheadAttention: key_padding_mask is {padding}, expected ({batch}, {seen}).",
                                     remedy="One entry per sequence and key: [batch, S]."))
        if mask and mask not in ((length, seen), (batch * self.num_heads, length, seen)):
            raise ShapeError(explain(f"MultiheadAttention: attn_mask is {mask}, expected ({length}, {seen}), or one for each head: "
                                     f"({batch * self.num_heads}, {length}, {seen}).", remedy="One entry per query and key: [L, S]."))

    def _check(self, query: Any, key: Any, value: Any) -> None:
        width, shapes = self.out_proj.weight.shape[0], [np.shape(x) for x in (query, key, value)]
        if any(len(s) not in (2, 3) or len(s) != len(shapes[0]) or s[-1] != width for s in shapes):
            raise ShapeError(explain(f"MultiheadAttention: query, key and value are {', '.join(map(str, shapes))}, expected 2 or 3 axes "
                                     f"each, the last of {width} features.", remedy="Give [length, batch, features], or set batch_first."))
        for name, x in (("query", query), ("key", key), ("value", value)):
            if aval_of(x).dtype.kind != "f":
                raise DtypeError(explain(f"MultiheadAttention: {name} is {aval_of(x).dtype}, expected floating point numbers.",
                                         remedy="Embed the symbols first: nn.Embedding."))


def _without_bias_values(layer: Linear) -> Linear:
    """The same layer with its bias at zero: PyTorch's attention starts so."""
    zeroed = Linear.__new__(Linear)
    zeroed._place(weight=layer.weight, bias=None if layer.bias is None else np.zeros_like(layer.bias))
    return zeroed
