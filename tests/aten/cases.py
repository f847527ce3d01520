"""Cases of PyTorch's operators: products, windows, norms, reductions, attention, recurrent layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.aten.case import Case, case

PRODUCTS: list[Case] = [
    case("linear", F.linear, "nti", "=oi", "=o"),
    case("linear of a vector", F.linear, "ni", "i"),
    case("matmul", torch.matmul, "bij", "bjk"),
    case("matmul broadcast", torch.matmul, "abij", "=jk"),
    case("matmul vector", torch.matmul, "bij", "j"),
    case("mm", torch.mm, "ij", "jk"),
    case("bmm", torch.bmm, "bij", "bjk"),
    case("mv", torch.mv, "ij", "j"),
    case("dot", torch.dot, "i", "i"),
    case("addmm", torch.addmm, "=k", "ij", "=jk"),
    case("baddbmm", torch.baddbmm, "bik", "bij", "bjk"),
    case("addmv", torch.addmv, "i", "ij", "j"),
    case("einsum", lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), "bhid", "bhjd"),
    case("einsum of three", lambda a, b, c: torch.einsum("bi,oij,bj->bo", a, b, c), "bi", "oij", "bj"),
    case("bilinear", F.bilinear, "ni", "nj", "=oij", "=o"),
    case("outer", torch.outer, "i", "j"),
]

WINDOWS: list[Case] = [
    case("conv1d", lambda x, w, b: F.conv1d(x, w, b, padding=1), "niW", "=oi3", "=o", stays="W"),
    case("conv2d", lambda x, w, b: F.conv2d(x, w, b, stride=2), "niHW", "=oi33", "=o", stays="HW"),
    case("conv3d", F.conv3d, "niHWD", "=oi333", stays="HWD"),
    case("conv2d 1x1", F.conv2d, "niHW", "=oi11", "=o"),
    case("conv2d same", lambda x, w: F.conv2d(x, w, padding="same"), "niHW", "=oi33", stays="HW"),
    case(
        "conv2d grouped", lambda x, w, b: F.conv2d(x, w, b, groups=3), "n(gi)HW", "=(go)i33", "=(go)", stays="HW", g=3
    ),
    case("conv2d depthwise", lambda x, w, b: F.conv2d(x, w, b, groups=4), "ngHW", "=g133", "=g", stays="HW", g=4),
    case("conv2d multiplied", lambda x, w: F.conv2d(x, w, groups=4), "ngHW", "=(go)133", stays="HW", g=4),
    case("conv2d without batch", F.conv2d, "iHW", "=oi33", "=o", stays="HW"),
    case(
        "conv_transpose2d",
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, output_padding=1),
        "niHW",
        "=io33",
        "=o",
        stays="HW",
    ),
    case(
        "conv_transpose1d grouped",
        lambda x, w, b: F.conv_transpose1d(x, w, b, groups=3),
        "n(gi)W",
        "=(gi)o3",
        "=(go)",
        stays="W",
        g=3,
    ),
    case("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), "ncHW", stays="HW"),
    case("max_pool1d", lambda x: F.max_pool1d(x, 2), "ncW", stays="W"),
    case("max_pool3d", lambda x: F.max_pool3d(x, 2), "ncHWD", stays="HWD"),
    case("max_pool2d with indices", lambda x: F.max_pool2d(x, 2, return_indices=True), "ncHW", stays="HW"),
    case("avg_pool2d", lambda x: F.avg_pool2d(x, 2), "ncHW", stays="HW"),
    case("avg_pool over one axis", lambda x: F.avg_pool2d(x, (1, 3), (1, 2)), "ncHW", stays="W"),
    case("avg_pool1d", lambda x: F.avg_pool1d(x, 2), "ncW", stays="W"),
    case("avg_pool3d", lambda x: F.avg_pool3d(x, 2), "ncHWD", stays="HWD"),
    case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 1), "ncHW", stays="HW"),
    case("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x, 2), "ncW", stays="W"),
    case("adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, 2), "ncHWD", stays="HWD"),
    case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 2), "ncHW", stays="HW"),
    case("nearest", lambda x: F.interpolate(x, scale_factor=2), "ncHW", stays="HW"),
    case("bilinear resize", lambda x: F.interpolate(x, (5, 7), mode="bilinear"), "ncHW", stays="HW"),
    case("bicubic", lambda x: F.interpolate(x, (5, 7), mode="bicubic", antialias=True), "ncHW", stays="HW"),
    case("linear resize", lambda x: F.interpolate(x, 5, mode="linear"), "ncW", stays="W"),
    case("trilinear", lambda x: F.interpolate(x, 5, mode="trilinear"), "ncHWD", stays="HWD"),
    case("nearest exact", lambda x: F.interpolate(x, 5, mode="nearest-exact"), "ncHW", stays="HW"),
    case("grid_sample", lambda x, g: F.grid_sample(x, g, align_corners=False), "ncHW", "nab2", stays="HW"),
    case("unfold", lambda x: F.unfold(x, 3), "ncHW", stays="HW"),
    case("fold", lambda x: F.fold(x, (5, 4), (2, 1)), "n(c2)a", stays="a", a=16),
    case("Tensor.unfold", lambda x: x.unfold(2, 3, 2), "ncW", stays="W"),
    case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), "n(c4)HW", stays="HW"),
    case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), "ncab", stays="ab", a=4, b=6),
    case("channel_shuffle", lambda x: F.channel_shuffle(x, 2), "ncHW", c=6),
]

NORMS: list[Case] = [
    case("batch_norm", F.batch_norm, "ncHW", "=c", "+c", "=c", "=c"),
    case("batch_norm of vectors", F.batch_norm, "nc", "=c", "+c"),
    case("batch_norm of the batch", lambda x, w: F.batch_norm(x, None, None, w, training=True), "ncW", "=c"),
    case("instance_norm", lambda x, w: F.instance_norm(x, weight=w), "ncHW", "=c"),
    case("group_norm", lambda x, w, b: F.group_norm(x, 3, w, b), "n(gc)HW", "=(gc)", "=(gc)", g=3),
    case("layer_norm", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b), "ntc", "=c", "=c"),
    case("layer_norm over two", lambda x: F.layer_norm(x, x.shape[-2:]), "ntc"),
    case("rms_norm", lambda x, w: F.rms_norm(x, x.shape[-1:], w), "ntc", "=c"),
    case("softmax", lambda x: F.softmax(x, -1), "ntc", stays="c"),
    case("log_softmax", lambda x: F.log_softmax(x, 1), "ntc", stays="t"),
    case("normalize", lambda x: F.normalize(x, dim=1), "ncW"),
    case("weight_norm", lambda v, g: torch._weight_norm(v, g, 0), "=oi3", "=o11"),
]

REDUCTIONS: list[Case] = [
    case("sum", lambda x: x.sum(1), "ncW"),
    case("sum of all", lambda x: x.sum(), "ncW"),
    case("sum over two", lambda x: x.sum((0, 2), keepdim=True), "ncW"),
    case("mean", lambda x: x.mean((-1, -2)), "ncHW"),
    case("mean of all", lambda x: x.mean(), "nc"),
    case("amax", lambda x: x.amax(1, keepdim=True), "ncW"),
    case("amin", lambda x: x.amin(1), "ncW"),
    case("max of all", lambda x: x.max(), "nc"),
    case("prod", lambda x: x.prod(1), "nc"),
    case("std", lambda x: x.std(1), "ncW", c=14),
    case("var_mean", lambda x: torch.var_mean(x, 1), "ncW", c=14),
    case("logsumexp", lambda x: x.logsumexp(1), "ncW"),
    case("any", lambda x: x.any(1), "?nc"),
    case("all", lambda x: x.all(1), "?nc"),
    case("vector norm", lambda x: torch.linalg.vector_norm(x, dim=1), "ncW"),
    case("norm", lambda x: x.norm(p=1, dim=1), "ncW"),
    case("max along", lambda x: x.max(1), "ncW", stays="c"),
    case("argmax", lambda x: x.argmax(1), "ncW", stays="c"),
    case("topk", lambda x: x.topk(2, -1), "nct", stays="t"),
    case("sort", lambda x: x.sort(1), "nct", stays="c"),
    case("argsort", lambda x: x.argsort(1), "nct", stays="c"),
    case("cumsum", lambda x: x.cumsum(1), "nct", stays="c"),
]

ATTENTION: list[Case] = [
    case("attention", F.scaled_dot_product_attention, "bhle", "bhse", "bhsv", stays="s"),
    case("attention of three axes", F.scaled_dot_product_attention, "ble", "bse", "bsv", stays="s"),
    case("masked attention", F.scaled_dot_product_attention, "bhle", "bhse", "bhsv", "?hls", stays="s"),
    case("biased attention", F.scaled_dot_product_attention, "bhle", "bhse", "bhsv", "1hls", stays="s"),
    case(
        "causal attention",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "bhte",
        "bhte",
        "bhtv",
        stays="t",
    ),
    case(
        "grouped attention",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        "b(gj)le",
        "bgse",
        "bgsv",
        stays="s",
    ),
    case(
        "scaled attention",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
        "bhle",
        "bhse",
        "bhsv",
        stays="s",
    ),
]

RECURRENT: list[Case] = [
    case(
        "lstm_cell",
        lambda x, h, c, i, r, b, d: torch.lstm_cell(x, (h, c), i, r, b, d),
        "ni",
        "nh",
        "nh",
        "=(4h)i",
        "=(4h)h",
        "=(4h)",
        "=(4h)",
    ),
    case("gru_cell", torch.gru_cell, "ni", "nh", "=(3h)i", "=(3h)h", "=(3h)", "=(3h)"),
    case("rnn_tanh_cell", torch.rnn_tanh_cell, "ni", "nh", "=hi", "=hh", "=h", "=h"),
    case("rnn_relu_cell", torch.rnn_relu_cell, "ni", "nh", "=hi", "=hh", "=h", "=h"),
]

ALL = [*PRODUCTS, *WINDOWS, *NORMS, *REDUCTIONS, *ATTENTION, *RECURRENT]
