"""Operators that work element by element, with broadcasting."""

from __future__ import annotations

import numpy as np

from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.kinds import first_input_pointwise, pointwise
from graphprune.rules.registry import rule

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "com.microsoft.Gelu",
    "com.microsoft.QuickGelu",
]

BROADCAST = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
]

rule(*UNARY, kind="POINTWISE")(pointwise)
rule(*BROADCAST, kind="POINTWISE")(pointwise)
rule("Cast", "Clip", kind="POINTWISE", note="Pointwise in input 0; the other inputs are scalars.")(
    first_input_pointwise
)


@rule("Dropout", kind="POINTWISE")
def dropout(r: Relate) -> None:
    """Passes all axes; in training mode the draws depend on how many there are, and nothing may leave."""
    mode = r.const(2)
    training = r.has(2) and (mode is None or bool(mode.any()))
    if r.node.version < 7:
        training = not r.attr("is_test", 0)
    ratio = r.const(1) if r.has(1) else r.attr("ratio", 0.5)
    if training and (ratio is None or np.any(ratio)):
        raise Unsupported("it drops values at random; export the model in evaluation mode")
    first_input_pointwise(r)


@rule("CastLike", kind="POINTWISE")
def cast_like(r: Relate) -> None:
    """The second input only gives its type."""
    r.out(r.axes(0))


@rule("PRelu", kind="PARAM")
def prelu(r: Relate) -> None:
    """The slope broadcasts to the data, never the other way round; before opset 7 it lies along axis 1."""
    axes = r.axes(0)
    rank = r.rank(1)
    if r.node.version < 7 and rank == 1 and r.shape(1) != (1,) and len(axes) > 1:
        r.tie(1, 0, axes[1])
        rank = 0
    for a in range(1, rank + 1):
        if r.shape(1)[-a] != 1:
            r.tie(1, -a, axes[-a])
    r.out(axes)
