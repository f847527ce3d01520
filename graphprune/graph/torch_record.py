"""What a module does to tensors, as a list of operators with the shapes they give, without computing anything.

Two modules that make the same calls with the same shapes and settings are the same network. Where they first differ
tells which module holds a size that is no longer right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from graphprune.graph.torch_capture import evaluation, whole_attention
from graphprune.graph.torch_program import flat_inputs, named_tensors, unlifted

_SILENT = {"detach", "alias", "lift_fresh", "lift_fresh_copy", "_assert_tensor_metadata", "_assert_async"}
_FLOATS = float, complex
_STARTS = {"slice": 2, "select": 2, "narrow": 2, "slice_scatter": 3, "select_scatter": 3}
_LAYOUT = {"view", "expand", "unsqueeze", "squeeze", "clone", "_unsafe_view", "permute", "transpose", "slice", "t"}
_SKIPPED = 8
Event = tuple[Any, ...]


class Diverged(Exception):
    """A module does something else than was expected."""


@dataclass
class Recorder:
    """Collects calls, and stops at the first that is not the expected one.

    Attributes:
        expected: What is expected; None to collect only.
        opaque: Paths of modules whose inside does not count.
        place: How much of what is expected has come.
        events: What was seen.
        makers: Name of the node that made each call, where a graph runs.
        stacks: Paths of the modules that ran at each call.
        node: The node that is running.
        paused: Whether calls do not count.
        stack: Paths of the modules that are running.
    """

    expected: Sequence[Event] | None = None
    opaque: frozenset[str] = frozenset()
    place: int = 0
    events: list[Event] = field(default_factory=list)
    makers: list[str] = field(default_factory=list)
    stacks: list[tuple[str, ...]] = field(default_factory=list)
    node: str = ""
    paused: bool = False
    stack: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Note a call.

        Raises:
            Diverged: It is not the expected one.
        """
        if self.paused or (self.opaque and any(path in self.opaque for path in self.stack)):
            return
        if self.expected is not None:
            self.place = self._after(event, self.expected)
        self.events.append(event)
        self.makers.append(self.node)
        self.stacks.append(tuple(self.stack))

    def without(self, opaque: frozenset[str]) -> Recorder:
        """What was seen outside some modules."""
        out = Recorder(opaque=opaque)
        for event, node, stack in zip(self.events, self.makers, self.stacks, strict=True):
            out.node, out.stack = node, list(stack)
            out.add(event)
        return out

    def _after(self, event: Event, expected: Sequence[Event]) -> int:
        """Place behind the expected call that this is; a forward may skip views that change nothing any more.

        Raises:
            Diverged: There is none.
        """
        for place in range(self.place, min(self.place + _SKIPPED, len(expected))):
            if _fits(event, expected[place]):
                return place + 1
            if expected[place][0] not in _LAYOUT:
                break
        raise Diverged

    @property
    def scope(self) -> str:
        """Path of the innermost module that is running."""
        return self.stack[-1] if self.stack else ""


def _fits(event: Event, wanted: Event) -> bool:
    """Whether a call is the one that is wanted; of some only the operator is known."""
    return event[0] == wanted[0] if len(wanted) == 1 else event == wanted


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operator to a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and note it."""
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name not in _SILENT and not func._schema.name.startswith("prim"):
            shapes = tuple(tuple(t.shape) for t in tree_leaves(out) if isinstance(t, Tensor))
            self.recorder.add((name.removesuffix("_"), shapes, _settings(name, args, kwargs or {})))
        return out


def _settings(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments that shapes do not tell: floats, and where a slice starts."""
    floats = [v for v in tree_leaves((args, dict(kwargs))) if isinstance(v, _FLOATS)]
    start = _STARTS.get(name)
    return (*floats, args[start] or 0) if start is not None and start < len(args) else tuple(floats)


def record(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], recorder: Recorder, *, quick: bool
) -> str | None:
    """Run a module without computing anything.

    Returns:
        Path of the module in which it went wrong, None when the run ended.
    """
    with _nothing_computed(quick) as fake, _scopes(module, recorder):
        state = {n: fake(t) for n, t in named_tensors(module)}
        given = tree_map(lambda v: fake(v) if isinstance(v, Tensor) else v, (tuple(args), dict(kwargs)))
        try:
            with _Watch(recorder):
                functional_call(module, state, given[0], given[1], tie_weights=False)
        except Exception:
            return recorder.scope
    return None


class _Marked(fx.Interpreter):
    """Runs a graph and tells a recorder from which modules its nodes came."""

    def __init__(
        self, graph: fx.GraphModule, recorder: Recorder, fake: Callable[[Tensor], Tensor], *, quick: bool
    ) -> None:
        super().__init__(graph)
        self.quick = quick
        self.recorder = recorder
        self.fake = fake

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator; what it makes lies where everything else does."""
        if self.quick and "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("meta")}
        return super().call_function(target, args, kwargs)

    def fetch_attr(self, target: str) -> Any:
        """A tensor of the graph, as a fake one."""
        value = super().fetch_attr(target)
        if not isinstance(value, Tensor):
            return value
        self.recorder.paused = True
        try:
            return self.fake(value)
        finally:
            self.recorder.paused = False

    def run_node(self, n: fx.Node) -> Any:
        """Run a node in the scope of the modules that it came from."""
        self.recorder.node = n.name
        self.recorder.stack[:] = [str(path) for path, _ in (n.meta.get("nn_module_stack") or {}).values()]
        return super().run_node(n)


def graph_events(
    graph: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any], recorder: Recorder, *, quick: bool
) -> None:
    """Record what a graph does, its tensors being its own attributes."""
    with _nothing_computed(quick) as fake:
        given = tree_map(lambda v: fake(v) if isinstance(v, Tensor) else v, (tuple(args), dict(kwargs)))
        flat = flat_inputs(graph, *given)
        with _Watch(recorder):
            _Marked(graph, recorder, fake, quick=quick).run(*flat, enable_io_processing=False)


@contextmanager
def _nothing_computed(quick: bool) -> Iterator[Callable[[Tensor], Tensor]]:  # noqa: FBT001
    """A mode in which nothing is computed, and what makes tensors for it (of one tensor always the same).

    ``quick`` puts all tensors on the meta device, which some forwards do not stand; else they are fake tensors.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}

    def empty(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = tensor.detach().to("meta") if quick else mode.from_tensor(tensor.detach())
        return made[id(tensor)]

    with torch.device("meta") if quick else mode, torch.no_grad(), whole_attention():
        yield empty


@contextmanager
def _scopes(module: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Keep the recorder's stack of running modules; after an error it stays as it was."""
    paths = {id(m): path for path, m in module.named_modules()}

    def enter(running: nn.Module, _: Any) -> None:
        recorder.stack.append(paths.get(id(running), ""))

    def leave(*_: Any) -> None:
        recorder.stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Recording:
    """What a module and its graph do.

    Attributes:
        seen: What the module does.
        before: What its graph does.
        quick: Whether it runs on the meta device.
        complete: Whether it ran to its end.
    """

    seen: Recorder
    before: Recorder
    quick: bool
    complete: bool


def recorded(
    module: nn.Module,
    program: ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    around: Callable[[Recorder], AbstractContextManager[Any]] = nullcontext,
) -> Recording:
    """Record a module, in evaluation mode, and its graph.

    Args:
        module: The module.
        program: Its program.
        args: Inputs.
        kwargs: Inputs by keyword.
        around: What the module's run is wrapped in, given the recorder.
    """
    for quick in (True, False):
        seen, before = Recorder(), Recorder()
        try:
            with evaluation(module), around(seen):
                fault = record(module, args, kwargs, seen, quick=quick)
            graph_events(unlifted(program), args, kwargs, before, quick=quick)
        except Exception:
            fault = "its graph"
        if fault is None:
            break
    return Recording(seen, before, quick, fault is None)
