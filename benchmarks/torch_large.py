"""How long large language models on the meta device take: capture, analysis, a plan and the smaller module.

Usage: python -m benchmarks.torch_large [--rounds 3] [--tokens 64]

The models are those of transformers at their full sizes, without values: nothing may read any. Writes
`benchmarks/results/torch-large.md` and `.json`.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import benchmarks.zoo.entries  # noqa: F401 - makes torchvision importable
import graphprune as gp
from benchmarks.common import Row, header, table, write_results
from graphprune.rewrite.torch import note

_LLAMA = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 32}  # fmt: skip
_QWEN3 = {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
          "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}  # fmt: skip
MODELS = {"Llama-2-7B": ("Llama", _LLAMA), "Qwen3-8B": ("Qwen3", _QWEN3)}


class Logits(torch.nn.Module):
    """A language model as a function of its tokens."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, length) to logits (batch, length, vocabulary)."""
        logits: torch.Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


def built(kind: str, options: dict[str, Any]) -> torch.nn.Module:
    """A model on the meta device."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**options, attn_implementation="sdpa")
    with torch.device("meta"):
        return Logits(getattr(transformers, f"{kind}ForCausalLM")(config)).eval()


def measured(name: str, rounds: int, tokens: int) -> Row:
    """Median processor seconds of each step, and what was found."""
    spent: dict[str, list[float]] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        out = work()
        spent.setdefault(step, []).append(time.process_time() - start)
        return out

    row: Row = {}
    for _ in range(rounds):
        model = built(*MODELS[name])
        inputs = torch.zeros((1, tokens), dtype=torch.int64, device="meta")
        graph = timed("capture", lambda model=model, inputs=inputs: gp.trace(model, inputs))
        deps = timed("analysis", lambda graph=graph: gp.analyze(graph))
        plan = timed("plan", lambda deps=deps: gp.plan(deps, macs="50%", criterion="random"))
        small = timed("rewrite", lambda deps=deps, plan=plan: gp.apply(deps, plan))
        row = {
            "parameters": graph.parameters(),
            "nodes": len(graph.nodes),
            "groups": len(deps.groups),
            "units": deps.units,
            "left": sum(p.numel() for p in small.parameters()),
            "kind": note(small).kind,
        }
    row |= {step: median(times) for step, times in spent.items()}
    return row | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: measured(name, args.rounds, args.tokens) for name in MODELS}
    steps = ("capture", "analysis", "plan", "rewrite")
    lines = [
        (
            name,
            f"{row['parameters'] / 1e9:.2f} G",
            f"{row['left'] / 1e9:.2f} G",
            row["nodes"],
            row["groups"],
            row["units"],
            *(round(row[s], 1) for s in steps),
            row["kind"],
        )
        for name, row in rows.items()
    ]
    names = ("model", "parameters", "after 50 % MACs", "nodes", "groups", "units", *(f"{s} s" for s in steps), "result")
    text = (
        f"{header('Large language models on the meta device')}\n{table(lines, names)}\n\n1 x {args.tokens} tokens,"
        f" processor seconds of one thread, medians of {args.rounds} rounds, criterion random;"
        f" peak of the process {max(r['peak'] for r in rows.values()):.1f} GiB."
    )
    print(text)
    write_results("torch-large", text, rows)


if __name__ == "__main__":
    main()
