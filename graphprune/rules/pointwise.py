"""Operators that work element by element, with broadcasting."""

from __future__ import annotations

from graphprune.rules.context import Relate
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
rule("Cast", "Clip", "Dropout", kind="POINTWISE")(first_input_pointwise)


@rule("CastLike", kind="POINTWISE")
def cast_like(r: Relate) -> None:
    """The second input only gives its type."""
    r.out(r.axes(0))


@rule("PRelu", kind="PARAM")
def prelu(r: Relate) -> None:
    """The slope broadcasts to the data, never the other way round."""
    axes = r.axes(0)
    rank = r.rank(1)
    for a in range(1, rank + 1):
        if r.shape(1)[-a] != 1:
            r.tie(1, -a, axes[-a])
    r.out(axes)
