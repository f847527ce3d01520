"""Branches that are left out: found, taken out of the file, and equal to the original with them times zero."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

import graphprune as gp
from graphprune.coupling.branches import find_branches
from graphprune.errors import InfeasibleError, InputError, NothingToPruneError
from graphprune.graph.bypass import bypassed, stand_ins
from graphprune.graph.model import Array, Bypass
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import verify_cut
from tests.commandline import call, done
from tests.graphs import Builder


def times_zero(model: ModelProto, chosen: Iterable[Bypass]) -> ModelProto:
    """The model with the operands multiplied by zero in front of their sums; knows nothing of graphs or regions."""
    out = ModelProto()
    out.CopyFrom(model)
    out.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    for k, bypass in enumerate(chosen):
        place, node = next((i, n) for i, n in enumerate(out.graph.node) if bypass.value in n.output)
        made = helper.make_node("Mul", [node.input[bypass.slot], "nothing"], [f"silent_{k}"])
        node.input[bypass.slot] = f"silent_{k}"
        out.graph.node.insert(place, made)
    return out


def outputs(model: ModelProto, feed: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, dict(feed))]


def proto(graph: Any) -> ModelProto:
    import onnx_ir as ir

    return ir.to_proto(graph.source)


def blocks(b: Builder, x: str, n: int, count: int) -> list[str]:
    """Residual blocks with two convolutions each."""
    made = []
    for k in range(count):
        f = b.conv_bn(b.op("Relu", b.conv_bn(x, n, n, name=f"block{k}.a")), n, n, name=f"block{k}.b")
        x = b.op("Relu", b.op("Add", x, f))
        made.append(x)
    return made


def resnet(count: int = 3, n: int = 8, *, batch: int | str = 1) -> ModelProto:
    b = Builder("resnet", seed=3)
    x = b.conv_relu(b.source("x", [batch, 3, 12, 12]), 3, n, name="stem")
    return b.build(b.classifier(blocks(b, x, n, count)[-1], n))


def transformer(n: int = 16) -> ModelProto:
    """Two pre-norm layers: an attention branch and an MLP branch in each, at a dynamic length."""
    b = Builder("transformer", seed=5)
    x = b.linear(b.source("x", [1, "length", 8]), 8, n, "embed")
    for k in range(2):
        h = b.layernorm(x, n, f"l{k}.ln1")
        q, key, v = (b.linear(h, n, n, f"l{k}.{name}") for name in "qkv")
        weights = b.op("Softmax", b.op("MatMul", q, b.transpose(key, 0, 2, 1)), axis=-1)
        x = b.op("Add", x, b.linear(b.op("MatMul", weights, v), n, n, f"l{k}.out"))
        h = b.op("Relu", b.linear(b.layernorm(x, n, f"l{k}.ln2"), n, 4 * n, f"l{k}.up"))
        x = b.op("Add", b.linear(h, 4 * n, n, f"l{k}.down"), x)
    return b.build(b.linear(x, n, 5, "head"))


def nested() -> ModelProto:
    """A skip over two residual blocks, and a gate on the outer branch."""
    b = Builder("nested", seed=7)
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 6, name="stem")
    inner = blocks(b, b.conv_relu(x, 6, 6, name="into"), 6, 2)[-1]
    gate = b.op("Sigmoid", b.conv(b.op("GlobalAveragePool", inner), 6, 6, 1, name="gate"))
    y = b.op("Add", x, b.op("Mul", gate, b.conv(inner, 6, 6, name="back")))
    return b.build(b.classifier(y, 6))


def same(a: list[Array], b: list[Array]) -> bool:
    return all(x.shape == y.shape and np.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(a, b, strict=True))


def feed(model: ModelProto, seed: int = 0, free: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {v.name: [d.dim_value or free for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def test_the_branches_of_a_residual_net() -> None:
    found = find_branches(gp.load(resnet(3)))
    assert [len(b.nodes) for b in found] == [5, 5, 5]
    assert all(b.bypass.slot == 1 for b in found)


def test_a_transformer_has_a_branch_for_attention_and_one_for_the_mlp_in_every_layer() -> None:
    model = transformer()
    found = find_branches(gp.load(model))
    assert [b.bypass.slot for b in found] == [1, 0, 1, 0]
    assert all(len(b.reads) == 1 and b.reads[0] in b.skip for b in found)


def test_branches_lie_inside_branches() -> None:
    found = find_branches(gp.load(nested()))
    inner, outer = found[:2], found[-1]
    assert all(set(b.nodes) < set(outer.nodes) for b in inner)


@pytest.mark.parametrize("make", [resnet, transformer, nested])
def test_each_bypass_equals_the_branch_times_zero(make: Any) -> None:
    model = make()
    graph, given_feed = gp.load(model), feed(model)
    for branch in find_branches(graph):
        less = bypassed(graph, [branch.bypass])
        assert len(less.nodes) <= len(graph.nodes) - len(branch.nodes)
        onnx.checker.check_model(proto(less), full_check=True)
        wanted = outputs(times_zero(model, [branch.bypass]), given_feed)
        assert same(wanted, outputs(proto(less), given_feed))
        assert not same(wanted, outputs(model, given_feed))


def test_what_is_needed_elsewhere_stays() -> None:
    """A branch whose middle is a graph output loses only what comes behind it."""
    b = Builder("tapped")
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 6, name="stem")
    middle = b.conv_relu(x, 6, 6, name="middle")
    y = b.op("Add", x, b.conv(middle, 6, 6, name="last"))
    model = b.build(y, middle)
    (branch,) = find_branches(gp.load(model))
    assert len(branch.nodes) == 1
    less = bypassed(gp.load(model), [branch.bypass])
    names = {t.name for t in proto(less).graph.initializer}
    assert "middle.weight" in names
    assert "last.weight" not in names
    assert same(outputs(times_zero(model, [branch.bypass]), feed(model)), outputs(proto(less), feed(model)))


def test_a_sum_that_is_a_graph_output_keeps_its_name() -> None:
    b = Builder("ends")
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 6, name="stem")
    model = b.build(b.op("Add", x, b.conv(x, 6, 6, name="f")))
    (branch,) = find_branches(gp.load(model))
    less = proto(bypassed(gp.load(model), [branch.bypass]))
    assert [o.name for o in less.graph.output] == [o.name for o in model.graph.output]
    assert same(outputs(times_zero(model, [branch.bypass]), feed(model)), outputs(less, feed(model)))


def test_sums_of_three_and_differences() -> None:
    b = Builder("three")
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 6, name="stem")
    y = b.op("Sum", x, b.conv(x, 6, 6, name="f"), b.conv(x, 6, 6, name="g"))
    z = b.op("Sub", y, b.conv(y, 6, 6, name="h"))
    model = b.build(b.classifier(b.op("Sub", b.conv(z, 6, 6, name="i"), z), 6))
    graph = gp.load(model)
    found = {(b.bypass.value, b.bypass.slot) for b in find_branches(graph)}
    assert found == {(y, 1), (y, 2), (z, 1)}
    chosen = [b.bypass for b in find_branches(graph)]
    for some in ([chosen[0]], chosen[:2], chosen):
        less = proto(bypassed(graph, some))
        assert same(outputs(times_zero(model, some), feed(model)), outputs(less, feed(model)))


def test_what_is_no_branch() -> None:
    """Biases, operands that are spread out, sums of two embeddings, and sums that would lose their last operand."""
    b = Builder("none")
    x = b.source("x", [1, 4, 8])
    wide = b.op("Add", b.linear(x, 8, 6, "a"), b.linear(x, 8, 6, "b"))  # both read the input, neither is a skip
    small = b.op("ReduceMean", wide, b.ints(1), keepdims=1)
    spread = b.op("Add", wide, b.linear(small, 6, 6, "c"))
    model = b.build(b.op("Add", spread, b.weight(1, 4, 6)))
    assert find_branches(gp.load(model)) == []


def test_what_stands_in_for_what() -> None:
    graph = gp.load(resnet(3))
    found = find_branches(graph)
    one, both = bypassed(graph, [found[0].bypass]), bypassed(graph, [b.bypass for b in found])
    assert stand_ins(graph) == {}
    skip, total = found[0].skip[0], found[0].bypass.value
    assert stand_ins(one) == {skip: total, "Conv_1_out0": total}  # Relu of Relu: what the first one reads as well
    assert set(stand_ins(both)) == {"Conv_1_out0", *(v for b in found for v in b.skip)}


def test_two_steps_are_as_one() -> None:
    graph = gp.load(resnet(3))
    a, b = (x.bypass for x in find_branches(graph)[:2])
    assert proto(bypassed(bypassed(graph, [a]), [b])) == proto(bypassed(graph, [a, b]))


def test_a_sum_that_is_not_there() -> None:
    graph = gp.load(resnet(1))
    with pytest.raises(InputError, match="no such sum"):
        bypassed(graph, [Bypass("nowhere", 1, "a", "b")])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_residual_graphs(data: st.DataObject) -> None:
    """Random blocks, some nested, gated, shared or tapped: any choice of branches equals them times zero."""
    b = Builder("random", seed=data.draw(st.integers(0, 99)))
    n, stream, inside = 4, [], []
    x = b.conv_relu(b.source("x", [1, 3, 6, 6]), 3, n, name="stem")
    for k in range(data.draw(st.integers(1, 5))):
        stream.append(x)
        f = b.conv_relu(x, n, n, data.draw(st.sampled_from([1, 3])), name=f"f{k}")
        inside.append(f)
        kind = data.draw(st.sampled_from(["plain", "gated", "sub", "sum", "project", "inside", "far"]))
        if kind == "gated":
            f = b.op("Mul", f, b.op("Sigmoid", b.conv(x, n, n, 1, name=f"gate{k}")))
        if kind == "inside":
            f = b.op("Add", f, b.conv(f, n, n, name=f"inner{k}"))
        skip = b.conv(x, n, n, 1, name=f"skip{k}") if kind == "project" else x
        skip = data.draw(st.sampled_from(stream)) if kind == "far" else skip
        pair = (skip, f) if data.draw(st.booleans()) or kind == "sub" else (f, skip)
        x = b.op({"sub": "Sub", "sum": "Sum"}.get(kind, "Add"), *pair)
    taps = data.draw(st.lists(st.sampled_from(stream + inside), max_size=1))
    model = b.build(b.classifier(x, n), *(b.conv(t, n, 2, name="tap") for t in taps))
    graph = gp.load(model)
    found = find_branches(graph)
    chosen, sums = [], set()
    for branch in found:
        if branch.bypass.node not in sums and data.draw(st.booleans()):
            chosen.append(branch.bypass)
            sums.add(branch.bypass.node)
    less = bypassed(graph, chosen)
    onnx.checker.check_model(proto(less), full_check=True)
    assert same(outputs(times_zero(model, chosen), feed(model)), outputs(proto(less), feed(model)))
    deps = gp.analyze(less)
    units = np.concatenate([g.units[: g.size // 2] for g in deps.groups])
    cut = deps.cut(units)
    assert verify_cut(cut, rewrite(cut)).passed


# -- branches against widths -------------------------------------------------------------------------------------------


def planted(dead: int = 1, count: int = 3, n: int = 8) -> ModelProto:
    """A residual net with one branch whose last layer gives zero."""
    model = resnet(count, n)
    for tensor in model.graph.initializer:
        if tensor.name in {f"block{dead}.b.bn.{part}" for part in ("gamma", "beta")}:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(n, np.float32), tensor.name))
    return model


def at_sum(model: ModelProto, block: int) -> str:
    """Name of the sum that ends a block."""
    return [n.name for n in model.graph.node if n.op_type == "Add"][block]


def test_a_branch_that_gives_nothing_goes_first_and_costs_nothing() -> None:
    model = planted()
    result = gp.prune(model, macs="80%", depth="auto", align=1)
    assert [b.node for b in result.plan.bypassed] == [at_sum(model, 1)]
    assert result.plan.groups == ()
    given_feed = feed(model)
    assert same(outputs(model, given_feed), outputs(proto_of(result.model), given_feed))
    assert result.verdict is not None
    assert result.verdict.passed


def proto_of(model: Any) -> ModelProto:
    import onnx_ir as ir

    return ir.to_proto(model)


def measured(model: Any) -> Any:
    """Costs of a written model, as a file that knows nothing of how it came about."""
    deps = gp.analyze(proto_of(model))
    from graphprune.cost.model import CostModel

    return CostModel(deps).costs(np.zeros(deps.state.store.count, bool))


@pytest.mark.parametrize("depth", ["auto", "2", "only"])
@pytest.mark.parametrize("make", [resnet, transformer, nested])
def test_costs_are_those_of_the_file_and_the_target_holds(make: Any, depth: str) -> None:
    result = gp.prune(make(), macs="75%", depth=depth, align=1)
    assert result.after == measured(result.model)
    assert result.before == measured(gp.load(make()).source)
    assert result.after.macs <= 0.75 * result.before.macs
    assert len(result.plan.bypassed) <= 2 or depth != "2"
    if depth == "only":
        assert result.plan.groups == ()
        assert result.plan.bypassed


def test_every_target_holds_at_once() -> None:
    result = gp.prune(resnet(4), macs="60%", params="70%", memory="90%", depth="auto", align=1)
    assert result.after == measured(result.model)
    assert result.after.params <= 0.7 * result.before.params
    assert result.after.memory <= 0.9 * result.before.memory


def test_widths_and_branches_together_equal_the_masked_original() -> None:
    """Beyond what branches alone can save both are removed; the plan is replayed and verified from its file."""
    model = resnet(3)
    result = gp.prune(model, macs="25%", depth="auto", align=1, max_ratio=0.5)
    assert result.plan.bypassed
    assert result.plan.groups
    assert result.verdict is not None
    assert result.verdict.passed


def test_a_plan_goes_through_json_and_replays(tmp_path: Any) -> None:
    model = planted()
    result = gp.prune(model, macs="50%", depth="auto", align=1)
    path = tmp_path / "plan.json"
    path.write_text(result.plan.to_json())
    again = gp.Plan.read(path)
    assert again.to_json() == result.plan.to_json()
    assert again.bypassed
    made = gp.apply(model, path)
    assert proto_of(made).graph == proto_of(result.model).graph
    assert gp.verify(model, proto_of(made), path).passed
    replayed = gp.prune(model, from_plan=again)
    assert (replayed.before, replayed.after) == (result.before, result.after)
    with pytest.raises(InputError, match="no such sum"):
        gp.apply(transformer(), path)


def test_a_wrong_bypass_does_not_verify() -> None:
    """The verdict compares with the whole model: a file without another branch is not what the plan says."""
    model = resnet(3)
    graph = gp.load(model)
    a, b = (x.bypass for x in find_branches(graph)[:2])
    deps = gp.analyze(bypassed(graph, [a]))
    other = gp.analyze(bypassed(graph, [b]))
    units = np.zeros(0, np.int32)
    assert verify_cut(deps.cut(units), rewrite(deps.cut(units))).passed
    assert not verify_cut(deps.cut(units), rewrite(other.cut(units))).passed


def test_families_stay_nested() -> None:
    model = resnet(4)
    large, middle, small = gp.family(model, macs=["80%", "50%", "25%"], depth="auto", align=1)
    for big, less in ((large, middle), (middle, small)):
        assert set(big.plan.bypassed) <= set(less.plan.bypassed)
        gone = {t.name for t in proto_of(big.model).graph.initializer}
        assert {t.name for t in proto_of(less.model).graph.initializer} <= gone
        for name, axes in big.plan.weights.items():
            if name in {t.name for t in proto_of(less.model).graph.initializer}:
                for axis, positions in axes.items():
                    assert set(positions) <= set(less.plan.weights[name][axis])
    assert small.plan.bypassed
    assert all(r.verdict is not None and r.verdict.passed for r in (large, middle, small))


def test_what_is_ignored_stays() -> None:
    model = planted(1)
    result = gp.prune(model, macs="80%", depth="auto", align=1, ignore=[r"block1\."])
    assert at_sum(model, 1) not in {b.node for b in result.plan.bypassed}
    result = gp.prune(model, macs="80%", depth="only", only=[r"block[01]\."])
    assert {b.node for b in result.plan.bypassed} <= {at_sum(model, 0), at_sum(model, 1)}


def test_no_branch_and_no_cost() -> None:
    b = Builder("plain")
    x = b.conv_relu(b.source("x", [1, 3, 8, 8]), 3, 8)
    model = b.build(b.classifier(b.conv_relu(x, 8, 8), 8))
    result = gp.prune(model, macs="50%", depth="auto", align=1)
    assert any("no branch" in note for note in result.notes)
    with pytest.raises(NothingToPruneError, match="no branch"):
        gp.prune(model, macs="50%", depth="only")
    with pytest.raises(InputError, match="--depth needs a cost"):
        gp.prune(resnet(), ratio=0.3, depth="auto")
    with pytest.raises(InputError, match="--depth maybe"):
        gp.prune(resnet(), macs="50%", depth="maybe")


def test_out_of_reach_of_both() -> None:
    with pytest.raises(InfeasibleError, match="best reachable"):
        gp.prune(resnet(), macs="0.1%", depth="auto", align=1)
    with pytest.raises(InfeasibleError, match="best reachable"):
        gp.prune(resnet(), macs="5%", depth="only")


def test_recovery_aims_at_the_original() -> None:
    """A branch that is linear in what the layer in front can reach is made up for, which the cut alone is not."""
    model = resnet(3)
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((96, 3, 12, 12)).astype(np.float32)}
    result = gp.prune(model, macs="70%", depth="only", data=data)
    assert result.recovery is not None
    assert result.recovery.error < 0.7 * result.recovery.cut
    assert result.verdict is not None
    assert result.verdict.passed


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line_writes_a_plan_that_replays(tmp_path: Path) -> None:
    model, small, again = (tmp_path / f"{n}.onnx" for n in ("model", "small", "again"))
    onnx.save(planted(), model)
    out = done(model, small, "--macs", "60%", "--align", "1", "--depth", "auto")
    assert "branches left out" in out
    report = json.loads((tmp_path / "small.report.json").read_text())
    assert report["check"]["status"] == "verified"
    assert report["recipe"]["depth"] == "auto"
    names = [b["name"].rpartition(":")[0] for b in report["bypassed"]]
    plan = json.loads((tmp_path / "small.plan.json").read_text())
    assert names == [b["node"] for b in plan["bypassed"]]
    assert at_sum(planted(), 1) in names
    done("apply", tmp_path / "small.plan.json", model, again)
    assert again.read_bytes() == small.read_bytes()
    assert "equals the masked original" in done("verify", model, small, tmp_path / "small.plan.json")
    repeat = tmp_path / "repeat.onnx"
    done(model, repeat, "--recipe", tmp_path / "small.recipe.yaml")
    assert repeat.read_bytes() == small.read_bytes()


def test_analyze_lists_and_explains_branches(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(resnet(2), model)
    found = json.loads(call("analyze", model, "--json").out)["branches"]
    graph = gp.load(resnet(2))
    assert [b["name"] for b in found] == [b.name for b in find_branches(graph)]
    for info, branch in zip(found, find_branches(graph), strict=True):
        less = measured(bypassed(graph, [branch.bypass]).source)
        whole = measured(graph.source)
        assert (info["macs"], info["params"]) == (whole.macs - less.macs, whole.params - less.params)
    text = done("analyze", model, "--explain", at_sum(resnet(2), 1))
    assert "can be left out" in text
    assert "block1.a.weight" in text
    assert "block0.a.weight" not in text


def test_refusals_of_the_command_line(tmp_path: Path) -> None:
    model, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(resnet(2), model)
    assert call(model, small, "--macs", "0.1%", "--align", "1", "--depth", "auto").code == 3
    assert call(model, small, "--macs", "50%", "--depth", "0").code == 2
    assert call(model, small, "--lossless", "--depth", "auto").code == 2
    assert not small.exists()


def test_a_checkpoint_cannot_follow(tmp_path: Path) -> None:
    model = planted()
    result = gp.prune(model, macs="80%", depth="auto", align=1)
    state = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    with pytest.raises(InputError, match="needs the graph"):
        gp.apply(state, result.plan)


def test_modules_are_refused() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    with pytest.raises(InputError, match="export the module"):
        gp.prune(module, example_inputs=torch.zeros(1, 8), macs="50%", depth="auto")
