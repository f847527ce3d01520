"""Carries out a plan on a checkpoint: safetensors, sharded ones, .pt files and Hugging Face folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from graphprune.errors import InputError
from graphprune.plan import Plan
from graphprune.rewrite import safetensors
from graphprune.rewrite.config import Fields, updated
from graphprune.rewrite.files import check_output, staged
from graphprune.rewrite.replay import Shape
from graphprune.rewrite.shards import INDEX, Shards

TORCH = (".pt", ".pth", ".bin", ".ckpt")
PLAN = "plan.json"
_CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Other forms of the weights, and what belongs to them: they would no longer fit.
_LEFT_OUT = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.gguf", "*.ot"),
    *("*.safetensors", "*.index.json", "*.index", "*.ckpt.data-*"),
)
_NEVER_WEIGHTS = ("training_args.bin", "scheduler.pt", "rng_state*.pth")


@dataclass(frozen=True)
class Shrunk:
    """What became of a checkpoint.

    Attributes:
        before: Sizes of its tensors.
        after: Sizes of those written.
        bytes_before: Bytes of its tensors.
        bytes_after: Bytes of those written.
        fields: Entries of config.json that changed or could not follow.
        notes: What else to know, a sentence each.
        files: Names of the written files.
    """

    before: Mapping[str, Shape]
    after: Mapping[str, Shape]
    bytes_before: int
    bytes_after: int
    fields: Fields = field(default_factory=Fields)
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def cut(self) -> tuple[str, ...]:
        """Names of the tensors that got smaller."""
        return tuple(n for n, shape in self.before.items() if self.after.get(n, shape) != shape)

    @property
    def params(self) -> tuple[int, int]:
        """Elements before and after."""
        return sum(map(prod, self.before.values())), sum(map(prod, self.after.values()))


def is_checkpoint(path: Path) -> bool:
    """Whether a path names a checkpoint rather than a model: by its ending, or as a folder."""
    return path.suffix in (".safetensors", *TORCH) or path.name.endswith(INDEX) or path.is_dir()


def shrink(plan: Plan, source: Path, output: Path, done: Callable[[], None] = lambda: None) -> Shrunk:
    """Write a checkpoint without what a plan removes; all files or none.

    Args:
        plan: The plan.
        source: A .safetensors file, the index of a sharded one, a .pt or .pth file, or a Hugging Face folder.
        output: A file of the same kind (a sharded checkpoint may go to one .safetensors file), or a new folder.
        done: Called when all files are in place.

    Raises:
        InputError: A file cannot be read or written, or the plan does not fit.
    """
    if source.is_dir():
        return _folder(plan, source, output, done)
    if not source.exists():
        raise InputError(f"{source}: no such file")
    check_output(output, source)
    _check_kind(source, output)
    with staged(output, done) as home:
        if source.suffix in TORCH:
            return _torch(plan, source, home / output.name)
        return _tensors(plan, source, home / output.name, output.parent)


def _check_kind(source: Path, output: Path) -> None:
    torch = source.suffix in TORCH
    good = output.suffix in TORCH if torch else output.suffix == ".safetensors" or output.name.endswith(INDEX)
    if not good or (output.name.endswith(INDEX) and not source.name.endswith(INDEX)):
        ending = " or ".join(TORCH) if torch else ".safetensors"
        raise InputError(f"{output}: {source.name} becomes a {ending} file; give such a name")


# -- safetensors -----------------------------------------------------------------------------------------


def _tensors(plan: Plan, source: Path, target: Path, home: Path | None = None) -> Shrunk:
    """Write to ``target``, which moves to the folder ``home`` later; a new folder where none is given."""
    shards = Shards(source)
    kept = shards.cut(plan)
    names = shards.renamed(target.name) if target.name.endswith(INDEX) else {}
    if home is not None:
        for name in (target.name, *names.values()):
            check_output(home / name, *shards.paths)
    if names:
        size = shards.write_shards(target, kept, names)
    else:
        order = sorted(kept, key=lambda n: (-safetensors.BITS[kept[n].dtype], n)) if shards.index else list(kept)
        size = safetensors.write(target, [kept[n] for n in order], shards.metadata)
    after = {n: k.shape for n, k in kept.items()}
    files = tuple(sorted(p.name for p in target.parent.iterdir()))
    return Shrunk(shards.shapes, after, shards.bytes, size, files=files)


# -- .pt and folders -------------------------------------------------------------------------------------


def _torch(plan: Plan, source: Path, target: Path) -> Shrunk:
    try:
        from graphprune.rewrite import torch_file
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(f'{source}: reading it needs torch; pip install "graphprune[torch]"') from None
    before, after, notes = torch_file.shrink(plan, source, target)
    return Shrunk(
        {n: shape for n, (shape, _) in before.items()},
        {n: shape for n, (shape, _) in after.items()},
        sum(size for _, size in before.values()),
        sum(size for _, size in after.values()),
        notes=notes,
        files=(target.name,),
    )


def _folder(plan: Plan, source: Path, output: Path, done: Callable[[], None]) -> Shrunk:
    weights = weights_of(source)
    _check_folder(source, output)
    with staged(output, done) as home:
        target = home / output.name
        target.mkdir()
        if weights.suffix in TORCH:
            result = _torch(plan, weights, target / weights.name)
        else:
            result = _tensors(plan, weights, target / weights.name)
        written = {p.name for p in target.iterdir()}
        left_out = sorted(_copied(source, target, written))
        fields = _config(plan, source, target, result)
        (target / PLAN).write_text(plan.to_json(), encoding="utf-8", newline="\n")
        files = tuple(sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()))
    notes = (*result.notes, *fields.notes)
    if left_out:
        notes += (f"not copied, since it would no longer fit: {', '.join(left_out)}",)
    return replace(result, fields=fields, notes=notes, files=files)


def weights_of(folder: Path) -> Path:
    """The weights of a Hugging Face folder, safetensors first."""
    single, index = folder / WEIGHTS, folder / f"model{INDEX}"
    for path in (index, single, folder / "pytorch_model.bin"):
        if path.is_file():
            return path
    found = sorted(folder.glob(f"*{INDEX}")) or sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    listed = ", ".join(p.name for p in found) or "none of model.safetensors, its index, pytorch_model.bin"
    raise InputError(f"{folder}: not one checkpoint ({listed}); give the file")


def _check_folder(source: Path, output: Path) -> None:
    old, new = source.resolve(), output.resolve()
    if old == new or old in new.parents or new in old.parents:
        raise InputError(f"{output}: the output would overwrite the input or lie inside it; give another folder")
    if not new.parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"{output}: exists and is not an empty folder; give a new one")


def _copied(source: Path, target: Path, written: Iterable[str]) -> Iterable[str]:
    """Copy what are no weights; yields the names of what was left out."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if not path.is_file() or (name.name in (_CONFIG, PLAN) and len(name.parts) == 1) or str(name) in written:
            continue
        stale = any(path.match(p) for p in _LEFT_OUT) and not any(path.match(p) for p in _NEVER_WEIGHTS)
        if stale:
            yield str(name)
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / name)


def _config(plan: Plan, source: Path, target: Path, result: Shrunk) -> Fields:
    path = source / _CONFIG
    if not path.is_file():
        return Fields()
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a JSON object")
    new, fields = updated(config, plan, result.before, result.after)
    (target / _CONFIG).write_text(json.dumps(new, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return fields
