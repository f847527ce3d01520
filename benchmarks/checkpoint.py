"""A checkpoint of several gigabytes is cut offline: time and peak memory, each in a process of its own.

    python -m benchmarks.checkpoint [--layers 14] [--folder DIR]

A decoder of Llama's shape is traced on the meta device, a share of every group is drawn at random and written down as
a plan. Its weights, random bytes in bfloat16, are written as a Hugging Face folder of shards and as one .pt file.
`graphprune apply` cuts both in fresh processes; "peak" is the largest resident memory of such a process, "own" the
part of it that is no mapped file, sampled every 10 ms; "start" is a process that only imports the same modules.
Every tensor is compared with slices taken by the safetensors package or torch. The files are deleted at the end.
Writes `benchmarks/results/checkpoint.md` and `.json`.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn

import benchmarks.zoo.entries  # noqa: F401 - makes torchvision importable
from benchmarks.common import Row, header, table, watched, write_results
from graphprune import api
from graphprune.budget.record import make_plan
from graphprune.plan import Plan
from graphprune.rewrite import safetensors
from graphprune.rewrite.replay import boxes

SHARE = 0.4
SHARD = 1_000_000_000
START = "from graphprune import api, commands; from graphprune.report import tables; import {torch}"


def decoder(layers: int) -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        use_cache=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config).bfloat16().eval()


def drawn_plan(module: nn.Module) -> Plan:
    """A plan that takes the same share of every group, drawn at random."""
    ids = torch.zeros(1, 8, dtype=torch.long, device="meta")
    deps = api.analyze(api.trace(module, ids))
    rng = np.random.default_rng(0)
    units = [rng.choice(g.units, int(g.size * SHARE), replace=False) for g in deps.groups]
    return make_plan(deps, np.sort(np.concatenate(units)), recipe={"ratio": SHARE}, before={}, after={})


def shards(module: nn.Module, folder: Path) -> int:
    """Write random weights in shards, tensor by tensor; returns their bytes."""
    rng = np.random.default_rng(1)
    shapes = {n: tuple(t.shape) for n, t in module.state_dict().items()}
    parts: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        if size + 2 * prod(shape) > SHARD and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += 2 * prod(shape)
    weights = {}
    for k, names in enumerate(parts):
        path = folder / f"model-{k + 1:05}-of-{len(parts):05}.safetensors"
        weights |= dict.fromkeys(names, path.name)
        kept = [
            safetensors.Kept(n, "BF16", shapes[n], lambda n=n: random_bytes(rng, 2 * prod(shapes[n]))) for n in names
        ]
        safetensors.write(path, kept, {"format": "pt"})
    total = 2 * sum(prod(s) for s in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    module.config.save_pretrained(folder)
    return total


def random_bytes(rng: np.random.Generator, size: int) -> Iterator[bytes]:
    for start in range(0, size, 1 << 24):
        yield rng.bytes(min(1 << 24, size - start))


def one_file(folder: Path, path: Path) -> None:
    """The same weights as a file of torch.save."""
    torch.save({"state_dict": dict(loaded(folder)), "epoch": 3}, path)


def loaded(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, file.get_tensor(name)


def wrong(plan: Plan, old: Iterator[tuple[str, Tensor]], new: dict[str, Tensor]) -> list[str]:
    """Tensors that are not the slices that the plan says, taken by torch."""
    kept = boxes(plan)
    bad = []
    for name, full in old:
        cut = full
        for axis, positions in kept[name].axes.items() if name in kept else ():
            cut = cut.index_select(axis, torch.from_numpy(positions))
        if not torch.equal(cut.view(torch.int16), new[name].view(torch.int16)):
            bad.append(name)
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    module = decoder(arguments.layers)
    plan = drawn_plan(module)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="checkpoint-") as name:
        home = Path(name)
        (home / "plan.json").write_text(plan.to_json())
        (home / "full").mkdir()
        size = shards(module, home / "full")
        print(f"{size / 1e9:.2f} GB, {len(module.state_dict())} tensors", flush=True)
        apply = [sys.executable, "-m", "graphprune", "apply", str(home / "plan.json"), "--json"]
        for form in ("shards", "pt"):
            if form == "pt":
                one_file(home / "full", home / "full.pt")
            full, small = (home / "full", home / "small") if form == "shards" else (home / "full.pt", home / "small.pt")
            start = watched([sys.executable, "-c", START.format(torch="torch" if form == "pt" else "json")])
            row = watched([*apply, str(full), str(small)])
            report = json.loads(row.pop("out"))
            if form == "shards":
                new = dict(loaded(small))
                fields = {f["name"]: f["new"] for f in report["config"] if not f["reason"]}
            else:
                new = torch.load(small, weights_only=True, mmap=True)["state_dict"]
            bad = wrong(plan, loaded(home / "full"), new)
            del new
            gc.collect()
            rows.append({"form": form, **row, "start": start["peak"], "before": size, "after": report["bytes"][1]})
            rows[-1] |= {"tensors": report["tensors"], "cut": report["cut"], "wrong": bad}
            print(rows[-1], flush=True)
    largest = max(2 * prod(t.shape) for t in module.state_dict().values())
    cells = [
        (r["form"], gigabytes(r["before"]), gigabytes(r["after"]), f"{r['cut']} of {r['tensors']}", len(r["wrong"]),
         r["seconds"], megabytes(r["peak"]), megabytes(r["own"]), megabytes(r["start"]))
        for r in rows
    ]  # fmt: skip
    names = ["checkpoint", "before", "after", "tensors cut", "wrong", "seconds", "peak", "own", "start"]
    text = f"{header('Checkpoints cut offline')}\n{table(cells, names)}\n"
    text += f"\nLargest tensor: {megabytes(largest)}. Fields of config.json that changed: {fields or 'none'}.\n"
    print(text)
    write_results("checkpoint", text, rows)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
