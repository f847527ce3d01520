"""Custom operators: registered like another one, with a relation, as opaque, or guessed; and how they are run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphprune as gp
from graphprune import rules
from graphprune.errors import InputError, NothingToPruneError, VerificationError
from graphprune.graph.custom import custom
from graphprune.rules.context import Relate
from tests.commandline import done, listing, refused
from tests.graphs import Builder

OP = "my.ops.Mystery"
DOCS = Path(__file__).parents[1] / "docs" / "custom-operators.md"


def model(
    *weights: tuple[int, ...], n: int = 16, out: int = 16, hint: bool = True, outputs: int = 1, **attrs: Any
) -> onnx.ModelProto:
    """A matrix, the custom operator with more weights, and a matrix behind each of its outputs."""
    b = Builder("mystery")
    x = b.linear(b.source("x", ["batch", 8]), 8, n, "first")
    made = [f"y{i}" for i in range(outputs)]
    more = [b.weight(*shape, offset=2, name=f"param{i}") for i, shape in enumerate(weights)]
    b.nodes.append(helper.make_node("Mystery", [x, *more], made, name="custom", domain="my.ops", **attrs))
    ends = [b.linear(y, out, 4, f"last{i}") for i, y in enumerate(made)]
    results = [helper.make_tensor_value_info(e, TensorProto.FLOAT, ["batch", 4]) for e in ends]
    hints = [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["batch", out]) for y in made] if hint else []
    graph = helper.make_graph(b.nodes, "mystery", b.inputs, results, list(b.initializers.values()), value_info=hints)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.ops", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = {r.op: r for r in rules.all_rules()}
    yield
    assert {r.op: r for r in rules.all_rules()} == before
    assert custom("my.ops", "Mystery") is None


def verified(source: onnx.ModelProto, **options: Any) -> gp.Result:
    result = gp.prune(source, **{"macs": "50%", "align": 1} | options)
    assert result.verdict is not None and result.verdict.passed and result.verdict.samples
    assert result.after.macs <= 0.5 * result.before.macs
    return result


# -- what is said --------------------------------------------------------------------------------
def test_unknown_operators_say_how_to_register_them() -> None:
    deps = gp.analyze(model())
    assert not deps.units
    text = deps.explain("first.weight")
    assert "there is no rule for my.ops.Mystery" in text
    assert "graphprune.register('my.ops.Mystery', like=...)" in text
    assert "docs/custom-operators.md" in text
    assert DOCS.is_file()


@pytest.mark.parametrize("hint", [True, False])
@pytest.mark.parametrize(
    ("like", "units"), [("Relu", 16), ("pointwise", 16), ("Softmax", 0), ("com.microsoft.Gelu", 16)]
)
def test_like(like: str, units: int, hint: bool) -> None:
    with gp.register(OP, like=like):
        assert gp.analyze(model(hint=hint)).units == units


def test_like_an_operator_with_weights_and_an_edit() -> None:
    """The custom node is rewritten by the other operator's edit and keeps its own name."""
    b = Builder("conv")
    x = b.conv(b.source("x", ["batch", 3, 8, 8]), 3, 12, name="first")
    b.nodes.append(
        helper.make_node(
            "Mystery", [x, b.weight(24, 2, 3, 3, name="kernel")], ["y"], name="custom", domain="my.ops",
            group=6, pads=[1] * 4,
        )
    )  # fmt: skip
    last = b.classifier("y", 24)
    out = helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(b.nodes, "conv", b.inputs, [out], list(b.initializers.values()))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.ops", 1)]
    source = helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def kernel(x: Any, w: Any, *, group: int, pads: list[int]) -> Any:
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        n, c, h, wide = x.shape
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        windows = windows.reshape(n, group, c // group, h - 2, wide - 2, 3, 3)
        w = w.reshape(group, w.shape[0] // group, *w.shape[1:])
        return np.einsum("ngihwkl,goikl->ngohw", windows, w).reshape(n, -1, h - 2, wide - 2).astype(np.float32)

    with gp.register(OP, like="Conv", run=kernel):
        deps = gp.analyze(source)
        assert sorted(g.size for g in deps.groups) == [2, 4, 6]
        result = verified(source)
        node = next(n for n in result.model.graph if n.name == "custom")
        assert (node.domain, node.op_type) == ("my.ops", "Mystery")
        assert (
            node.attributes["group"].value * node.inputs[1].shape[1]
            == result.model.graph.initializers["first.weight"].shape[0]
        )


def test_a_relation_and_an_edit() -> None:
    """Two halves that are multiplied, with the width of a half as an attribute."""

    def halves(r: Relate) -> None:
        axes = r.axes(0)
        pair, half = r.split(axes[1], 2, 8)
        r.store.freeze(pair, r.why("both halves are needed"))
        r.out([axes[0], half])

    def width(e: Any) -> None:
        e.change.attrs["width"] = e.out_sizes()[1]

    def kernel(x: Any, *, width: int) -> Any:
        return x[:, :width] * x[:, width:]

    with gp.register(OP, halves, edit=width, run=kernel):
        deps = gp.analyze(model(out=8, width=8))
        assert [g.size for g in deps.groups] == [8]
        result = verified(model(out=8, width=8))
        node = next(n for n in result.model.graph if n.name == "custom")
        assert node.attributes["width"].value < 8


def test_opaque() -> None:
    with gp.register(OP, opaque="it hashes its input"):
        deps = gp.analyze(model())
    assert not deps.units
    assert "it hashes its input" in deps.explain("first.weight")


# -- the guesser ---------------------------------------------------------------------------------
GUESSES: dict[str, tuple[Any, list[int], list[tuple[int, ...]]]] = {
    "pointwise": (lambda x: np.tanh(x) * x, [16], []),
    "rounds": (np.round, [16], []),
    "per channel": (lambda x, a: x * a, [16], [(16,)]),
    "of another rank": (lambda x, a: x + a[:, 0], [16], [(16, 3)]),
    "scalar": (lambda x, a: x * a[0], [16], [(1,)]),
    "matrix": (lambda x, a: (x @ a).astype(np.float32), [16], [(16, 16)]),
    "reversed": (lambda x: x[:, ::-1].copy(), [], []),
    "rolled": (lambda x: np.roll(x, 1, 1), [], []),
    "sorted": (lambda x: np.sort(x, 1), [], []),
    "normed": (lambda x: (x / (1e-3 + np.abs(x).sum(1, keepdims=True))).astype(np.float32), [], []),
    "softmax": (lambda x: (np.exp(x - x.max(1, keepdims=True))).astype(np.float32), [], []),
    "running sum": (lambda x: np.cumsum(x, 1), [], []),
    "neighbours": (lambda x: x + np.maximum(np.roll(x, 1, 1), 20), [], []),
    "numbered": (lambda x: x * np.arange(1, x.shape[1] + 1, dtype=np.float32), [], []),
    "counted": (lambda x: x * np.float32(x.shape[1]), [], []),
    "only its width": (lambda x: np.tanh(x) if x.shape[1] == 16 else 1 / 0, [], []),
    "ignored": (np.zeros_like, [], []),
    "random": (lambda x: x + np.random.default_rng().random(x.shape, np.float32), [], []),
    "fails": (lambda x: 1 / 0, [], []),
    "shared statistic": (lambda x, a: x * a / a.max(), [], [(16,)]),
}


@pytest.mark.parametrize("name", GUESSES)
def test_guesses(name: str) -> None:
    kernel, sizes, weights = GUESSES[name]
    source = model(*weights)
    with gp.register(OP, guess=True, run=kernel):
        deps = gp.analyze(source)
        assert sorted(g.size for g in deps.groups) == sizes
        if sizes and name != "matrix":
            verified(source)


def test_a_guessed_matrix_product_keeps_what_it_sums_over() -> None:
    with gp.register(OP, guess=True, run=GUESSES["matrix"][0]):
        deps = gp.analyze(model((16, 16)))
        (group,) = deps.groups
        assert {(m.tensor, m.axis) for m in group.members} >= {("param0", 1), ("last0.weight", 0)}
        assert ("first.weight", 1) not in {(m.tensor, m.axis) for m in group.members}
        assert "did not show" in deps.explain("first.weight")


def test_guessed_outputs_are_tied() -> None:
    """The positive and the negative part; one may be silent where the other is not."""
    source = model(outputs=2)
    with gp.register(OP, guess=True, run=lambda x: (np.maximum(x, 0), np.minimum(x, 0))):
        (group,) = gp.analyze(source).groups
        assert {m.tensor for m in group.members} >= {"first.weight", "last0.weight", "last1.weight"}
        verified(source)


def test_equal_nodes_are_probed_once() -> None:
    calls = []

    def kernel(x: Any) -> Any:
        calls.append(x.shape)
        return np.tanh(x)

    with gp.register(OP, guess=True, run=kernel):
        gp.analyze(model())
        first = len(calls)
        gp.analyze(model())
        assert len(calls) - first <= 2  # for the shapes, at both probes
    assert first > 20


def test_a_local_function_is_probed() -> None:
    """No kernel and no library: onnxruntime runs the model's own function."""
    source = model(hint=False)
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Mul", ["x", "t"], ["y"])]
    opsets = [helper.make_opsetid("", 20)]
    source.functions.append(helper.make_function("my.ops", "Mystery", ["x"], ["y"], nodes, opsets))
    with gp.register(OP, guess=True):
        assert [g.size for g in gp.analyze(source).groups] == [16]
        verified(source)


def test_unknown_shapes_come_from_a_function() -> None:
    shapes = []

    def halved(x: tuple[int, ...], *, width: int) -> tuple[int, ...]:
        shapes.append(x)
        return x[0], width

    with gp.register(OP, lambda r: r.out([r.axis(0, 0), r.fresh(8)]), shape=halved):
        deps = gp.analyze(model(out=8, hint=False, width=8))
    assert deps.source.values["y0"].shape == (1, 8)
    assert shapes == [(1, 16), (2, 16)]


# -- registration --------------------------------------------------------------------------------
def test_a_handle_restores_what_was_there() -> None:
    first = gp.register(OP, like="Relu")
    with gp.register(OP, opaque="inner", override=True):
        assert not gp.analyze(model()).units
    assert gp.analyze(model()).units == 16
    first.undo()
    first.undo()
    assert not gp.analyze(model()).units


def test_a_built_in_rule_can_be_replaced() -> None:
    b = Builder("relu")
    source = b.build(b.linear(b.op("Relu", b.linear(b.source("x", [2, 8]), 8, 16)), 16, 4))
    assert gp.analyze(source).units == 16
    with gp.register("Relu", opaque="today it is", override=True):
        assert not gp.analyze(source).units
    assert gp.analyze(source).units == 16


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, "exactly one"),
        ({"like": "Relu", "opaque": "no"}, "exactly one"),
        ({"like": "Rleu"}, "did you mean Relu"),
        ({"like": "zzzzzz"}, "there is no rule"),
        ({"like": "Relu", "edit": print}, "belong to a relation"),
    ],
)
def test_bad_registrations(options: dict[str, Any], pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        gp.register(OP, **options)


def test_a_rule_is_not_replaced_by_accident() -> None:
    with pytest.raises(InputError, match="override"):
        gp.register("Relu", opaque="no")


def test_a_bad_shape_function_is_named() -> None:
    with gp.register(OP, like="pointwise", shape=lambda *_: 1 / 0), pytest.raises(InputError, match="ZeroDivision"):
        gp.analyze(model())
    with gp.register(OP, like="pointwise", shape=lambda *_: "ab"), pytest.raises(InputError, match="not a shape"):
        gp.analyze(model())


# -- running -------------------------------------------------------------------------------------
def test_without_a_kernel_nothing_is_written(tmp_path: Path) -> None:
    with gp.register(OP, like="Relu"):
        with pytest.raises(VerificationError, match="--custom-ops"):
            gp.prune(model(), tmp_path / "o.onnx", macs="50%")
        assert listing(tmp_path) == {}
        assert gp.prune(model(), tmp_path / "o.onnx", macs="50%", check=False).verdict is None
    assert set(listing(tmp_path)) == {"o.onnx"}


def test_a_python_file_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    ops = tmp_path / "ops.py"
    ops.write_text(
        "import builtins, graphprune as gp, numpy as np\n"
        f"builtins.registered = gp.register({OP!r}, like='Relu', run=lambda x: np.maximum(x, 0))\n"
    )
    refused(5, "no rule for my.ops.Mystery", path, tmp_path / "o.onnx", "--macs", "50%")
    try:
        out = done(path, tmp_path / "o.onnx", "--macs", "50%", "--custom-ops", ops)
        assert "equal" in out
        pruned = tmp_path / "o.onnx"
        with gp.custom_ops([]):
            done("verify", path, pruned, tmp_path / "o.plan.json")
    finally:
        import builtins

        builtins.registered.undo()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [("gone.so", None, "no such file"), ("bad.py", "1 / 0", "ZeroDivisionError"), ("ops.so", "no", "cannot|not")],
)
def test_bad_files(name: str, content: str | None, pattern: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    b = Builder("relu")
    onnx.save(b.build(b.linear(b.op("Relu", b.linear(b.source("x", [2, 8]), 8, 16)), 16, 4)), path)
    if content is not None:
        (tmp_path / name).write_text(content)
    code = 4 if name == "ops.so" else 2
    refused(code, pattern, path, tmp_path / "o.onnx", "--macs", "50%", "--custom-ops", tmp_path / name)
    assert not (tmp_path / "o.onnx").exists()


def extensions() -> str:
    """A real library of kernels, if it is installed."""
    return str(pytest.importorskip("onnxruntime_extensions").get_library_path())


def negative_and_positive() -> onnx.ModelProto:
    b = Builder("negpos")
    x = b.linear(b.source("x", ["batch", 8]), 8, 16, "first")
    b.nodes.append(helper.make_node("NegPos", [x], ["neg", "pos"], name="custom", domain="ai.onnx.contrib"))
    out = b.linear(b.op("Sub", "pos", "neg"), 16, 4, "last")
    result = helper.make_tensor_value_info(out, TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(b.nodes, "negpos", b.inputs, [result], list(b.initializers.values()))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.contrib", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("said", [{"guess": True}, {"like": "Relu"}], ids=str)
def test_a_library_of_kernels(said: dict[str, Any]) -> None:
    library = extensions()
    with gp.register("ai.onnx.contrib.NegPos", **said):
        with gp.custom_ops([library]):
            verified(negative_and_positive())
        with pytest.raises((VerificationError, NothingToPruneError)):
            gp.prune(negative_and_positive(), macs="50%")


def test_a_library_on_the_command_line(tmp_path: Path) -> None:
    library, path = extensions(), tmp_path / "m.onnx"
    onnx.save(negative_and_positive(), path)
    with gp.register("ai.onnx.contrib.NegPos", guess=True):
        done(path, tmp_path / "o.onnx", "--macs", "50%", "--custom-ops", library)
        done("verify", path, tmp_path / "o.onnx", tmp_path / "o.plan.json", "--custom-ops", library)
        done("profile", path, "--latency", "--custom-ops", library)
        refused(2, "cannot be timed", "profile", path, "--latency")


def test_the_examples_in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block runs, one after the other, on the model they speak of."""
    monkeypatch.chdir(tmp_path)
    onnx.save(model(), "model.onnx")
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), {"__name__": "__main__"})
    assert sys.modules["graphprune"] is gp
