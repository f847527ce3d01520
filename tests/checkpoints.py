"""Small checkpoints with a plan that fits them, and a slicer that knows nothing of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from graphprune.plan import Plan, PlannedBlocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

State = dict[str, "NDArray[Any]"]
GONE = [1, 3]  # positions that leave wherever the 8 channels are
KEPT = [0, 2, 4, 5, 6, 7]


def state(prefix: str = "") -> State:
    """Two layers and a grouped one whose groups lose channels of their own, in several types."""
    rng = np.random.default_rng(0)
    made = {
        "first.weight": rng.standard_normal((8, 3)),
        "first.bias": rng.standard_normal(8).astype(np.float16),
        "second.weight": rng.standard_normal((5, 8, 3, 3)).astype(np.float32),
        "second.codes": rng.integers(-99, 99, (5, 8)).astype(np.int8),
        "grouped.weight": rng.standard_normal((6, 4, 2)).astype(np.float32),
        "norm.steps": np.array(3),
        "positions": np.arange(16).reshape(1, 16),
        "head.weight": rng.standard_normal((7, 5)).astype(np.float32),
    }
    return {prefix + n: v for n, v in made.items()}


def plan(**changes: Any) -> Plan:
    """The plan that removes ``GONE``, and from the two groups of the grouped layer what differs."""
    shapes = {n: v.shape for n, v in state().items() if v.ndim}
    weights: Any = {
        "first.weight": {0: GONE},
        "first.bias": {0: GONE},
        "second.weight": {1: GONE},
        "second.codes": {1: GONE},
        "grouped.weight": {1: [[0, 1], [2, 3]]},
    }
    blocks = {"grouped.weight": {1: PlannedBlocks(axis=0)}}
    return Plan(**{"weights": weights, "shapes": shapes, "blocks": blocks, **changes})


def sliced(full: State, prefix: str = "") -> State:
    """What has to be left, by plain numpy."""
    out = dict(full)
    for name in ("first.weight", "first.bias"):
        out[prefix + name] = full[prefix + name][KEPT]
    for name in ("second.weight", "second.codes"):
        out[prefix + name] = full[prefix + name][:, KEPT]
    grouped = full[f"{prefix}grouped.weight"]
    out[f"{prefix}grouped.weight"] = np.concatenate([grouped[:3, 2:], grouped[3:, :2]])
    return out


def same(got: State, wanted: State) -> bool:
    """Whether two checkpoints hold the same, types included."""
    return got.keys() == wanted.keys() and all(
        got[n].dtype == v.dtype and got[n].shape == v.shape and got[n].tobytes() == v.tobytes()
        for n, v in wanted.items()
    )


def single(folder: Path, tensors: State | None = None) -> Path:
    """A .safetensors file with the plan "plan.json" beside it."""
    (folder / "plan.json").write_text(plan().to_json())
    save_file(tensors or state(), folder / "full.safetensors", metadata={"format": "pt", "note": "ü"})
    return folder / "full.safetensors"


def sharded(folder: Path, tensors: State | None = None) -> Path:
    """An index with three shards."""
    (folder / "plan.json").write_text(plan().to_json())
    tensors = tensors or state()
    names = sorted(tensors)
    where = {n: f"model-{k % 3 + 1:05}-of-00003.safetensors" for k, n in enumerate(names)}
    for shard in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == shard}, folder / shard, metadata={"format": "pt"})
    size = sum(v.nbytes for v in tensors.values())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": size, "note": 1}, "weight_map": where}))
    return index


def read(path: Path) -> State:
    """All tensors of a .safetensors file, or of the shards that an index names."""
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    where = json.loads(path.read_text())["weight_map"]
    found = {n: v for shard in set(where.values()) for n, v in load_file(path.with_name(shard)).items()}
    assert found.keys() == where.keys()
    return found
