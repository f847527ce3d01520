"""Which module of the original network a stored tensor of an exported file belongs to.

Exporters write a weight that they transpose or fold into a neighbour under a name of their own ("onnx::MatMul_123",
"val_7"). The node that reads it still says from which module it comes.
"""

from __future__ import annotations

import ast
import re
from collections import Counter

from graphprune.graph.model import Graph, Node

_RECURRENT = {"LSTM", "GRU", "RNN"}
_OF_LAYER = re.compile(r"(.*weight_[ih]h_l\d+)(_reverse)?")


def module_path(node: Node) -> str | None:
    """Path of the module that a node of a file comes from, "" for the root, None where the exporter left none."""
    if node.scope.startswith("["):  # the newer exporter: every scope from the root down to the operator
        try:
            scopes = ast.literal_eval(node.scope)
        except (SyntaxError, ValueError):
            return None
        return str(scopes[-2]) if len(scopes) > 1 else ""
    if not node.name.startswith("/"):  # the older one: names of the modules from the outermost to the operator
        return None
    path: list[str] = []
    for part in node.name.split("/")[1:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)


def home(name: str) -> str:
    """Path of the module that a name of a module's tensor begins with; of a recurrent layer also which weight it is."""
    found = _OF_LAYER.fullmatch(name)
    return found[1] if found else name.rpartition(".")[0]


def renamed(graph: Graph) -> dict[str, str]:
    """Stored tensors whose names are the exporter's own, with the path of the module whose node reads them.

    A module's tensors are called as its path begins; a tensor that several modules read belongs to none. Of recurrent
    layers the path goes on with the name that PyTorch gives the weight.
    """
    if getattr(graph.source, "module", None) is not None:
        return {}
    found: dict[str, set[str | None]] = {}
    layers: Counter[str] = Counter()
    for node in graph.nodes:
        path = module_path(node)
        for slot, name in enumerate(node.inputs):
            if name in graph.weights and graph.weights[name].shape:
                found.setdefault(name, set()).add(_inside(node, path, slot, layers))
        if node.op in _RECURRENT and path is not None:
            layers[path] += 1
    out = {}
    for name, paths in found.items():
        read_by = paths.pop() if len(paths) == 1 else None
        if read_by is not None and not _told(name, read_by):
            out[name] = read_by
    return out


def _inside(node: Node, path: str | None, slot: int, layers: Counter[str]) -> str | None:
    """The path, and for weights of recurrent layers which one it is: every layer is a node."""
    if node.op not in _RECURRENT or slot not in (1, 2) or path is None:
        return path
    weight = f"weight_{'ih' if slot == 1 else 'hh'}_l{layers[path]}"
    return f"{path}.{weight}" if path else weight


def _told(name: str, path: str) -> bool:
    """Whether a name is that of a tensor of the module, of one inside it, or of another one."""
    if path and name.startswith(f"{path}."):
        return True
    last = name.rpartition(".")[2]
    return last.isidentifier() and "." in name and ":" not in name and "/" not in name
