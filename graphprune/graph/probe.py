"""Input sizes at which a graph with dynamic axes is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.control import BadSizes
from graphprune.graph.infer import Caches, Facts, infer
from graphprune.graph.types import Shape

# Pairs of sizes tried in turn for an axis that is not the batch: images first want a usual resolution,
# sequences a short length; a front end that needs more (audio frames) fails and moves on.
# A text-line image has a fixed height, so that height is tried alone, with the width dynamic.
_IMAGE = ((224, 256), (64, 96), (320, 352), (320, 352), (640, 768), (1024, 1280))
_LINE_HEIGHT = {2: 48, 3: 32}
_SEQUENCE = ((32, 48), (128, 160), (512, 640), (2048, 2560), (16000, 16320))
_AUDIO = ((16000, 16320), (512, 640), (256, 288), (128, 160))
_BATCH = (1, 2)
_NAMELESS_BATCH = "batch?"
Symbol = Callable[[ir.Value, int], str | None]


def probe(
    model: ir.Model, name: str, given: Mapping[str, Shape] | None = None
) -> tuple[list[Facts], list[dict[str, Shape]]]:
    """Facts and input sizes at one probe (all sizes fixed) or two (dynamic axes differ between them).

    Args:
        model: The model.
        name: Its name, for messages.
        given: Sizes the user fixed for some inputs.

    Raises:
        InputError: A given shape does not fit the input, or no size works.
    """
    given = _checked(model, name, given or {})
    last: BadSizes | None = None
    best: tuple[list[Facts], list[dict[str, Shape]]] | None = None
    caches = Caches.of(model)
    for pair in _candidates(model, given):
        try:
            facts = [infer(model, pair[0], caches)]
            if pair[0] != pair[1]:
                facts.append(infer(model, pair[1], caches))
        except BadSizes as error:
            last = error
            continue
        if not all(_usable(model, f) for f in facts):
            last = last or BadSizes("an output becomes empty")
            continue
        if best is None or _failed(facts) < _failed(best[0]):
            best = facts, [pair[0], pair[1]][: len(facts)]
        if not _failed(facts):
            break  # else there may be sizes at which more branches can run
    if best is not None:
        return best
    raise InputError(
        f"{name}: the graph cannot run at any size tried for its inputs ({last}); "
        "if its axes are dynamic, give sizes that work with --input-shape NAME:1,3,224,224"
    )


def _failed(facts: list[Facts]) -> int:
    """Branches that cannot run at the probed sizes."""
    return sum(f.failed for f in facts)


def _checked(model: ir.Model, name: str, given: Mapping[str, Shape]) -> dict[str, Shape]:
    inputs = {v.name or "": v for v in real_inputs(model)}
    out: dict[str, Shape] = {}
    for key, shape in given.items():
        if key == "" and len(inputs) == 1:
            key = next(iter(inputs))  # noqa: PLW2901 - one input needs no name
        if key not in inputs:
            raise InputError(f"{name}: --input-shape names no input {key!r}; inputs are {', '.join(inputs)}")
        declared = inputs[key].shape
        if declared is not None:
            fits = len(declared) == len(shape) and all(
                not isinstance(d, int) or d <= 0 or d == s for d, s in zip(declared, shape, strict=True)
            )
            if not fits:
                raise InputError(f"{name}: --input-shape {key}:{shape} does not fit the input's shape {declared}")
        out[key] = shape
    return out


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """Graph inputs that are not initializers listed twice."""
    return [v for v in model.graph.inputs if v.name not in model.graph.initializers]


def _candidates(model: ir.Model, given: Mapping[str, Shape]) -> Iterator[tuple[dict[str, Shape], dict[str, Shape]]]:
    """Input sizes to try, each as a pair of probes; distinct symbols first get distinct sizes."""
    inputs = real_inputs(model)
    if all(v.shape is not None and all(isinstance(d, int) and d > 0 for d in v.shape) for v in inputs):
        sizes = {v.name or "": _sizes(v, {}, 0, given, _symbol) for v in inputs}
        yield sizes, sizes
        return
    rounds = max(len(_IMAGE), len(_SEQUENCE))
    for symbol in (_symbol, _batch_symbol):
        for spread in (1, 0):
            for attempt in range(rounds):
                pair = {**_assign(inputs, attempt, spread, symbol), **_bound(inputs, given, attempt, symbol)}
                yield (
                    {v.name or "": _sizes(v, pair, 0, given, symbol) for v in inputs},
                    {v.name or "": _sizes(v, pair, 1, given, symbol) for v in inputs},
                )


def _bound(
    inputs: list[ir.Value], given: Mapping[str, Shape], attempt: int, symbol_of: Symbol
) -> dict[str, tuple[int, int]]:
    """For dynamic axes whose size the user gave: that size, and another one to tell what follows it.

    The second size is varied until the graph runs; where none works the axis counts as fixed.
    """
    out: dict[str, tuple[int, int]] = {}
    for value in inputs:
        for axis, size in enumerate(given.get(value.name or "", ())):
            symbol = symbol_of(value, axis) if value.shape is not None else None
            if symbol is not None:
                others = (size + 1,) * 4 if axis == 0 else (size + 32, 2 * size, size + 8, size + 1)
                out[symbol] = (size, others[attempt] if attempt < len(others) else size)
    return out


def _assign(inputs: list[ir.Value], attempt: int, spread: int, symbol_of: Symbol) -> dict[str, tuple[int, int]]:
    """Two sizes for every symbol."""
    out: dict[str, tuple[int, int]] = {}
    used = 0
    for value in inputs:
        rank = len(value.shape) if value.shape is not None else 0
        image = rank >= 4
        audio = rank <= 2 and value.dtype is not None and value.dtype.is_floating_point()
        ladder = _IMAGE if image else _AUDIO if audio else _SEQUENCE
        base = ladder[min(attempt, len(ladder) - 1)]
        for axis in range(rank):
            symbol = symbol_of(value, axis)
            if symbol is None or symbol in out:
                continue
            if axis == 0 or symbol == _NAMELESS_BATCH:
                out[symbol] = _BATCH
                continue
            if image and axis == 2 and attempt in _LINE_HEIGHT:
                out[symbol] = (_LINE_HEIGHT[attempt],) * 2
                continue
            step = (32 if image else 8) * used * spread
            out[symbol] = (base[0] + step, base[1] + step)
            used += 1
    return out


def _symbol(value: ir.Value, axis: int) -> str | None:
    """Name of a dynamic axis, None for a fixed one; nameless batch axes share one symbol."""
    dim = value.shape[axis] if value.shape is not None else None
    if isinstance(dim, int) and dim > 0:
        return None
    text = str(dim.value or "") if isinstance(dim, ir.SymbolicDim) else ""
    if any(c.isalnum() for c in text):
        return text
    return _NAMELESS_BATCH if axis == 0 else f"{value.name}?{axis}"


def _batch_symbol(value: ir.Value, axis: int) -> str | None:
    """As ``_symbol``, with nameless inner axes taken for the batch: a recurrent state is (layers, ?, width)."""
    symbol = _symbol(value, axis)
    middle = value.shape is not None and 0 < axis < len(value.shape) - 1
    return _NAMELESS_BATCH if middle and symbol == f"{value.name}?{axis}" else symbol


def _sizes(
    value: ir.Value, pair: Mapping[str, tuple[int, int]], which: int, given: Mapping[str, Shape], symbol_of: Symbol
) -> Shape:
    name = value.name or ""
    if value.shape is None:
        return given.get(name, ())
    bindings = {symbol: sizes[which] for symbol, sizes in pair.items()}
    out = []
    for axis, dim in enumerate(value.shape):
        symbol = symbol_of(value, axis)
        if symbol is not None:
            out.append(_evaluate(dim, bindings) or bindings[symbol])
        elif isinstance(dim, int):
            out.append(dim)
    return tuple(out)


def _evaluate(dim: ir.SymbolicDim | int, bindings: Mapping[str, int]) -> int | None:
    """Value of a size expression such as ``past + 1``; None when it is a plain or unreadable symbol."""
    if isinstance(dim, int) or not dim.value or str(dim.value).isidentifier():
        return None
    try:
        size = dim.evaluate(bindings)
    except ValueError:
        return None
    return size if isinstance(size, int) and size > 0 else None


def _usable(model: ir.Model, facts: Facts) -> bool:
    """No output may come out empty."""
    shapes = [facts.shapes.get(v.name or "") for v in model.graph.outputs]
    return all(s is None or 0 not in s for s in shapes)
