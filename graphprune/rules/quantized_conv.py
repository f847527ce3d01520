"""Convolutions and pools of integers: the terms are (x - zero point)·(w - zero point)."""

from __future__ import annotations

from functools import partial

from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.conv import conv_groups, convolution, spatial
from graphprune.rules.reduce import global_pool
from graphprune.rules.registry import rule

_LAST = "channels on the last axis are not supported"


def _refuse_channels_last(r: Relate) -> None:
    if r.attr("channels_last", 0):
        raise Unsupported(_LAST)


@rule("QLinearConv", "com.microsoft.QLinearConv", kind="GROUPED", edit=partial(conv_groups, weight=3))
def qlinear_conv(r: Relate) -> None:
    """x, w and y with scale and zero point each, then an int32 bias; those of w may be per output channel."""
    _refuse_channels_last(r)
    convolution(r, 3, (4, 5, 6, 7, 8))
    r.contract(0, 1, fill=2)


@rule("ConvInteger", kind="GROUPED", edit=conv_groups)
def conv_integer(r: Relate) -> None:
    """x, w and their zero points; the sum is int32."""
    convolution(r, 1, (3,))
    r.contract(0, 1, fill=2)


@rule("com.microsoft.QLinearAveragePool", kind="REDUCE")
def average_pool(r: Relate) -> None:
    """Windows on the spatial axes only; channels pass."""
    _refuse_channels_last(r)
    r.out(spatial(r, r.axis(0, 1)))


@rule("com.microsoft.QLinearGlobalAveragePool", kind="REDUCE")
def global_average(r: Relate) -> None:
    """All axes from 2 on are reduced to one position."""
    _refuse_channels_last(r)
    global_pool(r)
