"""Traces and analyses every network of torchvision and of the zoo: which operators have no rule, how long it takes.

`python -m benchmarks.aten [PATTERN]` prints a row for each network and the operators that froze something because
nothing is known of them.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.zoo.models import TRANSFORMERS, Entry  # before torchvision: it declares what that may lack
from graphprune.coupling.groups import analyze
from graphprune.graph.torch import trace

from torchvision import models  # isort: skip

Built = tuple[torch.nn.Module, tuple[Any, ...]]
LARGE = ("regnet_y_128gf", "vit_h_14")


def networks() -> Iterator[tuple[str, Callable[[], Built]]]:
    """Name and builder of every network with example inputs."""
    for kind in (models, models.segmentation, models.video):
        for name in models.list_models(module=kind):
            yield name, lambda name=name, kind=kind: torchvision_network(name, kind)
    for name, entry in TRANSFORMERS.items():
        yield name, lambda entry=entry: zoo_network(entry)


def torchvision_network(name: str, kind: Any) -> Built:
    """A torchvision network with random weights; the largest have none, on the meta device."""
    settings: dict[str, Any] = {"weights": None}
    if kind is models.segmentation:
        settings["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = False
    size: tuple[int, ...] = (1, 3, 224, 224)
    if kind is models.video:
        size = (1, 3, 16, 224, 224) if name.startswith(("mvit", "swin", "s3d")) else (1, 3, 16, 112, 112)
    if name == "inception_v3":
        size = (1, 3, 299, 299)
    device = "meta" if name.startswith(LARGE) else "cpu"
    return models.get_model(name, **settings).to(device), (torch.zeros(size, device=device),)


def zoo_network(entry: Entry) -> Built:
    """A network of the zoo."""
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(v.sample({"batch": 2, "seq": 24}, generator) for v in entry.inputs)
    return entry.build(), inputs


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    missing: Counter[str] = Counter()
    where: dict[str, set[str]] = {}
    for name, build in networks():
        if not re.search(pattern, name):
            continue
        try:
            module, inputs = build()
            start = time.perf_counter()
            graph = trace(module, inputs, name=name)
            middle = time.perf_counter()
            deps = analyze(graph)
        except Exception as error:
            print(f"{name:32} {type(error).__name__}: {str(error)[:160]}", flush=True)
            continue
        end = time.perf_counter()
        keys = {n.name: n.key for n in graph.nodes}
        stuck = Counter(f"{keys[n]}: {why}" for n, why in deps.state.opaque.items())
        missing.update(stuck)
        for text in stuck:
            where.setdefault(text, set()).add(name)
        times = f"trace {middle - start:5.2f} s  analysis {end - middle:5.2f} s"
        facts = f"{len(graph.nodes):5} nodes {len(deps.groups):4} groups {deps.units:6} units"
        print(f"{name:32} {times}  {facts}  granularity {deps.granularity():.2f}  stuck {stuck.total()}", flush=True)
    for text, count in missing.most_common():
        print(f"{count:5} {text}  ({', '.join(sorted(where[text])[:4])})")


if __name__ == "__main__":
    main()
