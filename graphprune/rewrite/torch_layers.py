"""Attributes of the layers of ``torch.nn``: what their sizes are once tensors are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from graphprune.coupling.box import Box
from graphprune.rewrite.torch_attention import cut_attention
from graphprune.rules.edit import Kept

Own = Mapping[str, Box]  # cut tensors of a layer by the name they have in it


def fit_layer(root: nn.Module, path: str, own: Own) -> None:
    """Bring the attributes of a layer whose tensors are cut already in line with them.

    Layers of other classes than those of ``torch.nn`` are left alone.
    """
    layer: Any = root.get_submodule(path)
    if isinstance(layer, nn.MultiheadAttention):
        cut_attention(root, path, own)
        return
    for kind, fit in _FIT:
        if isinstance(layer, kind):
            fit(layer, own)
            return


def _conv(layer: Any, own: Own) -> None:
    """The groups left are those of whose leading kernel axis something is kept."""
    weight = layer.weight
    lead = next((b.axes[0] for n, b in own.items() if n.startswith("weight") and 0 in b.axes), None)
    if lead is not None and layer.groups > 1:
        old = layer.in_channels if layer.transposed else layer.out_channels
        layer.groups = _blocks(lead, old // layer.groups)
    rest = weight.shape[1] * layer.groups
    sizes = (weight.shape[0], rest) if layer.transposed else (rest, weight.shape[0])
    layer.in_channels, layer.out_channels = map(int, sizes)


def _blocks(kept: Kept, size: int) -> int:
    return len(np.unique(np.asarray(kept) // size))


def _linear(layer: Any, _: Own) -> None:
    layer.out_features, layer.in_features = map(int, layer.weight.shape)


def _bilinear(layer: Any, _: Own) -> None:
    layer.out_features, layer.in1_features, layer.in2_features = map(int, layer.weight.shape)


def _batch_norm(layer: Any, _: Own) -> None:
    tensor = layer.running_mean if layer.weight is None else layer.weight
    layer.num_features = int(tensor.shape[0])


def _layer_norm(layer: Any, _: Own) -> None:
    layer.normalized_shape = tuple(layer.weight.shape)


def _group_norm(layer: Any, own: Own) -> None:
    box = next(iter(own.values()))
    layer.num_groups = _blocks(box.axes[0], layer.num_channels // layer.num_groups)
    layer.num_channels = len(box.axes[0])


def _embedding(layer: Any, own: Own) -> None:
    rows = own["weight"].axes.get(0) if "weight" in own else None
    if rows is not None and layer.padding_idx is not None:
        place = np.flatnonzero(rows == layer.padding_idx)
        layer.padding_idx = int(place[0]) if place.size else None
    layer.num_embeddings, layer.embedding_dim = map(int, layer.weight.shape)


def _prelu(layer: Any, _: Own) -> None:
    layer.num_parameters = int(layer.weight.numel())


def _recurrent(layer: Any, _: Own) -> None:
    layer.input_size, layer.hidden_size = int(layer.weight_ih_l0.shape[1]), int(layer.weight_hh_l0.shape[1])
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    if layer.proj_size:
        layer.proj_size = layer.hidden_size
        layer.hidden_size = int(layer.weight_hh_l0.shape[0]) // gates
    layer._flat_weights = [getattr(layer, n, None) for n in layer._flat_weights_names]
    layer.flatten_parameters()


def _cell(layer: Any, _: Own) -> None:
    layer.input_size, layer.hidden_size = int(layer.weight_ih.shape[1]), int(layer.weight_hh.shape[1])


_Fit = Callable[[Any, Own], None]
_FIT: tuple[tuple[Any, _Fit], ...] = (
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.GroupNorm, _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
)
