"""PyTorch's operators that work element by element."""

from __future__ import annotations

from graphprune.rules.aten import aten, slot
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.kinds import first_input_pointwise, pointwise

_ONE = """abs absolute acos acosh angle asin asinh atan atanh bitwise_not ceil celu clamp clamp_max clamp_min clip
cos cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 fix floor frac gelu hardshrink hardsigmoid hardswish
hardtanh isfinite isinf isnan leaky_relu lgamma log log10 log1p log2 log_sigmoid logical_not logit mish nan_to_num neg
negative positive rad2deg reciprocal relu relu6 round rsqrt selu sgn sigmoid sign signbit silu sin sinc sinh softplus
softshrink sqrt square tan tanh threshold trunc real imag conj conj_physical resolve_conj resolve_neg"""

_SEVERAL = """add addcdiv addcmul atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
broadcast_tensors complex copy copysign div divide eq floor_divide fmax fmin fmod ge greater greater_equal gt heaviside
hypot ldexp le lerp less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor lt masked_fill max.other
maximum min.other minimum mul multiply ne nextafter not_equal polar pow remainder rsub sub subtract true_divide where
xlogy __and__ __or__ __xor__ __lshift__ __rshift__"""

_SAME = """alias clone contiguous detach detach_copy lift_fresh lift_fresh_copy to _to_copy type_as empty_like
zeros_like ones_like full_like fill zero _conj _neg_view"""

aten(*_ONE.split(), *_SEVERAL.split(), kind="POINTWISE")(pointwise)
aten(*_SAME.split(), kind="POINTWISE", note="Passes all axes; other tensors only give a value or a type.")(
    first_input_pointwise
)


@aten("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", kind="POINTWISE")
def dropout(r: Relate) -> None:
    """Passes all axes; when it drops at random, the draws depend on how many there are, and nothing may leave."""
    if r.attr("train") and r.attr("p"):
        raise Unsupported("it drops values at random although the module is in evaluation mode")
    first_input_pointwise(r)


@aten("prelu", "_prelu_kernel", kind="PARAM")
def prelu(r: Relate) -> None:
    """One slope, or one for each channel on axis 1."""
    axes = r.axes(0)
    weight = slot(r, "weight")
    if r.rank(weight) == 1 and r.shape(weight) != (1,):
        r.tie(weight, 0, axes[1 if len(axes) > 1 else 0])
    elif r.rank(weight) > 1:
        pointwise(r)
        return
    r.out(axes)


@aten("glu", kind="REINDEX")
def glu(r: Relate) -> None:
    """Both halves of an axis are removed alike."""
    axes = r.axes(0)
    axis = int(r.attr("dim", -1)) % len(axes)
    halves, half = r.split(axes[axis], 2, axes[axis].n // 2)
    if not halves.frozen:
        r.store.freeze(halves, r.why("one half gates the other"))
    axes[axis] = half
    r.out(axes)
