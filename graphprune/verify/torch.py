"""Compares a pruned module with its masked reference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from graphprune.coupling.cut import Cut
from graphprune.graph.torch_capture import evaluation
from graphprune.graph.torch_feed import Call
from graphprune.graph.torch_program import named_tensors, unlifted
from graphprune.rewrite.torch import boxes_of
from graphprune.rewrite.torch_graph import PrunedGraph
from graphprune.rewrite.torch_slices import take
from graphprune.verify.compare import Verdict
from graphprune.verify.torch_reference import MaskedReference, tensors

State = dict[str, Tensor]
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float64: 1e-8}
_DEFAULT_TOLERANCE = 1e-4
_FLOOR_FACTOR = 2.0
_NUDGE = 3e-7


def verify_module(
    cut: Cut,
    pruned: nn.Module,
    *,
    feeds: Sequence[Any] = (),
    samples: int = 1,
    seed: int = 0,
    lossless: bool = False,
) -> Verdict:
    """Run a pruned module against the masked original, in evaluation mode.

    Args:
        cut: The removal; its source is a traced module.
        pruned: The pruned module.
        feeds: Inputs to use beside the example inputs: tensors, tuples of what ``forward`` takes, or arrays by the
            names of placeholders.
        samples: Random inputs beside the example inputs.
        seed: Seed of the random inputs.
        lossless: Whether the original itself is the reference.

    Returns:
        The verdict; it never raises for a wrong module.
    """
    traced = cut.deps.source.source
    state = {n: t.detach() for n, t in named_tensors(traced.module)}
    if any(t.is_meta for t in state.values()):
        return _failed("has no values: it is on the meta device")
    inputs = [(traced.args, dict(traced.kwargs))]
    call = Call(traced)
    inputs += [call(f) if isinstance(f, Mapping) else (f if isinstance(f, tuple) else (f,), {}) for f in feeds]
    inputs += [_redrawn(*inputs[0], seed + k) for k in range(samples)]
    twin = _twin(cut, state, seed)
    try:
        worst = _compare(cut, pruned, state, inputs, lossless=lossless)
        if twin is not None and worst.passed and not lossless:
            worst = max(
                worst, _compare(cut, pruned, twin, inputs, twin=True), key=lambda v: v.error / (v.tolerance or 1)
            )
    except Exception as error:  # whatever a forward may raise
        return _failed(f"does not run: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return worst


def _compare(
    cut: Cut, pruned: nn.Module, state: State, inputs: Sequence[Any], *, lossless: bool = False, twin: bool = False
) -> Verdict:
    """Run both on all inputs.

    Args:
        cut: The removal.
        pruned: The pruned module, which runs with tensors of its own.
        state: Full-width tensors of the reference.
        inputs: Pairs of positional inputs and inputs by keyword.
        lossless: Whether the original itself is the reference.
        twin: Whether the pruned module runs with tensors cut from ``state`` instead of its own.
    """
    traced, values = cut.deps.source.source, cut.deps.source.values
    reference = MaskedReference(cut, state)
    small = _cut_state(cut, pruned, state) if twin else {}
    outputs = _output_names(cut)
    error, allowed, said = 0.0, _tolerance(state), False
    for args, kwargs in inputs:
        with torch.no_grad(), evaluated(pruned), evaluation(traced.module):
            full = tensors(traced.module(*args, **kwargs)) if lossless else reference(args, kwargs)
            got = tensors(functional_call(pruned, small, args, dict(kwargs), tie_weights=False))
        wanted = [take(t, cut.box(n, t.ndim)) if n in values else t for n, t in zip(outputs, full, strict=True)]
        if [t.shape for t in wanted] != [t.shape for t in got]:
            shapes = [tuple(t.shape) for t in got]
            return _failed(f"gives outputs of shape {shapes} instead of {[tuple(t.shape) for t in wanted]}")
        said |= any(_says_something(t) for t in wanted)
        off = max((difference(a, b) for a, b in zip(wanted, got, strict=True)), default=0.0)
        if off > allowed and not lossless:
            moved = reference(*_nudged(args, kwargs))
            again = [difference(a, b) for a, b in zip(full, moved, strict=True)]
            allowed = max(allowed, _FLOOR_FACTOR * max((d for d in again if math.isfinite(d)), default=0.0))
        error = max(error, off)
    if not said:
        return _failed("gives no finite or only equal values, so nothing is proved; give other example inputs")
    passed, against = error <= allowed, "the original" if lossless else "the masked original"
    relation = "equals" if passed else "differs from"
    text = f"{relation} {against}: relative error {error:.2g} (allowed {allowed:.2g}) on {len(inputs)} inputs"
    return Verdict(passed, error, allowed, len(inputs), text)


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; a graph has its mode in its nodes."""
    if not isinstance(module, PrunedGraph):
        with evaluation(module):
            yield
        return
    before = module.training
    module.train(mode=False)
    try:
        yield
    finally:
        module.train(before)


def _tolerance(state: State) -> float:
    """What the least precise float type of the stored tensors allows."""
    found = (_TOLERANCE.get(t.dtype, _DEFAULT_TOLERANCE) for t in state.values() if t.is_floating_point())
    return max(found, default=_DEFAULT_TOLERANCE)


def _output_names(cut: Cut) -> list[str]:
    """For every tensor that the graph returns the name of its value."""
    (out,) = unlifted(cut.deps.source.source.program).graph.find_nodes(op="output")
    names = []
    for n in tree_leaves(out.args):
        if isinstance(n, fx.Node):
            picked = getattr(n.target, "__name__", "") == "getitem"
            names.append(f"{n.args[0]}#{n.args[1]}" if picked else n.name)
    return names


def _cut_state(cut: Cut, pruned: nn.Module, state: State) -> State:
    """The full-width tensors as the pruned module holds them."""
    boxes, tied = boxes_of(cut), cut.deps.source.source.tied
    out = {}
    for name, tensor in named_tensors(pruned):
        full = state.get(name)
        box = boxes.get(tied.get(name, name))
        out[name] = tensor.detach() if full is None else take(full, box) if box else full.clone()
    return out


def _twin(cut: Cut, state: State, seed: int) -> State | None:
    """The tensors with random values where one value fills a cut one: there a wrong slice would go unseen."""
    traced, generator = cut.deps.source.source, torch.Generator().manual_seed(seed)
    out, flat = dict(state), False
    for name in boxes_of(cut):
        tensor = state.get(name)
        if tensor is None or not tensor.is_floating_point() or not bool((tensor == tensor.flatten()[0]).all()):
            continue
        flat = True
        drawn = torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75
        if float(tensor.flatten()[0]) == 0.0:
            drawn = (drawn - 1) * 0.4
        for other in (name, *(a for a, real in traced.tied.items() if real == name)):
            out[other] = drawn.to(tensor.dtype).to(tensor.device)
    return out if flat else None


def _redrawn(args: Any, kwargs: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
    """Inputs like these: floats of the same mean and spread, integers shuffled."""
    generator = torch.Generator().manual_seed(seed)

    def draw(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.numel() < 2:
            return value
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator).to(value.dtype).to(value.device)
            return noise * (value.std() if bool(value.std() > 0) else 1.0) + value.mean()
        order = torch.randperm(value.numel(), generator=generator).to(value.device)
        return value.flatten()[order].reshape(value.shape)

    return tree_map(draw, (args, dict(kwargs)))  # type: ignore[no-any-return]


def _nudged(args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The same inputs, off by the last bits."""

    def nudge(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value * (1 + _NUDGE * torch.randn_like(value)) if floating else value

    return tree_map(nudge, (args, dict(kwargs)))  # type: ignore[no-any-return]


def difference(wanted: Tensor, got: Tensor) -> float:
    """max|a - b| / max|a|, infinite for other shapes or non-finite values in other places."""
    if wanted.shape != got.shape:
        return float("inf")
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return 0.0 if torch.equal(wanted, got) else float("inf")
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    a, b = wanted.to(wide), got.to(wide)
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    a, b = a[finite], b[finite]
    if not a.numel():
        return 0.0
    scale, worst = float(a.abs().max()), float((a - b).abs().max())
    return worst / scale if scale > 0 else worst


def _says_something(value: Tensor) -> bool:
    """Whether an output is more than one number throughout."""
    flat = value.flatten()
    flat = flat[flat.isfinite()] if flat.is_floating_point() else flat
    return bool(flat.numel() == 1 or (flat.numel() and (flat != flat[0]).any()))


def _failed(text: str) -> Verdict:
    return Verdict(passed=False, error=float("inf"), tolerance=0.0, samples=0, text=text)
