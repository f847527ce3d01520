"""A small collector of nodes and initializers for hand-built ONNX models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import (
    FunctionProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
    shape_inference,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IR_VERSION = 10


class Builder:
    """Collects inputs, nodes and random weights, then builds a checked-in-one-go model."""

    def __init__(self, name: str = "graph", *, opset: int = 20, seed: int = 0) -> None:
        self.name = name
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.hints: list[ValueInfoProto] = []
        self.count = 0

    # -- values ---------------------------------------------------------------------------------
    def fresh(self, stem: str) -> str:
        """A name not used before."""
        self.count += 1
        return f"{stem}_{self.count}"

    def source(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """A graph input; a string dimension is symbolic."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def const(self, array: Any, name: str | None = None) -> str:
        """An initializer holding ``array`` as it is."""
        name = name or self.fresh("const")
        assert name not in self.initializers, f"initializer {name} is already there"
        self.initializers[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def hint(self, name: str, *shape: int | str) -> str:
        """State the shape of a value that shape inference does not find."""
        self.hints.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def ints(self, *values: int) -> str:
        """A 1-D int64 initializer (axes, shapes, indices)."""
        return self.const(np.asarray(values, np.int64))

    def scalar(self, value: float) -> str:
        """A 0-d float initializer."""
        return self.const(np.float32(value))

    def sample(self, *shape: int, fan_in: float = 1.0, offset: float = 0.0) -> NDArray[np.float32]:
        """Normal numbers with standard deviation 1/sqrt(fan_in)."""
        values = offset + self.rng.standard_normal(shape) / np.sqrt(fan_in)
        return np.asarray(values, np.float32)

    def weight(self, *shape: int, fan_in: float = 1.0, offset: float = 0.0, name: str | None = None) -> str:
        """A random float initializer."""
        return self.const(self.sample(*shape, fan_in=fan_in, offset=offset), name or self.fresh("weight"))

    # -- nodes ----------------------------------------------------------------------------------
    def ops(self, op_type: str, *inputs: str, outputs: int, **attrs: Any) -> list[str]:
        """A node with several outputs."""
        name = self.fresh(op_type)
        outs = [f"{name}_out{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, outs, name=name, **attrs))
        return outs

    def op(self, op_type: str, *inputs: str, **attrs: Any) -> str:
        """A node with one output."""
        return self.ops(op_type, *inputs, outputs=1, **attrs)[0]

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=list(perm))

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    def pick(self, x: str, index: int, axis: int) -> str:
        """A scalar Gather: the axis disappears."""
        return self.op("Gather", x, self.const(np.int64(index)), axis=axis)

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    # -- layers ---------------------------------------------------------------------------------
    def linear(self, x: str, n_in: int, n_out: int, name: str | None = None, *, bias: bool = True) -> str:
        """MatMul with a [in, out] weight, then an Add."""
        name = name or self.fresh("linear")
        x = self.op("MatMul", x, self.weight(n_in, n_out, fan_in=n_in, name=f"{name}.weight"))
        return self.op("Add", x, self.weight(n_out, name=f"{name}.bias")) if bias else x

    def gemm(self, x: str, n_in: int, n_out: int, name: str | None = None) -> str:
        """Gemm with transB: a [out, in] weight."""
        name = name or self.fresh("gemm")
        weight = self.weight(n_out, n_in, fan_in=n_in, name=f"{name}.weight")
        return self.op("Gemm", x, weight, self.weight(n_out, name=f"{name}.bias"), transB=1)

    def conv(
        self,
        x: str,
        n_in: int,
        n_out: int,
        kernel: int = 3,
        name: str | None = None,
        *,
        stride: int = 1,
        pad: int | None = None,
        group: int = 1,
        bias: bool = True,
    ) -> str:
        """A 2-D convolution with same padding unless told otherwise."""
        name = name or self.fresh("conv")
        pad = kernel // 2 if pad is None else pad
        shape = (n_out, n_in // group, kernel, kernel)
        inputs = [x, self.weight(*shape, fan_in=shape[1] * kernel**2, name=f"{name}.weight")]
        if bias:
            inputs.append(self.weight(n_out, name=f"{name}.bias"))
        return self.op("Conv", *inputs, group=group, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def conv_transpose(self, x: str, n_in: int, n_out: int, name: str | None = None, *, group: int = 1) -> str:
        """A 2-D transposed convolution, kernel 2 and stride 2: twice the size."""
        name = name or self.fresh("deconv")
        weight = self.weight(n_in, n_out // group, 2, 2, fan_in=n_in // group, name=f"{name}.weight")
        bias = self.weight(n_out, name=f"{name}.bias")
        return self.op("ConvTranspose", x, weight, bias, group=group, kernel_shape=[2, 2], strides=[2, 2])

    def batchnorm(self, x: str, n: int, name: str | None = None) -> str:
        name = name or self.fresh("bn")
        var = self.const(self.rng.uniform(0.5, 1.5, n).astype(np.float32), f"{name}.var")
        gamma = self.weight(n, fan_in=9, offset=1, name=f"{name}.gamma")
        beta = self.weight(n, name=f"{name}.beta")
        return self.op("BatchNormalization", x, gamma, beta, self.weight(n, name=f"{name}.mean"), var)

    def layernorm(self, x: str, n: int, name: str | None = None) -> str:
        """LayerNormalization over the last axis."""
        name = name or self.fresh("ln")
        gamma = self.weight(n, fan_in=9, offset=1, name=f"{name}.gamma")
        return self.op("LayerNormalization", x, gamma, self.weight(n, name=f"{name}.beta"), axis=-1)

    def conv_relu(self, x: str, n_in: int, n_out: int, kernel: int = 3, name: str | None = None) -> str:
        return self.op("Relu", self.conv(x, n_in, n_out, kernel, name))

    def conv_bn(self, x: str, n_in: int, n_out: int, kernel: int = 3, name: str | None = None, stride: int = 1) -> str:
        """Conv without bias, then BatchNormalization; no activation."""
        name = name or self.fresh("block")
        x = self.conv(x, n_in, n_out, kernel, name, stride=stride, bias=False)
        return self.batchnorm(x, n_out, f"{name}.bn")

    def classifier(self, x: str, n: int, classes: int = 5) -> str:
        """Global pool, Flatten, Gemm: the usual end of a convolution network."""
        return self.gemm(self.op("Flatten", self.op("GlobalAveragePool", x)), n, classes, "classifier")

    # -- the model ------------------------------------------------------------------------------
    def build(self, *outputs: str) -> ModelProto:
        """The model, its outputs typed by shape inference."""
        hints = {h.name: h for h in self.hints}
        untyped = [hints.pop(o, None) or helper.make_empty_tensor_value_info(o) for o in outputs]
        weights = list(self.initializers.values())
        graph = helper.make_graph(self.nodes, self.name, self.inputs, untyped, weights, value_info=list(hints.values()))
        domains = sorted({node.domain for node in self.nodes} - {""})
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        for value, typed in zip(model.graph.output, inferred.graph.output, strict=True):
            value.CopyFrom(typed)
        return model

    def build_with(self, function: FunctionProto, output: str) -> ModelProto:
        """The model with a local function; its output has the shape of its first input."""
        graph = helper.make_graph(self.nodes, self.name, self.inputs, [], list(self.initializers.values()))
        graph.output.add(name=output).type.CopyFrom(self.inputs[0].type)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(function.domain, 1)]
        return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=IR_VERSION)
