"""``nn.MultiheadAttention`` whose heads are no longer as wide together as what goes in.

PyTorch's own layer takes the width of the heads and the attention scale from the width of the query. Once heads,
head dims or the residual stream lose channels these are different numbers, so the layer gets a subclass that knows
them apart. Parameters, names and the signature stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from graphprune.coupling.box import Box
from graphprune.errors import InputError
from graphprune.rules.edit import Kept


class PrunedMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention with head sizes and scale of its own.

    Attributes:
        scale: Factor of the attention scores, from the original head size.
        widths: Numbers of rows of the projections of query, key and value.
    """

    scale: float
    widths: tuple[int, int, int]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002 - the signature of the original
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: FBT001, FBT002
    ) -> tuple[Tensor, Tensor | None]:
        """As in ``nn.MultiheadAttention``."""
        alone = query.dim() == 2
        if alone:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        causal = is_causal and key_padding_mask is None and not need_weights
        q, k, v = self._projected(query, key, value)
        mask = self._mask(None if causal else attn_mask, key_padding_mask, q, k.shape[2])
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            out = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal, scale=self.scale)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if alone:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Query, key and value as (batch, heads, tokens, dims), with the extra tokens that the layer may add."""
        if self.in_proj_weight is not None:
            weights = torch.split(self.in_proj_weight, list(self.widths))
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = [None] * 3 if self.in_proj_bias is None else torch.split(self.in_proj_bias, list(self.widths))
        out = []
        extra = (None, self.bias_k, self.bias_v)
        for slot, x in enumerate((query, key, value)):
            token = extra[slot]
            projected = F.linear(x, weights[slot], biases[slot])
            if token is not None:
                projected = torch.cat([projected, token.expand(len(projected), -1, -1)], dim=1)
            if self.add_zero_attn and slot:
                projected = F.pad(projected, (0, 0, 0, 1))
            out.append(torch.unflatten(projected, 2, (self.num_heads, -1)).transpose(1, 2))
        return out

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor, keys: int) -> Tensor | None:
        """What is added to the scores, of shape (batch or 1, heads or 1, queries or 1, keys)."""
        parts = []
        if mask is not None:
            parts.append(mask[None, None] if mask.dim() == 2 else torch.unflatten(mask, 0, (-1, self.num_heads)))
        if padding is not None:
            parts.append(padding[:, None, None])
        total: Tensor | None = None
        for part in parts:
            if part.dtype == torch.bool:
                part = torch.zeros_like(part, dtype=q.dtype).masked_fill_(part, float("-inf"))  # noqa: PLW2901
            part = F.pad(part, (0, keys - part.shape[-1]))  # noqa: PLW2901 - tokens that the layer adds are seen
            total = part if total is None else total + part
        return total


def cut_attention(root: nn.Module, path: str, own: Mapping[str, Box]) -> None:
    """Bring an attention layer in line with its cut tensors.

    Raises:
        InputError: The layer is a subclass with a forward of its own, or its heads are left with different sizes.
    """
    layer = root.get_submodule(path)
    assert isinstance(layer, nn.MultiheadAttention)
    width, head = layer.embed_dim, layer.head_dim
    rows = _rows(layer, own)
    heads = {len(np.unique(r // head)) for r in rows}
    count = heads.pop()
    if heads or any(len(r) % count for r in rows):
        raise InputError(f"the heads of {path} are left with different sizes")
    known = isinstance(layer, PrunedMultiheadAttention)
    if type(layer) is not nn.MultiheadAttention and not known:
        raise InputError(f"{path} is a {type(layer).__name__}, a subclass of nn.MultiheadAttention")
    scale = layer.scale if isinstance(layer, PrunedMultiheadAttention) else 1 / math.sqrt(head)
    layer.num_heads, layer.head_dim = count, len(rows[0]) // count
    weights = [layer.in_proj_weight] * 3
    if layer.in_proj_weight is None:
        weights = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
    layer.embed_dim, layer.kdim, layer.vdim = (int(w.shape[1]) for w in weights)
    same = all(len(r) == layer.embed_dim for r in rows) and layer.head_dim == head
    if known or not same or width % head:
        layer.__class__ = PrunedMultiheadAttention
        assert isinstance(layer, PrunedMultiheadAttention)
        layer.scale, layer.widths = scale, (len(rows[0]), len(rows[1]), len(rows[2]))
        layer._qkv_same_embed_dim = False  # else encoder layers run a kernel of their own on the parameters
        for encoder in root.modules():  # which would hand on nested tensors, made for that kernel
            if isinstance(encoder, nn.TransformerEncoder) and any(m is layer for m in encoder.modules()):
                encoder.use_nested_tensor = False


def _rows(layer: nn.MultiheadAttention, own: Mapping[str, Box]) -> list[Kept]:
    """Kept rows of the projections of query, key and value, each counted from its own first row."""
    widths = layer.widths if isinstance(layer, PrunedMultiheadAttention) else (layer.embed_dim,) * 3
    starts = np.cumsum((0, *widths))
    packed = own.get("in_proj_weight")
    if packed is None and layer.in_proj_weight is None:
        boxes = [own.get(f"{name}_proj_weight") for name in "qkv"]
        found = [None if box is None else box.axes.get(0) for box in boxes]
    else:
        kept = None if packed is None else packed.axes.get(0)
        ranges = pairwise(starts)
        found = [None if kept is None else kept[(kept >= a) & (kept < b)] - a for a, b in ranges]
    return [np.arange(n) if kept is None else kept for kept, n in zip(found, widths, strict=True)]
