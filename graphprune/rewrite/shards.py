"""A safetensors checkpoint of one file or of many with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from graphprune.errors import InputError
from graphprune.plan import Plan
from graphprune.rewrite import safetensors
from graphprune.rewrite.replay import Shape, fit

INDEX = ".safetensors.index.json"


class Shards:
    """A safetensors checkpoint, of one file or of several with an index.

    Args:
        source: The file or the index.

    Raises:
        InputError: A file is missing or no safetensors file, or does not hold what the index says.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.index: dict[str, Any] = _index(source) if source.name.endswith(INDEX) else {}
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, safetensors.Tensor] = {}
        names = dict.fromkeys(self.index["weight_map"].values()) if self.index else [source.name]
        self.paths = [source.with_name(name) for name in names]
        self.metadatas = {}
        for path in self.paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file" + (f"; {source.name} names it" if self.index else ""))
            tensors, self.metadatas[path.name] = safetensors.read(path)
            self.metadata |= self.metadatas[path.name]
            twice = tensors.keys() & self.tensors.keys()
            if twice:
                raise InputError(f"{path}: {min(twice)} stands in {self.tensors[min(twice)].path.name} as well")
            self.tensors |= tensors
        for name, shard in self.index["weight_map"].items() if self.index else ():
            if name not in self.tensors or self.tensors[name].path.name != shard:
                raise InputError(f"{source.with_name(shard)}: no tensor {name}, which {source.name} says it has")

    def cut(self, plan: Plan) -> dict[str, safetensors.Kept]:
        """What is kept of every tensor."""
        found = fit(plan, {n: t.stored for n, t in self.tensors.items()}, str(self.source))
        return {n: safetensors.cut(t, found.get(n)) for n, t in self.tensors.items()}

    def renamed(self, index: str) -> dict[str, str]:
        """Names of the shards beside a new index: the old ones, or numbered after its name."""
        count = len(self.paths)
        if index == self.source.name:
            return {p.name: p.name for p in self.paths}
        stem = index.removesuffix(INDEX)
        return {p.name: f"{stem}-{k + 1:05}-of-{count:05}.safetensors" for k, p in enumerate(self.paths)}

    def write_shards(self, target: Path, kept: Mapping[str, safetensors.Kept], names: Mapping[str, str]) -> int:
        """Write every shard and the index beside each other."""
        size = 0
        for path in self.paths:
            own = [kept[n] for n, t in self.tensors.items() if t.path == path]
            size += safetensors.write(target.with_name(names[path.name]), own, self.metadatas[path.name])
        found = dict(self.index)
        found["weight_map"] = {n: names[shard] for n, shard in self.index["weight_map"].items()}
        about = found.get("metadata")
        if isinstance(about, dict):
            new = {"total_size": size, "total_parameters": sum(prod(k.shape) for k in kept.values())}
            found["metadata"] = about | {k: v for k, v in new.items() if k in about}
        target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return size

    @property
    def shapes(self) -> dict[str, Shape]:
        """Sizes of all tensors."""
        return {n: t.shape for n, t in self.tensors.items()}

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.bytes for t in self.tensors.values())


def _index(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        names = [*found["weight_map"].values()]
        if not names or any(Path(n).name != n for n in names):
            raise ValueError("a shard is no plain file name")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not an index of safetensors files ({error})") from None
    return dict(found)
