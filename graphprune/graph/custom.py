"""What is known of custom operators: their shapes and how to run them. :func:`graphprune.register` fills the table."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.model import Array

Shape = tuple[int, ...]
ShapeOf = Callable[..., Sequence[Shape] | Shape]
Kernel = Callable[..., Any]
POINTWISE = "pointwise"
STANDARD = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Custom:
    """A custom operator.

    Attributes:
        like: Standard operator whose shape function holds for it, or POINTWISE; "" for none.
        shape: ``shape(*input_shapes, **attributes)`` gives the shape of the output, or a list of shapes.
        run: ``run(*inputs, **attributes)`` gives the output, or a tuple of them: its kernel in Python.
        probed: Whether its shape may be found by running it.
    """

    like: str = ""
    shape: ShapeOf | None = None
    run: Kernel | None = None
    probed: bool = False


_TABLE: dict[str, Custom] = {}
_LIBRARIES: list[str] = []


def put(key: str, entry: Custom | None) -> Custom | None:
    """Set (or, with None, take away) what is known of an operator; returns what was known before."""
    before = _TABLE.pop(key, None)
    if entry is not None:
        _TABLE[key] = entry
    return before


def custom(domain: str, op: str) -> Custom | None:
    """What is known of an operator, None for one that is not registered."""
    return _TABLE.get(op if domain in STANDARD else f"{domain}.{op}")


def libraries() -> tuple[str, ...]:
    """Libraries of onnxruntime kernels in use."""
    return tuple(_LIBRARIES)


@contextmanager
def custom_ops(paths: Sequence[str | Path]) -> Iterator[None]:
    """Use custom operators within a block.

    Args:
        paths: Shared libraries with onnxruntime kernels, and Python files that call :func:`graphprune.register`;
            what those register stays registered, as after an import.

    Raises:
        InputError: A file does not exist, or a Python file fails.
    """
    count = len(_LIBRARIES)
    try:
        for path in map(Path, paths):
            if not path.is_file():
                raise InputError(f"{path}: no such file of custom operators")
            if path.suffix == ".py":
                _execute(path)
            else:
                _LIBRARIES.append(str(path.resolve()))
        yield
    finally:
        del _LIBRARIES[count:]


def _execute(path: Path) -> None:
    try:
        runpy.run_path(str(path))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error


def attribute(attr: Any) -> Any:
    """Value of an attribute: Python ints, floats, strings, lists, and arrays for tensors."""
    if attr.type == ir.AttributeType.TENSOR:
        return attr.as_tensor().numpy()
    return attr.value


def called(kernel: Kernel, inputs: Sequence[Array | None], attrs: Mapping[str, Any]) -> list[Array]:
    """Outputs of a Python kernel, None for an omitted input."""
    made = kernel(*inputs, **attrs)
    return [np.asarray(a) for a in (made if isinstance(made, tuple | list) else (made,))]


def shapes_of(
    entry: Custom, inputs: Sequence[Shape | None], attrs: Mapping[str, Any], outputs: int
) -> list[Shape] | None:
    """Shapes of the outputs from the user's shape function or by broadcasting; None where neither is there.

    Raises:
        InputError: The shape function fails, or gives something else than a shape for every output.
    """
    if entry.shape is not None:
        return _asked(entry.shape, inputs, attrs, outputs)
    known = [s for s in inputs if s is not None]
    if entry.like != POINTWISE or len(known) < len(inputs) or not known or any(d < 0 for s in known for d in s):
        return None
    try:
        return [tuple(np.broadcast_shapes(*known))] * outputs
    except ValueError:
        return None


def _asked(shape: ShapeOf, inputs: Sequence[Shape | None], attrs: Mapping[str, Any], outputs: int) -> list[Shape]:
    try:
        made: list[Any] = list(shape(*inputs, **attrs))
    except Exception as error:
        raise InputError(f"the shape function of a custom operator fails: {type(error).__name__}: {error}") from error
    shapes = [tuple(made)] if all(isinstance(d, int | np.integer) for d in made) else [tuple(s) for s in made]
    if len(shapes) < outputs or not all(isinstance(d, int | np.integer) for s in shapes for d in s):
        raise InputError(f"the shape function of a custom operator gives {made}, not a shape for every output")
    return [tuple(int(d) for d in s) for s in shapes]
