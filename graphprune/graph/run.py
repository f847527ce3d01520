"""Running models in onnxruntime, on inputs that fit them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.custom import STANDARD, Kernel, attribute, called, custom, libraries
from graphprune.graph.model import Array, Graph, Node
from graphprune.graph.scopes import initializers
from graphprune.graph.sizes import cloned, weight_bytes

_IN_MEMORY = 1 << 30
_PASSING = {
    "Cast",
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Clip",
    "Slice",
    "Where",
    "Expand",
    "Max",
    "Min",
    "Abs",
}


Kernels = dict[tuple[str, str], Kernel]


class CannotRun(Exception):
    """onnxruntime refuses a model or its inputs."""


class Runner:
    """A model ready to run; large ones go through a temporary file."""

    def __init__(self, model: ir.Model, *, optimize: bool = True, threads: int = 0, trace: str = "") -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        # Else the runtime may round activations to 8 bits in front of block-quantised weights, in one model only.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.enable_mem_pattern = False  # a second plan for every new shape: several GiB where values are read
        if trace:
            options.enable_profiling, options.profile_file_prefix = True, trace
        level = ort.GraphOptimizationLevel
        kernels = _python_kernels(model)
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        try:
            for library in libraries():
                options.register_custom_ops_library(library)
            with nullcontext(b"") if kernels else loadable(model) as source:
                self.session: Any = (
                    _reference(model, kernels)
                    if kernels
                    else ort.InferenceSession(
                        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=harmful(model)
                    )
                )
        except Exception as error:
            raise CannotRun(f"{_short(error)}{_missing(model, str(error))}") from None
        self.outputs = [o.name or "" for o in model.graph.outputs]

    def __call__(self, feed: Mapping[str, Array]) -> list[Any]:
        """All outputs for one set of inputs.

        Raises:
            CannotRun: The runtime fails on these inputs.
        """
        try:
            return list(self.session.run(None, dict(feed)))
        except Exception as error:
            raise CannotRun(_short(error)) from None


def _python_kernels(model: ir.Model) -> Kernels:
    """Python kernels of the custom operators that a model uses."""
    used = {(node.domain, node.op_type) for node in model.graph.all_nodes() if node.domain not in STANDARD}
    found = {key: custom(*key) for key in used}
    return {key: entry.run for key, entry in found.items() if entry is not None and entry.run is not None}


def _reference(model: ir.Model, kernels: Kernels) -> Any:
    """Onnx's reference evaluator, which takes kernels in Python."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    def kernel(domain: str, op: str, run: Kernel) -> type:
        def call(self: Any, *inputs: Array | None, **_: Any) -> tuple[Array, ...]:
            attrs = {a.name: attribute(ir.from_proto(a)) for a in self.onnx_node.attribute}
            return tuple(called(run, inputs, attrs))

        return type(op, (OpRun,), {"op_domain": domain, "_run": call})

    ops = [kernel(domain, op, run) for (domain, op), run in kernels.items()]
    return ReferenceEvaluator(ir.to_proto(model), new_ops=ops)


def _missing(model: ir.Model, error: str) -> str:
    """What to do about an operator that the runtime does not know."""
    domains = {node.domain for node in model.graph.all_nodes()} - {*STANDARD, "ai.onnx.ml", "com.microsoft"}
    if not domains or ("not a registered" not in error and "No opset import" not in error):
        return ""
    return "; give its kernels with --custom-ops LIBRARY, or run= of graphprune.register, or use --no-verify"


@contextmanager
def loadable(model: ir.Model) -> Iterator[bytes | str]:
    """The model as onnxruntime takes it: in memory, or as a temporary file where it is large."""
    if weight_bytes(model) < _IN_MEMORY and not _has_external(model):
        yield bytes(ir.to_proto(model).SerializeToString())
        return
    with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
        path = os.fspath(Path(folder) / "model.onnx")
        ir.save(cloned(model), path, external_data="model.data")
        yield path


def harmful(model: ir.Model) -> list[str]:
    """Optimisations that end the whole process in float16, seen where a batch axis is transposed before a MatMul."""
    values = (*model.graph.inputs, *(v for _, v in initializers(model)))
    return ["MatmulTransposeFusion"] if any(v.dtype == ir.DataType.FLOAT16 for v in values) else []


def _has_external(model: ir.Model) -> bool:
    return any(isinstance(v.const_value, ir.ExternalTensor) for _, v in initializers(model))


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:150]} … {text[-250:]}"


def random_feeds(graph: Graph, count: int, seed: int, *, settings: bool = False) -> list[dict[str, Array]]:
    """Random inputs: at every probed size, normal floats, integers in the range of what they index.

    Args:
        graph: The model.
        count: Sets of inputs per probed size.
        seed: Seed of the draw.
        settings: Whether 0-d floats are positive and ascending (bounds, rates, thresholds) instead of normal.
    """
    rng = np.random.default_rng(seed)
    limits = _index_limits(graph)
    feeds = [
        {name: _draw(rng, graph, name, shape, limits.get(name)) for name, shape in sizes.items()}
        for sizes in graph.input_shapes
        for _ in range(count)
    ]
    scalars = [n for n, a in feeds[0].items() if a.ndim == 0 and a.dtype.kind == "f"] if settings else []
    for feed in feeds:
        feed.update({n: np.asarray(50.0 * 40.0**k, feed[n].dtype) for k, n in enumerate(scalars)})
    return feeds


def _draw(rng: np.random.Generator, graph: Graph, name: str, shape: Sequence[int], limit: int | None) -> Array:
    kind = graph.values[name].dtype
    if kind and kind.upper() not in ir.DataType.__members__:
        raise InputError(f"{graph.name}: input {name} is a {kind} of tensors, which has no random values")
    dtype = ir.DataType[kind.upper()].numpy() if kind else np.dtype("f4")
    if dtype.kind == "b":
        return np.ones(shape, np.bool_)
    if dtype.kind in "iu":
        if limit is not None:
            return rng.integers(0, limit, shape).astype(dtype)
        if dtype.itemsize == 1:  # pixels, or values quantised before
            return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
        return np.full(shape, _length(graph, shape), dtype) if len(shape) <= 1 else np.ones(shape, dtype)
    if dtype.kind not in "fV":
        raise InputError(f"{graph.name}: input {name} of type {dtype} has no random values; give data with --data")
    return np.asarray(rng.standard_normal(shape), dtype)


def _length(graph: Graph, shape: Sequence[int]) -> int:
    """A plausible length for an integer vector beside a sequence input: the longest axis 1."""
    if not shape:
        return 1
    return max((s[1] for s in graph.input_shapes[0].values() if len(s) > 1), default=1)


# Operators and inputs that name rows of a table: the table's input and the attribute that says along which axis.
_TABLES = {
    ("Gather", 1): (0, "axis"),
    ("com.microsoft.GatherBlockQuantized", 1): (0, "gather_axis"),
    ("com.microsoft.EmbedLayerNormalization", 0): (2, ""),
    ("com.microsoft.EmbedLayerNormalization", 1): (4, ""),
}


def _index_limits(graph: Graph) -> dict[str, int]:
    """For integer inputs that end up as indices: how many rows they may name."""
    consumers: dict[str, list[tuple[Node, int]]] = {}
    for node in graph.nodes:
        for slot, name in enumerate(node.inputs):
            consumers.setdefault(name, []).append((node, slot))
    out: dict[str, int] = {}
    for name in graph.inputs:
        if not graph.values[name].dtype.startswith(("int", "uint")):
            continue
        front, seen = [name], {name}
        while front:
            for node, slot in consumers.get(front.pop(), []):
                if (node.key, slot) in _TABLES:
                    table, axis = _TABLES[node.key, slot]
                    shape = graph.values[node.inputs[table]].shape
                    rows = (shape or (2,))[int(node.attrs.get(axis, 0))]
                    out[name] = min(out.get(name, rows), rows)
                elif node.op == "OneHot" and slot == 0:
                    depth = graph.constant(node.inputs[1])
                    out[name] = min(out.get(name, 1 << 30), int(depth.ravel()[0]) if depth is not None else 2)
                elif node.op in _PASSING and node.outputs[0] not in seen:
                    seen.add(node.outputs[0])
                    front.append(node.outputs[0])
    return out
