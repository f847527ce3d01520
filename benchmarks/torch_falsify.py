"""Whether the proof of a pruned module sees what is wrong: kept channels are overwritten, each has to be noticed.

Usage: python -m benchmarks.torch_falsify [NETWORK ...] [--weights 40]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import graphprune as gp
from benchmarks.torch_models import made
from graphprune.plan import planned_cut
from graphprune.rewrite.torch import boxes_of
from graphprune.verify.torch import verify_module

EXACT = [f"transformers/{n}" for n in ("llama", "qwen3", "gemma2", "gpt_neox", "t5_encoder")]
NETWORKS = [*EXACT, "segmentation/deeplabv3_resnet50"]


def falsified(name: str, most: int) -> tuple[float, int, list[str]]:
    """Error of the right module, wrong ones that were noticed, and the places where that was not so."""
    model, inputs = made(name)
    result = gp.prune(model, example_inputs=inputs, macs="50%")
    cut = planned_cut(result.deps, result.plan)
    state = dict(result.model.state_dict(keep_vars=True))
    boxes = {n: box for n, box in boxes_of(cut).items() if n in state}
    caught, missed = 0, []
    for weight in np.random.default_rng(0).permutation(sorted(boxes))[:most]:
        tensor = state[weight].data
        before = tensor.clone()
        for axis in boxes[weight].axes:
            tensor.select(axis, 0).copy_(before.select(axis, 1))
            if not torch.equal(tensor, before):
                if verify_module(cut, result.model).passed:
                    missed.append(f"{weight}[{axis}]")
                else:
                    caught += 1
            tensor.copy_(before)
    assert result.verdict is not None
    return result.verdict.error, caught, missed


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--weights", type=int, default=40, help="how many cut weights to spoil")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.networks:
        error, caught, missed = falsified(name, args.weights)
        print(f"{name}: error {error:.1e}, {caught} wrong modules refused, {len(missed)} not {missed}", flush=True)


if __name__ == "__main__":
    main()
