"""Images read at places, signals, order along an axis, sequences, losses, random numbers and text."""

from __future__ import annotations

import io

import numpy as np
from onnx import TensorProto, helper
from PIL import Image

from tests.operators.case import Array, Case, Sizes, case, one_of

_TEXT = np.array(["1", "2"], dtype=object)
_AT = {"unpack": ("SequenceAt", {})}


def _bitmap() -> Array:
    """An image of 3 x 4 pixels as a file."""
    file = io.BytesIO()
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3)).save(file, "BMP")
    return np.frombuffer(file.getvalue(), np.uint8)


def _passing(_: Sizes) -> object:
    """A subgraph that gives back what it gets."""
    names = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("inner_in", "inner_out")]
    return helper.make_graph([helper.make_node("Identity", ["inner_in"], ["inner_out"])], "body", names[:1], names[1:])


def _boxes(d: Sizes) -> Array:
    corner = np.linspace(0, 2, 3)
    return np.stack([corner, corner / 2, corner + 2, corner + 3], axis=1).astype(np.float32)


CASES: tuple[Case, ...] = (
    # Images.
    case("GridSample", "n c 4 5", "n h w 2", free="n c h w", unit=True, mode=one_of("linear", "nearest")),
    case(
        "GridSample", "n c 4 5", "n h w 2", free="n c h w", unit=True, opset=16, mode=one_of("bilinear", "bicubic"),
        padding_mode=one_of("zeros", "border", "reflection"), align_corners=one_of(0, 1),
    ),
    case("GridSample", "n c 3 4 5", "n d h w 3", free="n c d h w", unit=True, note="3d"),
    case(
        "RoiAlign", "n c 6 6", "r 4", lambda d: np.zeros(3, np.int64), free="c r", sizes={"r": 3}, positive=True,
        output_height=2, output_width=3, sampling_ratio=1, mode=one_of("avg", "max"),
    ),
    case("RoiAlign", "n c 6 6", _boxes, [0, 1, 1], free="c", extra=3, opset=10, output_height=2, sizes={"n": 2}),
    case("MaxRoiPool", "n c 6 6", lambda d: np.c_[[0, 1, 1], _boxes(d)].astype(np.float32), free="c", extra=3,
         pooled_shape=[2, 3], sizes={"n": 2}),
    case("DeformConv", "n i 6 6", "weight o i 2 2", "n 8 5 5", "weight o", free="n i o", zero="i"),
    case(
        "DeformConv", "n g*i 6 6", "weight o g*i 2 2", "n g*8 5 5", "weight o", "n g*4 5 5", free="n g i o",
        zero="g*i", offset_group=lambda d: d["g"], note="offset_groups",
    ),
    case(
        "DeformConv", "n g*i 6 6", "weight g*o i 2 2", "n 8 5 5", free="n g i o", zero="g*i",
        group=lambda d: d["g"], note="grouped",
    ),
    case("Col2Im", "n c*6 l", [4, 5], [2, 3], free="n c", sizes={"l": 9}),
    case("MaxUnpool", "n c 2 2", lambda d: np.arange(d["n"] * d["c"] * 4).reshape(d["n"], d["c"], 2, 2),
         kernel_shape=[2, 2], strides=[2, 2]),
    case("AffineGrid", "n 2 3", lambda d: [d["n"], 3, 4, 5], free="n"),
    case("CenterCropPad", "n c t h", [4, 7], free="n c t", axes=[2, -1], sizes={"t": one_of(5, 6, 7, 4), "h": 5}),
    case("CenterCropPad", "n c", lambda d: [d["n"], 3], free="n c", sizes={"c": 6}, note="all"),
    case("NonMaxSuppression", "n b 4", "n c b", [1], 0.5, 0.1, fixed_shape=False, positive=True),
    case("ImageDecoder", _bitmap()),
    # Signals.
    case("DFT", "n l c 2", free="n l", opset=20, inverse=one_of(0, 1)),
    case("DFT", "n l c 1", 6, 1, free="n c", onesided=1, opset=20, note="length"),
    case("DFT", "n l c 2", free="n c", axis=one_of(1, -3), opset=17),
    case("DFT", "n l 2", "", "indices", bound="1", opset=20, fixed_shape=False, note="computed_axis"),
    case("STFT", "n 12 1", 2, "4", free="n", opset=17, onesided=one_of(0, 1)),
    *(case(op, 6, fixed_shape=False) for op in ("BlackmanWindow", "HammingWindow", "HannWindow")),
    case("MelWeightMatrix", 4, 16, 8000, 100.0, 3000.0, fixed_shape=False),
    # Order along an axis.
    case("CumSum", "n t c", 1, free="n t c", zero="t", exclusive=one_of(0, 1), reverse=one_of(0, 1)),
    case("CumSum", "n t c", "indices", bound="1", note="computed"),
    case("CumProd", "n t c", -1, free="n t c", restricted=True, exclusive=one_of(0, 1), reverse=one_of(0, 1),
         opset=26),
    case("ReverseSequence", "t b c", [2, 1, 3], free="b c", sizes={"t": 4, "b": 3}),
    case("ReverseSequence", "b t c", [2, 1, 3], free="b c", batch_axis=0, time_axis=1, sizes={"t": 4, "b": 3},
         note="batch_first"),
    case("Trilu", "n c c", free="n c", upper=one_of(0, 1)),
    case("Trilu", "c c", 1, free="c", upper=1, note="above"),
    case("Trilu", "c c", -1, free="c", upper=0, note="below"),
    case("Trilu", "n c c", -1, free="n", upper=1, note="far"),
    case("Trilu", "n t c", free="n", upper=one_of(0, 1), note="oblong"),
    case("Det", "n c c", free="n"),
    case("ArgMax", "n t c", free="n c", axis=1, select_last_index=one_of(0, 1)),
    case("ArgMax", "n t c", free="t c", opset=11, note="default_axis"),
    case("ArgMin", "n t c", free="t c", axis=0, keepdims=0),
    case("TopK", "n t c", [2], free="t c", axis=0, outputs=(True, True), sizes={"n": 4}, largest=one_of(0, 1)),
    case("TopK", "n t c", [2], free="n t", outputs=(True, True), opset=10, sizes={"c": 4}),
    case("TopK", "n t c", free="n t", k=2, outputs=(True, True), opset=9, sizes={"c": 4}),
    # Sequences and optionals.
    case("SequenceConstruct", "n c", "n c", free="n c", unpack=("ConcatFromSequence", {"axis": 0, "new_axis": 1})),
    case("SequenceConstruct", "n a", "n c", free="n", unpack=("ConcatFromSequence", {"axis": 1}), note="unequal"),
    case("SequenceAt", "sequence n c", 1, free="n c"),
    case("SequenceInsert", "sequence n c", "n c", free="n c", **_AT),
    case("SequenceErase", "sequence n c", 0, free="n c", **_AT),
    case("SequenceLength", "sequence n c", free="n c"),
    case("SequenceEmpty", fixed_shape=False, unpack=("SequenceLength", {})),
    case("SplitToSequence", "n c", free="n", axis=1, keepdims=one_of(0, 1), **_AT),
    case("SplitToSequence", "n c", [2, 4], free="n", axis=-1, note="sizes", sizes={"c": 6}, **_AT),
    case("ConcatFromSequence", "sequence n c", free="n", axis=1),
    case("ConcatFromSequence", "sequence n c", free="n c", axis=one_of(0, 1, -1), new_axis=1, note="new_axis"),
    case("Optional", "n c", free="n c", unpack=("OptionalGetElement", {})),
    case("OptionalGetElement", "optional n c", free="n c"),
    case("OptionalHasElement", "optional n c", free="n c"),
    # Losses.
    case("NegativeLogLikelihoodLoss", "n c t", "int32 n t", "weight c", free="n t", reduction="none",
         sizes={"c": 40}, unit=True),
    case("NegativeLogLikelihoodLoss", "n c", "int32 n", free="n", restricted=True, reduction=one_of("sum", "mean"),
         sizes={"c": 40}, unit=True, note="reduced"),
    case("SoftmaxCrossEntropyLoss", "n c t", "int32 n t", "weight c", free="n t", reduction="none",
         outputs=(True, True), sizes={"c": 40}, unit=True),
    case("SoftmaxCrossEntropyLoss", "n c", "int32 n", free="n", restricted=True, reduction=one_of("sum", "mean"),
         sizes={"c": 40}, unit=True, note="reduced"),
    # What nothing can leave through.
    case("SequenceMap", "sequence n c", body=_passing, unpack=("SequenceAt", {})),
    *(case(op, "n c") for op in ("EyeLike", "RandomNormalLike", "RandomUniformLike")),
    case("Bernoulli", "n c", positive=True),
    case("Multinomial", "n c", sample_size=3),
    case("Unique", "n c", fixed_shape=False),
    case("StringConcat", _TEXT, _TEXT),
    case("StringNormalizer", _TEXT),
    case("StringSplit", _TEXT, delimiter=",", outputs=(True, True)),
    case("RegexFullMatch", _TEXT, pattern="1"),
    case(
        "TfIdfVectorizer", "int32 n c", max_gram_length=1, max_skip_count=0, min_gram_length=1, mode="TF",
        ngram_counts=[0], ngram_indexes=[0, 1], pool_int64s=[1, 2],
    ),
)  # fmt: skip
