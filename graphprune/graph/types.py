"""Types of values: element type, sizes, and whether they are containers of tensors."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import helper

Shape = tuple[int, ...]
Typed = tuple[int, Shape | None, str]
"""Element type, sizes (None when the rank is unknown), and "" or which container of such tensors it is."""

UNKNOWN = -1
SEQUENCE, OPTIONAL = "sequence", "optional"


def type_proto(typed: Typed) -> onnx.TypeProto:
    """The type as onnx writes it."""
    dtype, shape, container = typed
    proto = helper.make_tensor_type_proto(dtype, None if shape is None else [None if d < 0 else d for d in shape])
    if container.endswith(SEQUENCE):
        proto = helper.make_sequence_type_proto(proto)
    if container.startswith(OPTIONAL):
        proto = helper.make_optional_type_proto(proto)
    return proto


def read_type(proto: onnx.TypeProto) -> Typed | None:
    """The type of a tensor, or of the tensors in a container; None for anything else."""
    containers = []
    for kind in (OPTIONAL, SEQUENCE):
        if proto.HasField(f"{kind}_type"):
            proto = getattr(proto, f"{kind}_type").elem_type
            containers.append(kind)
    if not proto.HasField("tensor_type"):
        return None
    tensor = proto.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(d.dim_value if d.HasField("dim_value") else UNKNOWN for d in tensor.shape.dim)
    return tensor.elem_type, shape, " ".join(containers)


def container_of(value: ir.Value) -> str:
    """Which container of tensors a value is declared to be, "" for a tensor."""
    kind, containers = value.type, []
    while isinstance(kind, ir.OptionalType | ir.SequenceType):
        containers.append(OPTIONAL if isinstance(kind, ir.OptionalType) else SEQUENCE)
        kind = kind.elem_type
    return " ".join(containers)
