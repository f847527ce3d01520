"""Makes the pruned module: the same class where its attributes can say the new sizes, else its exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from graphprune.coupling.box import Box
from graphprune.coupling.cut import Cut
from graphprune.errors import InputError
from graphprune.graph.torch_align import expected_events
from graphprune.graph.torch_capture import evaluation
from graphprune.graph.torch_program import named_tensors
from graphprune.graph.torch_record import Recorder, graph_events, record, recorded
from graphprune.plan import Plan
from graphprune.rewrite.torch_attention import PrunedMultiheadAttention
from graphprune.rewrite.torch_attributes import Search, Setting, apply_setting
from graphprune.rewrite.torch_graph import PrunedGraph, pruned_graph
from graphprune.rewrite.torch_slices import sliced

SAME, GRAPH = "same class", "graph module"
_NOTE = "_graphprune"
_CLOSE = 1e-3


@dataclass(frozen=True)
class Note:
    """What a pruned module knows about itself.

    Attributes:
        kind: "same class", or "graph module" where its class could not say the new sizes.
        settings: Attributes of its modules that were set, beside those of the layers of ``torch.nn``.
        plan: What was removed.
        verified: Whether it was proved right.
        why: For a graph module, what the class could not say.
    """

    kind: str
    settings: tuple[Setting, ...] = ()
    plan: Plan | None = None
    verified: bool = False
    why: str = ""


def note(module: nn.Module) -> Note:
    """What a pruned module knows about itself.

    Raises:
        InputError: It was not made by graphprune.
    """
    found = vars(module).get(_NOTE)
    if not isinstance(found, Note):
        raise InputError(f"this {type(module).__name__} was not made by graphprune")
    return found


def stamp(model: nn.Module, plan: Plan, *, verified: bool) -> None:
    """Note the plan and whether the result was proved."""
    vars(model)[_NOTE] = replace(note(model), plan=plan, verified=verified)


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's tensors, tied ones once."""
    stored = {id(t): t for _, t in named_tensors(module)}
    return sum(t.numel() * t.element_size() for t in stored.values())


def boxes_of(cut: Cut) -> dict[str, Box]:
    """What is kept of every stored tensor that is cut, by ``state_dict`` name."""
    weights = cut.deps.source.weights.values()
    return {w.name: box for w in weights if (box := cut.box(w.name, len(w.shape)))}


def rewrite(cut: Cut) -> nn.Module:
    """The smaller module; the original is not changed.

    It is in evaluation or training mode as the original is, a graph module that was one before in evaluation mode.

    Args:
        cut: What is kept of every axis; ``cut.deps.source.source`` is a ``Traced``.
    """
    traced, boxes = cut.deps.source.source, boxes_of(cut)
    graph = pruned_graph(cut, boxes)
    if isinstance(traced.module, fx.GraphModule):
        vars(graph)[_NOTE] = Note(GRAPH, why="it was a graph module before")
        return graph
    module, settings, why = _same_class(cut, boxes, graph)
    if module is None:
        vars(graph)[_NOTE] = Note(GRAPH, why=why)
        return graph.train(traced.module.training)
    vars(module)[_NOTE] = Note(SAME, settings)
    return module


def rebuilt(module: nn.Module, boxes: Mapping[str, Box], made: Note, *, inplace: bool = False) -> nn.Module:
    """Cut another module of the class in the same way, e.g. one that is made anew or the original itself.

    Raises:
        InputError: A box does not fit, or the result was a graph module.
    """
    if made.kind != SAME:
        raise InputError(f"only a graph module could be made ({made.why}); it cannot take the place of the module")
    out = sliced(module, boxes, inplace=inplace)
    for setting in made.settings:
        apply_setting(out, setting)
    vars(out)[_NOTE] = made
    return out


def _same_class(
    cut: Cut, boxes: Mapping[str, Box], graph: PrunedGraph
) -> tuple[nn.Module | None, tuple[Setting, ...], str]:
    """A module of the original's class that does what the graph does, with the attributes set; None and why."""
    traced = cut.deps.source.source
    try:
        module = sliced(traced.module, boxes)
    except InputError as refusal:
        return None, (), str(refusal)
    opaque = frozenset(p for p, m in module.named_modules() if isinstance(m, PrunedMultiheadAttention))
    recording = traced.recording or recorded(traced.module, traced.program, traced.args, traced.kwargs)
    if not recording.complete:
        return None, (), "it does not run without values"
    after = Recorder()
    graph_events(graph, traced.args, traced.kwargs, after, quick=recording.quick)
    seen, before, after = (r.without(opaque) for r in (recording.seen, recording.before, after))
    expected = expected_events(seen, before, after)

    def run() -> tuple[int, str | None]:
        recorder = Recorder(expected, opaque)
        fault = record(module, traced.args, traced.kwargs, recorder, quick=recording.quick)
        if fault is None and recorder.place < len(expected):
            fault = ""
        return recorder.place, fault

    search = Search(module, _sizes(cut), run)
    with evaluation(module):
        found = search.solve()
        why = "" if found else f"{run()[1] or 'its root'} holds sizes that no attribute says"
        if found and not _agree(module, graph, traced.args, traced.kwargs):
            found, why = False, "it gives other values than its graph"
    return (module if found else None), tuple(search.settings.values()), why


def _sizes(cut: Cut) -> dict[str, dict[int, frozenset[int]]]:
    """For every module path the old sizes of tensors and literals in it, each with what it becomes."""
    out: dict[str, dict[int, set[int]]] = {}
    graph = cut.deps.source
    for node in graph.nodes:
        here = out.setdefault(node.scope, {})
        for name in (*node.inputs, *node.outputs):
            for axis, size in enumerate(graph.values[name].shape or () if name else ()):
                kept = cut.kept(name, axis)
                if kept is not None and len(kept) != size:
                    here.setdefault(size, set()).add(len(kept))
        change = cut.edit(node)
        for name, new in change.attrs.items() if change is not None else ():
            for a, b in zip(tree_leaves(node.attrs.get(name)), tree_leaves(new), strict=False):
                if type(a) is int and type(b) is int and a != b and a > 0:
                    here.setdefault(a, set()).add(b)
    return {path: {a: frozenset(b) for a, b in sizes.items()} for path, sizes in out.items()}


def _agree(module: nn.Module, graph: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether two modules give the same numbers; on the meta device there are none."""
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        return True
    with torch.no_grad():
        pairs = zip(_tensors(module(*args, **kwargs)), _tensors(graph(*args, **kwargs)), strict=True)
        return all(_close(a, b) for a, b in pairs)


def _tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    a, b = a.double(), b.double()
    scale = float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 0.0
    return bool(torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE * (scale or 1.0), equal_nan=True))
