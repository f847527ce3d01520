"""Operators that work element by element, and those with per-channel parameters."""

from __future__ import annotations

import numpy as np

from tests.operators.case import Case, case

_ANY = [
    "Abs", "Atan", "Asinh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "Relu", "Round",
    "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh",
    "ThresholdedRelu", "com.microsoft.Gelu", "com.microsoft.QuickGelu",
]  # fmt: skip
_UNIT = ["Acos", "Asin", "Atanh"]
_POSITIVE = ["Acosh", "Log", "Reciprocal", "Sqrt"]
_TWO = ["Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Sub"]
_MANY = ["Max", "Mean", "Min", "Sum"]
_LOGIC = ["And", "Or", "Xor"]
_BITS = ["BitwiseAnd", "BitwiseOr", "BitwiseXor"]

CASES: tuple[Case, ...] = (
    *(case(op, "n c", free="n c") for op in _ANY),
    *(case(op, "n c", free="n c", unit=True) for op in _UNIT),
    *(case(op, "n c", free="n c", positive=True) for op in _POSITIVE),
    case("Swish", "n c", free="n c", opset=24),
    case("Not", "bool n c", free="n c"),
    case("BitwiseNot", "int32 n c", free="n c"),
    # Two operands: alike, one stretched, one of lower rank, one stored.
    *(case(op, "n c", "n c", free="n c", positive=True) for op in (*_TWO, "Pow")),
    *(case(op, "n c h", "c 1", free="n c h", note="stretched", positive=True) for op in (*_TWO, "Pow")),
    *(case(op, "n c h", "weight c h", free="n c h", note="weight", positive=True) for op in _TWO),
    *(case(op, "n c", "n c", "1 c", free="n c", note="three") for op in _MANY),
    *(case(op, "n c", free="n c", note="one") for op in _MANY),
    *(case(op, "bool n c", "bool c", free="n c") for op in _LOGIC),
    *(case(op, "int32 n c", "int32 n 1", free="n c") for op in _BITS),
    case("BitShift", "uint8 n c", "uint8 n c", free="n c", direction="LEFT", unit=True),
    case("Mod", "int32 n c", "int32 n c", free="n c", positive=True),
    case("Mod", "n c", "n c", free="n c", fmod=1, positive=True, note="fmod"),
    case("Where", "bool n c", "n 1", "c", free="n c"),
    case("Where", "bool 1 c", "n c", 0.0, free="n c", note="scalar"),
    case("Add", "n c", "weight n c", free="n c", opset=7),
    case("Add", "n c h", "weight c", free="n c h", opset=6, broadcast=1, axis=1, sizes={"c": 3, "h": 3}),
    case("Mul", "n c h t", "c h", free="n c h t", opset=6, broadcast=1, axis=1, sizes={"h": 3, "t": 3, "c": 3}),
    case("Sub", "n c h", "weight h", free="n c h", opset=6, broadcast=1, note="trailing"),
    case("Div", "n c", "weight n c", free="n c", opset=6, positive=True, note="equal"),
    # Pointwise in the first input; the others are settings.
    case("Cast", "n c", free="n c", to=7),
    case("CastLike", "n c", "input a b", free="n c"),
    case("Clip", "n c", -0.5, 0.5, free="n c"),
    case("Clip", "n c", free="n c", opset=6, min=-0.5, max=0.5),
    case("Dropout", "n c", free="n c", outputs=(True, True)),
    case("Dropout", "n c", free="n c", opset=11, ratio=0.3),
    # Parameters per channel.
    case("PRelu", "n c h", "weight c 1", free="n c h"),
    case("PRelu", "n c h", "weight 1", free="n c h", note="shared"),
    case("PRelu", "n c", "weight c", free="n c", opset=7),
    case("PRelu", "n c h", "weight c", free="n c h", opset=6, sizes={"c": 3, "h": 3}),
    case("Dropout", "n c", 0.5, np.array(True), opset=13, outputs=(True, True), note="training"),
    case("Dropout", "n c", 0.0, np.array(True), free="n c", opset=13, note="training_of_none"),
    case("BatchNormalization", "n c h", *("weight c h",) * 4, free="n c h", opset=7, positive=True, spatial=0),
    case(
        "BatchNormalization", "n c h", *("weight c",) * 4, free="n c h", opset=15, positive=True, training_mode=1,
        restricted=True, outputs=(True, True, True), note="training",
    ),
    case("BatchNormalization", "n c h", *("weight c",) * 3, "weight c", free="n c h", positive=True),
    case("BatchNormalization", "n c", *("weight c",) * 4, free="n c", opset=9, positive=True),
)  # fmt: skip
