"""Pruned modules on disk: safetensors beside the plan, and back into a module of the same class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.coupling.groups import analyze
from graphprune.errors import InputError
from graphprune.graph.torch_program import named_tensors
from graphprune.graph.torch_read import read
from graphprune.plan import Plan, planned_cut
from graphprune.rewrite import safetensors
from graphprune.rewrite.checkpoint import PLAN, WEIGHTS, weights_of
from graphprune.rewrite.files import staged
from graphprune.rewrite.replay import boxes
from graphprune.rewrite.shards import Shards
from graphprune.rewrite.torch import GRAPH, SAME, Note, note, rebuilt, rewrite
from graphprune.rewrite.torch_attributes import Setting

_KIND, _VERIFIED, _WHY = "graphprune.kind", "graphprune.verified", "graphprune.why"
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def save(module: nn.Module, folder: Path) -> None:
    """Write a pruned module: "model.safetensors" and "plan.json", in place of those of an earlier save.

    Raises:
        InputError: It was not made by graphprune, holds state that is no tensor, or the folder cannot be written.
    """
    made = note(module)
    if made.plan is None:
        raise InputError(f"this {type(module).__name__} does not know its plan; it was not made by prune")
    tensors = _stored(module)
    plan = made.plan.model_copy(update={"attributes": _written(made.settings)})
    if not folder.resolve().parent.is_dir():
        raise InputError(f"{folder}: the folder {folder.parent} does not exist")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: this is a file; give a folder")
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        with staged(folder / WEIGHTS) as home:
            about = {"format": "pt", _KIND: made.kind, _VERIFIED: str(made.verified).lower(), _WHY: made.why}
            order = sorted(tensors, key=lambda t: (-safetensors.BITS[t.dtype], t.name))
            safetensors.write(home / WEIGHTS, order, {k: v for k, v in about.items() if v})
            (home / PLAN).write_text(plan.to_json(), encoding="utf-8", newline="\n")
    finally:
        if new and not any(folder.iterdir()):
            folder.rmdir()


def _stored(module: nn.Module) -> list[safetensors.Kept]:
    """Tensors of the state dict; those that are tied once, under their first name."""
    first: dict[int, str] = {}
    out = []
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
            raise InputError(f"{name} cannot be saved: it is no dense tensor with values")
        if first.setdefault(id(tensor), name) != name:
            continue
        if tensor.dtype not in _NAMES:
            raise InputError(f"{name} cannot be saved: safetensors have no {tensor.dtype}")
        out.append(_kept(name, tensor.detach()))
    return out


def _kept(name: str, tensor: Tensor) -> safetensors.Kept:
    def content() -> Any:
        flat = tensor.cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data if flat.numel() else b""

    return safetensors.Kept(name, _NAMES[tensor.dtype], tuple(tensor.shape), content)


def _written(settings: tuple[Setting, ...]) -> dict[str, dict[str, Any]]:
    """Attributes by module path and name, "holder.name" for one of an object that the module holds."""
    out: dict[str, dict[str, Any]] = {}
    for s in settings:
        value = list(s.value) if isinstance(s.value, tuple | list) else s.value
        out.setdefault(s.path, {})[f"{s.holder}.{s.name}" if s.holder else s.name] = value
    return out


def restore(module: nn.Module, folder: Path, *, example_inputs: Any = None, inplace: bool = False) -> nn.Module:
    """Rebuild a pruned module from an instance of its original class.

    Args:
        module: An instance of the original; its weights do not matter.
        folder: What ``save`` wrote, or a Hugging Face folder that was cut by a plan.
        example_inputs: What it takes: with them the sizes that its attributes hold are found anew.
        inplace: Cut the instance itself.

    Raises:
        InputError: The folder is not such a one, or the module is not one of those it was made from.
    """
    plan = Plan.read(folder / PLAN)
    stored = Shards(weights_of(folder))
    cut = boxes(plan)
    _check_original(module, plan)
    kind = stored.metadata.get(_KIND, SAME)
    if example_inputs is not None:
        if inplace:
            raise InputError("inplace=True and example_inputs exclude each other")
        graph = replace(read(module, example_inputs), equal=())  # a plan made on a file need not keep them
        out = rewrite(planned_cut(analyze(graph), plan))
    elif kind == GRAPH:
        raise InputError(f"{folder}: a graph module was saved; give example_inputs, so that it can be made again")
    else:
        out = rebuilt(module, cut, Note(SAME, tuple(_settings(module, plan))), inplace=inplace)
    verified = stored.metadata.get(_VERIFIED) == "true"
    vars(out)["_graphprune"] = replace(note(out), plan=plan, verified=verified)
    _load(out, stored, folder)
    return out


def _check_original(module: nn.Module, plan: Plan) -> None:
    tensors = dict(named_tensors(module))
    for name in plan.weights:
        if name not in tensors:
            raise InputError(f"this {type(module).__name__} has no {name}, which the plan cuts; it is another model")
        shape = tuple(tensors[name].shape)
        if shape != plan.shapes[name]:
            raise InputError(
                f"{name} has shape {list(shape)} in this {type(module).__name__}, the plan was made for"
                f" {list(plan.shapes[name])}; give an instance of the original's sizes"
            )


def _settings(module: nn.Module, plan: Plan) -> Any:
    for path, values in plan.attributes.items():
        for name, value in values.items():
            holder, _, last = name.rpartition(".")
            try:
                owner: Any = module.get_submodule(path)
                old = vars(vars(owner)[holder] if holder else owner)[last]
            except (AttributeError, KeyError, TypeError):
                raise InputError(f"this {type(module).__name__} has no attribute {path}.{name}") from None
            kind: Any = type(old)
            if isinstance(value, list) and isinstance(old, tuple):
                value = kind(*value) if hasattr(old, "_fields") else kind(value)  # noqa: PLW2901 - as it was
            yield Setting(path, holder, last, value)


def _load(module: nn.Module, stored: Shards, folder: Path) -> None:
    """Replace all tensors that are saved, whatever their dtype or device was; what is tied stays tied."""
    names: dict[int, list[str]] = {}
    state = {n: t for n, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    unknown = [n for n in stored.tensors if n not in state]
    if unknown:
        raise InputError(f"{folder}: {unknown[0]} is no weight of this {type(module).__name__}")
    new: dict[int, Tensor] = {}
    for key, same in names.items():
        found = [n for n in same if n in stored.tensors]
        if not found:
            raise InputError(f"{folder}: no weight {same[0]} in it")
        values = [_read(stored.tensors[n]) for n in found]
        if any(not torch.equal(values[0], v) for v in values[1:]):
            raise InputError(f"{folder}: {found[1]} differs from {found[0]}, which it is tied to in this module")
        old = state[same[0]]
        if values[0].shape != old.shape:
            raise InputError(f"{folder}: {found[0]} has shape {list(values[0].shape)}, not {list(old.shape)}")
        new[key] = _like(old, values[0])
    _put(module, new)


def _like(old: Tensor, new: Tensor) -> Tensor:
    new = new if old.is_meta else new.to(old.device)
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _put(module: nn.Module, new: Mapping[int, Tensor]) -> None:
    for layer in module.modules():
        for name, tensor in [*layer._parameters.items()]:
            if tensor is not None and id(tensor) in new:
                setattr(layer, name, new[id(tensor)])  # so that recurrent layers notice
        for name, buffer in [*layer._buffers.items()]:
            if buffer is not None and id(buffer) in new:
                layer._buffers[name] = new[id(buffer)]


def _read(tensor: safetensors.Tensor) -> Tensor:
    if tensor.dtype not in _DTYPES:
        raise InputError(f"{tensor.path}: torch has no {tensor.dtype}, the type of {tensor.name}")
    content = bytearray().join(tensor.raw())
    if not content:
        return torch.empty(tensor.shape, dtype=_DTYPES[tensor.dtype])
    return torch.frombuffer(content, dtype=_DTYPES[tensor.dtype]).reshape(tensor.shape)
