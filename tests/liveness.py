"""Peak activation memory of an ONNX file, worked out from the file alone and the sizes that onnxruntime reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray


def sizes(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> dict[str, int]:
    """Bytes of every tensor that nodes make, as onnxruntime computes it."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {o.name for o in probe.graph.output}
    made = [o for n in probe.graph.node for o in n.output if o]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    arrays = session.run(names, feeds)
    found = {n: a.nbytes if isinstance(a, np.ndarray) else 0 for n, a in zip(names, arrays, strict=True)}
    return found | {n: a.nbytes for n, a in feeds.items()}


def peak(model: onnx.ModelProto, size: dict[str, int]) -> int:
    """Largest sum of bytes alive at one node: what depends on input values, from its maker to its last reader."""
    stored = {t.name for t in model.graph.initializer}
    alive = {i.name for i in model.graph.input if i.name not in stored}
    outputs = {o.name for o in model.graph.output}
    live_data = set(alive)
    nodes = []
    for node in model.graph.node:
        if node.op_type not in ("Constant", "Shape", "Size") and live_data & set(node.input):
            live_data |= {o for o in node.output if o}
            nodes.append(node)
    most = sum(size[n] for n in alive)
    for k, node in enumerate(nodes):
        alive |= {o for o in node.output if o}
        most = max(most, sum(size[n] for n in alive))
        later = {i for n in nodes[k + 1 :] for i in n.input}
        alive = {n for n in alive if n in later or n in outputs}
    return most
