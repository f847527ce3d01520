"""What other pruners make of the same models at the same MACs.

Torch-Pruning gets the PyTorch module, with and without its BatchNorms re-estimated by hand on the calibration samples;
onnxsim's calibrated structured pruning gets the file, with and without each of its recoveries. Neither takes a MACs
target, so a ratio is searched for. The best criterion is chosen on the evaluation, which flatters them.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

import graphprune as gp
from benchmarks.accuracy.task import Feed, Task
from benchmarks.check import defect, short
from benchmarks.common import Row
from benchmarks.measure import dense_macs

if TYPE_CHECKING:
    from torch import Tensor, nn

Emit = Callable[[Row], None]


def bisect(macs: Callable[[float], int], limit: float, low: float, high: float, steps: int = 12) -> float | None:
    """Smallest of the tried ratios that meets a limit, for a cost that falls as the ratio grows.

    Args:
        macs: Cost of a model pruned by a ratio.
        limit: What it may be.
        low: Ratio that is too small.
        high: Largest ratio to try.
        steps: Halvings.

    Returns:
        The ratio, None when even `high` does not do.
    """
    if macs(high) > limit:
        return None
    for _ in range(steps):
        middle = (low + high) / 2
        if macs(middle) <= limit:
            high = middle
        else:
            low = middle
    return high


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without what native code prints."""
    with Path(os.devnull).open("w") as sink:
        kept = os.dup(1), os.dup(2)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            for handle, place in zip(kept, (1, 2), strict=True):
                os.dup2(handle, place)
                os.close(handle)


# ---- Torch-Pruning

UNIFORM = ("L2",)  # criteria that are tried with one ratio for all layers too


def module_macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers for one sample."""
    import torch

    total = 0

    def count(layer: Any, _: Any, out: Tensor) -> None:
        nonlocal total
        total += (
            out.numel() // out.shape[0] * layer.weight[0].numel() if layer.weight.dim() > 2 else layer.weight.numel()
        )

    layers = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module.eval()(example)
    for handle in handles:
        handle.remove()
    return total


def torch_criteria() -> dict[str, Callable[[], Any]]:
    """Data-free criteria of Torch-Pruning."""
    from torch_pruning.pruner import importance

    return {
        "L1": lambda: importance.MagnitudeImportance(p=1, group_reduction="first"),
        "L2": lambda: importance.MagnitudeImportance(p=2, group_reduction="first"),
        "group L1": lambda: importance.GroupMagnitudeImportance(p=1),
        "group L2": lambda: importance.GroupMagnitudeImportance(p=2),
    }


def outside_blocks(module: nn.Module) -> list[nn.Module]:
    """Layers that Torch-Pruning must leave alone to run: the classifier, and of ResNet-20 the residual stream.

    It cannot follow a shortcut that pads channels.
    """
    import torch

    linear = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    if not any("layer1" in name for name, _ in module.named_children()):
        return list(linear)
    return [*linear, *(m for name, m in module.named_modules() if name == "conv1" or name.endswith(".conv2"))]


def torch_pruned(module: nn.Module, example: Tensor, criterion: Any, ratio: float, *, whole: bool) -> nn.Module:
    """A pruned copy; `whole` ranks over the whole network."""
    import torch_pruning

    small = copy.deepcopy(module)
    pruner = torch_pruning.MagnitudePruner(
        small,
        example,
        importance=criterion,
        pruning_ratio=ratio,
        global_pruning=whole,
        ignored_layers=outside_blocks(small),
    )
    pruner.step()
    return small


def recalibrated(module: nn.Module, feeds: list[Feed]) -> nn.Module:
    """A copy whose BatchNorms hold the statistics of the samples."""
    import torch

    fresh = copy.deepcopy(module).eval()
    for layer in fresh.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None  # plain average over the batches
            layer.train()
    with torch.no_grad():
        for feed in feeds:
            fresh(*(torch.from_numpy(v) for v in feed.values()))
    return fresh.eval()


def torch_pruning_rows(task: Task, target: float, emit: Emit) -> Row:
    """Metrics of Torch-Pruning by criterion and scope, plain and re-calibrated."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    module = task.module()
    row: Row = {"tried": {}}
    if module is None:
        return row | {"failed": "no PyTorch module"}
    module.requires_grad_(requires_grad=True)
    feeds = task.feeds(task.samples, batch=64)
    example = torch.from_numpy(next(iter(feeds[0].values()))[:1])
    limit = target * module_macs(module, example)
    for name, make in torch_criteria().items():
        for whole in (True, False) if name in UNIFORM else (True,):
            label = f"{name}, {'global' if whole else 'uniform'}"
            try:
                row["tried"][label] = _torch_row(task, module, example, make(), limit, feeds, whole=whole)
            except Exception as error:
                row["tried"][label] = {"failed": f"{type(error).__name__}: {short(error)}"}
            emit(row)
    return row


def _torch_row(
    task: Task, module: nn.Module, example: Tensor, criterion: Any, limit: float, feeds: list[Feed], *, whole: bool
) -> Row:
    def small(ratio: float) -> nn.Module:
        return torch_pruned(module, example, criterion, ratio, whole=whole)

    ratio = bisect(lambda r: module_macs(small(r), example), limit, 0.0, 0.95)
    if ratio is None:
        return {"failed": "its MACs stay above the target"}
    pruned = small(ratio)
    return {
        "ratio": ratio,
        "macs": module_macs(pruned, example) / module_macs(module, example),
        "plain": task.measures(pruned),
        "recalibrated": task.measures(recalibrated(pruned, feeds)),
    }


# ---- onnxsim

WANDA_FEEDS = 4  # batches that rank the channels; more hardly change the norms of activations


def file_macs(model: onnx.ModelProto) -> int:
    """MACs as graphprune counts them."""
    return dense_macs(gp.analyze(gp.load(model)))


def onnxsim_rows(task: Task, target: float, emit: Emit) -> Row:
    """Metrics of onnxsim's Wanda pruning, per layer and over the whole file, after the cut and each recovery.

    Where it cannot bring the file to the target, the file that its own simplifier makes is tried.
    """
    import onnxsim

    row: Row = {"tried": {}}
    original = onnx.load(task.path())
    with silent():
        simple, _ = onnxsim.simplify(copy.deepcopy(original))
    feeds = task.feeds(task.samples)
    limit = target * file_macs(original)
    cuts = {}
    for whole in (True, False):
        for source, form in ((original, ""), (simple, ", simplified")):
            label = f"Wanda, {'global' if whole else 'uniform'}{form}"
            try:
                row["tried"][label], pruned = _onnxsim_cut(task, source, limit, feeds, whole=whole)
            except Exception as error:
                row["tried"][label], pruned = {"failed": f"{type(error).__name__}: {short(error)}"}, None
            emit(row)
            if pruned is not None:
                cuts[label] = source, pruned
                break
    for label, (source, pruned) in cuts.items():  # some recoveries take very long: all cuts are measured before
        recovered = row["tried"][label]["recovered"] = {}
        for name, measures in _onnxsim_recovered(task, source, pruned, feeds):
            recovered[name] = measures
            emit(row)
    return row


def _onnxsim_cut(
    task: Task, original: onnx.ModelProto, limit: float, feeds: list[Feed], *, whole: bool
) -> tuple[Row, onnx.ModelProto | None]:
    import onnxsim

    broken: list[str] = []
    few = feeds[:WANDA_FEEDS]

    def small(ratio: float, data: list[Feed]) -> onnx.ModelProto:
        model = copy.deepcopy(original)
        with silent():
            return onnxsim.apply_structured_wanda_pruning(model, data, sparsity=ratio, global_sparsity=whole)

    def macs(ratio: float) -> int:
        try:
            return file_macs(small(ratio, few))
        except Exception as error:  # a file that no longer loads: nothing to count
            broken.append(short(error, 200))
            return 0

    ratio = bisect(macs, limit, 0.0, 0.95, steps=8)
    if ratio is None:
        return {"failed": f"its MACs stay at {macs(0.95) / file_macs(original):.2f} of the original's or more"}, None
    if broken and macs(ratio) == 0:
        return {"failed": f"writes a file that cannot be read: {broken[-1]}"}, None
    pruned = small(ratio, few)
    told = _defect(task, pruned, feeds[0])
    if told:
        return {"ratio": ratio, "failed": f"writes a broken file: {told}"}, None
    return {"ratio": ratio, "macs": file_macs(pruned) / file_macs(original), "plain": task.measures(pruned)}, pruned


def _defect(task: Task, model: onnx.ModelProto, feed: Feed) -> str:
    with tempfile.TemporaryDirectory(prefix="graphprune-bench-") as folder:
        path = Path(folder) / "small.onnx"
        onnx.save(model, path)
        return defect(task.path(), path, [{k: v[:2] if k not in ("h", "c") else v for k, v in feed.items()}])


def _onnxsim_recovered(
    task: Task, original: onnx.ModelProto, pruned: onnx.ModelProto, feeds: list[Feed]
) -> Iterator[tuple[str, Row]]:
    """Metrics after each recovery, the slowest last."""
    import onnxsim

    def refit(model: onnx.ModelProto) -> onnx.ModelProto:
        return onnxsim.apply_pruning_finetune(original, model, feeds)

    def norms(model: onnx.ModelProto) -> onnx.ModelProto:
        return onnxsim.recover_batch_norm(model, calibration_data=feeds)

    def matched(model: onnx.ModelProto) -> onnx.ModelProto:
        return onnxsim.recover_batch_norm(model, calibration_data=feeds, target_model=original)

    for name, recover in {"batch norm": norms, "batch norm, matched": matched, "finetune": refit}.items():
        try:
            with silent():
                model = recover(copy.deepcopy(pruned))
            yield name, task.measures(model)
        except Exception as error:
            yield name, {"failed": f"{type(error).__name__}: {short(error, 200)}"}
