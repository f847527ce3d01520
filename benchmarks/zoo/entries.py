"""What an entry of the zoo is made of: its inputs, its network behind a plain signature, its weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

VOCAB = 512
SEQ = 24


def register_torchvision_schemas() -> torch.library.Library | None:
    """Declare torchvision's operators where its compiled library does not load.

    A CPU-only torch cannot load torchvision's CUDA wheel, and `import torchvision` then dies while attaching
    shape functions to operators nobody declared. No network here calls them: a bare schema is enough.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for compiled in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(compiled)
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_TORCHVISION_SCHEMAS = register_torchvision_schemas()  # dropping the object would undo the declarations


@dataclass(frozen=True)
class Input:
    """One input of a network; the sizes named "batch" and "seq" may vary, `kind` says what is drawn."""

    name: str
    shape: tuple[int | str, ...]
    kind: Literal["float", "ids", "mask"] = "float"

    def sample(self, sizes: dict[str, int], generator: torch.Generator) -> Tensor:
        """Draw a value: normal numbers, token ids (never a special one) or a right-padded mask."""
        shape = [sizes[size] if isinstance(size, str) else size for size in self.shape]
        if self.kind == "float":
            return torch.randn(shape, generator=generator)
        if self.kind == "ids":
            return torch.randint(5, VOCAB, shape, generator=generator)
        mask = torch.ones(shape, dtype=torch.int64)
        mask[1::2, -shape[1] // 4 :] = 0
        return mask


@dataclass(frozen=True)
class Entry:
    """A network of the zoo: how to build it, what goes in and what comes out."""

    build: Callable[[], nn.Module]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...] = ("logits",)


class Plain(nn.Module):
    """Wraps a network so that it takes tensors in order and returns one tensor, or a tuple of them."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[str, ...] | None,
        outputs: tuple[str, ...],
        extra: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.extra = extra

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the network."""
        if self.inputs is None:
            result = self.model(*tensors)
        else:
            result = self.model(**dict(zip(self.inputs, tensors, strict=True)), **self.extra)
        if isinstance(result, Tensor):
            return result
        values = tuple(result[name] for name in self.outputs)
        return values[0] if len(values) == 1 else values


@torch.no_grad()
def randomise(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Redraw constant parameters and all batch statistics, so that no branch is dead or an identity."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for name, value in model.named_parameters():
        if value.numel() < 2 or bool((value != value.flatten()[0]).any()):
            continue
        constant = float(value.flatten()[0])
        if constant == 0.0:
            value.normal_(0.0, 0.1)
        elif constant != 1.0 or any(word in name.rpartition(".")[2] for word in ("scale", "gamma", "lambda")):
            value.uniform_(0.5, 1.0)
        else:
            value.uniform_(0.5, 1.5)
    if not norms:
        return
    hooks = [norm.register_forward_pre_hook(calibrate) for norm in norms]
    model(*inputs)
    for hook in hooks:
        hook.remove()


def calibrate(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    """Set batch statistics to those of the activation that arrives, somewhat disturbed.

    With statistics that have nothing to do with the activations, a deep network forgets its input (or blows
    up), and a comparison of its outputs would prove nothing.
    """
    axes = [axis for axis in range(arguments[0].dim()) if axis != 1]
    variance, mean = torch.var_mean(arguments[0], axes)
    variance.clamp_(min=max(0.1 * float(variance.mean()), 1e-3))
    norm.get_buffer("running_mean").copy_(mean + 0.1 * variance.sqrt() * torch.randn_like(mean))
    norm.get_buffer("running_var").copy_(variance * torch.empty_like(variance).uniform_(0.5, 1.5))
