"""Bad files, bad options and bad data: one clear line, the documented exit code, nothing left behind."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.commandline import FASHION, call, done, listing, refused
from tests.graphs import GRAPHS, Builder

Json = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rejected(folder: Path, pattern: str, *arguments: object, code: int = 2) -> str:
    """A refusal that leaves the folder as it was."""
    before = listing(folder), sorted(folder.rglob("*"))
    line = refused(code, pattern, *arguments)
    assert (listing(folder), sorted(folder.rglob("*"))) == before
    return line


# -- files -----------------------------------------------------------------------------------------------


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("model.txt", "not a model")
    return buffer.getvalue()


CONTENTS: dict[str, Callable[[], bytes]] = {
    "truncated": lambda: FASHION.read_bytes()[:400_000],
    "truncated_early": lambda: FASHION.read_bytes()[:1000],
    "text": lambda: b"this is not a model\n" * 20,
    "html": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "empty": lambda: b"",
    "zip": archive,
    **{f"random{seed}": lambda seed=seed: np.random.default_rng(seed).bytes(5000) for seed in range(5)},
    "lfs_pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 945495\n",
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("verb", ["prune", "analyze", "profile"])
def test_files_that_are_no_model(folder: Path, kind: str, verb: str) -> None:
    (folder / "m.onnx").write_bytes(CONTENTS[kind]())
    rest = ["o.onnx", "--macs", "50%"] if verb == "prune" else []
    rejected(folder, r"m\.onnx: not a", verb, "m.onnx", *rest)


@pytest.mark.parametrize(("name", "pattern"), [("nowhere.onnx", "no such file"), (".", "no such file")])
def test_missing_files(folder: Path, name: str, pattern: str) -> None:
    rejected(folder, pattern, "prune", name, "o.onnx", "--macs", "50%")
    rejected(folder, pattern, "analyze", name)


def external(folder: Path, location: str) -> Path:
    """The example with its weights outside, in a file named ``location``."""
    home = folder / "home"
    home.mkdir()
    model = onnx.load(FASHION)
    onnx.save(model, home / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    light = onnx.load(home / "m.onnx", load_external_data=False)
    for tensor in light.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (home / "m.onnx").write_bytes(light.SerializeToString())
    return home / "m.onnx"


@pytest.mark.parametrize(
    ("location", "pattern"),
    [
        ("gone.data", r"stem\.0\.weight: external data file gone\.data is missing"),
        ("../secret.data", r"external data \.\./secret\.data leaves the model's folder; refused"),
        ("sub/../../secret.data", "leaves the model's folder; refused"),
        ("/etc/passwd", r"external data /etc/passwd leaves the model's folder; refused"),
        ("link.data", r"link\.data leaves the model's folder; refused"),
    ],
)
def test_external_data_must_stay_in_the_folder(folder: Path, location: str, pattern: str) -> None:
    model = external(folder, location)
    (folder / "secret.data").write_bytes((folder / "home" / "m.data").read_bytes())
    (folder / "home" / "link.data").symlink_to(folder / "secret.data")
    rejected(folder, pattern, model, "o.onnx", "--macs", "50%")


def test_hard_links_are_refused(folder: Path) -> None:
    """The reader of external data refuses them too, but only once a weight is read."""
    model = external(folder, "m.data")
    (folder / "other.data").hardlink_to(model.with_name("m.data"))
    rejected(folder, r"m\.data has several hard links; copy it", model, "o.onnx", "--macs", "50%")


def test_external_data_that_is_too_short(folder: Path) -> None:
    model = external(folder, "m.data")
    data = model.with_name("m.data")
    data.write_bytes(data.read_bytes()[:5000])
    rejected(folder, r"m\.data is shorter than \d+ bytes", model, "o.onnx", "--macs", "50%")


def test_the_data_of_the_input_is_never_overwritten(folder: Path) -> None:
    model = external(folder, "m.data")
    model.with_name("m.data").rename(model.with_name("o.onnx.data"))
    light = onnx.load(model, load_external_data=False)
    for tensor in light.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "o.onnx.data" if entry.key == "location" else entry.value
    model.write_bytes(light.SerializeToString())
    rejected(folder, r"o\.onnx\.data: the output would overwrite", model, "home/o.onnx", "--macs", "50%")
    done(model, "home/p.onnx", "--macs", "50%", "-q")
    assert (folder / "home" / "p.onnx.data").exists()


# -- graphs ----------------------------------------------------------------------------------------------


def value(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def saved(folder: Path, nodes: list[onnx.NodeProto], *stored: onnx.TensorProto, out: str = "y") -> str:
    graph = helper.make_graph(nodes, "g", [value("x", 2, 4)], [value(out, 2, 4)], list(stored))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "m.onnx")
    return "m.onnx"


def test_a_cyclic_graph(folder: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    model = saved(folder, nodes, out="b")
    rejected(folder, "node first: input b comes later or forms a cycle", model, "o.onnx", "--macs", "50%")


def test_a_value_that_nothing_makes(folder: Path) -> None:
    model = saved(folder, [helper.make_node("Add", ["x", "ghost"], ["y"], name="add")])
    rejected(folder, "node add: input ghost is produced by nothing", model, "o.onnx", "--macs", "50%")
    model = saved(folder, [helper.make_node("Relu", ["x"], ["z"], name="relu")])
    rejected(folder, "graph output y is produced by nothing", model, "o.onnx", "--macs", "50%")


def changed_weight(folder: Path, name: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> str:
    model = onnx.load(FASHION)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    onnx.save(model, folder / "m.onnx")
    return "m.onnx"


def test_weights_without_elements(folder: Path) -> None:
    model = changed_weight(folder, "body.0.first.0.weight", lambda w: w[:0])
    rejected(folder, r"weight body\.0\.first\.0\.weight has no elements \(0x32x3x3\)", model, "o.onnx", "--macs", "50%")


@pytest.mark.parametrize("criterion", ["l2", "random"])
@pytest.mark.parametrize("name", ["stem.0.weight", "head.bias"])
def test_weights_with_nan(folder: Path, name: str, criterion: str) -> None:
    def poison(w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        w.flat[3] = np.nan
        return w

    model = changed_weight(folder, name, poison)
    rejected(folder, f"weight {name} holds NaN", model, "o.onnx", "--macs", "50%", "--criterion", criterion)
    rejected(folder, f"weight {name} holds NaN", "plan", model, "o.json", "--macs", "50%", "--criterion", criterion)


def test_infinite_weights(folder: Path) -> None:
    model = changed_weight(folder, "stem.0.weight", lambda w: np.where(w == w.max(), np.float32(np.inf), w))
    rejected(folder, r"weight stem\.0\.weight holds NaN or infinite values", model, "o.onnx", "--macs", "50%")


# -- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ([], "no target: give at least one of --macs"),
        (["--macs", "many"], "--macs many: cannot be read"),
        (["--macs", ""], "cannot be read"),
        (["--macs", "0%"], "--macs 0%"),
        (["--macs", "150%"], "--macs 150%"),
        (["--macs", "100%"], "met already"),
        (["--macs", "-3"], "--macs -3: cannot be read"),
        (["--macs", "50%%"], "cannot be read"),
        (["--macs", "1.2Q"], "cannot be read"),
        (["--macs", "nan"], "cannot be read"),
        (["--params", "5 apples"], "--params 5 apples: cannot be read"),
        (["--size", "3XB"], "--size 3XB: cannot be read"),
        (["--ratio", "1.5"], "--ratio 1.5: the removed share must lie between 0 and 1"),
        (["--ratio", "0"], "--ratio 0"),
        (["--latency", "60"], "--latency 60: cannot be read; write 60% or 8ms"),
        (["--latency", "60%ms"], "--latency 60%ms: cannot be read"),
        (["--latency", "120%"], "--latency 120%: a percent of the original's time lies between 0 and 100"),
        (["--latency", "0ms"], "--latency 0ms: must be above zero"),
        (["--latency", "9999s", "--align", "8"], "--latency 9999s is met already: the model takes"),
        (["--latency", "60%", "--provider", "Abacus"], "--provider Abacus: onnxruntime has"),
        (["--latency", "60%", "--threads", "-1"], "--threads -1: must be 0 or more"),
        (["--macs", "50%", "--threads", "2"], "--threads belongs to --latency, which is not given"),
        (["--latency", "60%", "--latency-table", "nowhere.csv"], "nowhere.csv: No such file"),
        (["--latency", "60%", "--latency-table", "nowhere.py:times"], "nowhere.py: no such file"),
        (["--macs", "50%", "--align", "0"], "--align 0: must be 1 or more"),
        (["--macs", "50%", "--align", "wide"], "--align wide: must be a whole number, or auto"),
        (["--macs", "50%", "--min-channels", "0"], "--min-channels 0"),
        (["--macs", "50%", "--max-ratio", "0"], "--max-ratio 0"),
        (["--macs", "50%", "--criterion", "magic"], "unknown criterion 'magic'; there are l1, l2, lamp, bn-scale"),
        (["--macs", "50%", "--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--macs", "50%", "--ignore", "nothing_like_this"], "--ignore nothing_like_this: matches no node"),
        (["--macs", "50%", "--only", "nothing_like_this"], "--only nothing_like_this: matches no node"),
        (["--macs", "50%", "--ignore", "("], r"--ignore \(: not a regular expression"),
        (["--macs", "50%", "--input-shape", "axb"], "--input-shape axb: cannot be read"),
        (["--macs", "50%", "--input-shape", "image:1,0,28,28"], "cannot be read"),
        (["--macs", "50%", "--input-shape", "image:1,3,28,28"], r"does not fit the input's shape \[batch,1,28,28\]"),
        (["--macs", "50%", "--input-shape", "1x1x28"], "does not fit the input's shape"),
        (["--macs", "50%", "--input-shape", "picture:1x1x28x28"], "names no input 'picture'; inputs are image"),
        (["--macs", "50%", "--input-shape", "1x1x28x28", "--input-shape", "2x1x28x28"], "given twice"),
        (["--macs", "50%", "--recipe", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--macs", "50%", "--data", "nowhere.npz"], "nowhere.npz: no such file"),
    ],
)
def test_bad_options(folder: Path, options: list[str], pattern: str) -> None:
    rejected(folder, pattern, FASHION, "o.onnx", *options)


def test_out_of_reach(folder: Path) -> None:
    rejected(folder, "best reachable is", FASHION, "o.onnx", "--params", "100", code=3)
    rejected(folder, "best reachable is", FASHION, "o.onnx", "--macs", "5%", "--max-ratio", "0.2", code=3)


def test_outputs_that_cannot_be(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(FASHION.read_bytes())
    (folder / "link.onnx").symlink_to("m.onnx")
    (folder / "dir").mkdir()
    for output in ("m.onnx", "./dir/../m.onnx", folder / "m.onnx", "link.onnx"):
        rejected(folder, "the output would overwrite the input", "m.onnx", output, "--macs", "50%")
    rejected(folder, "the folder nowhere does not exist", "m.onnx", "nowhere/o.onnx", "--macs", "50%")
    rejected(folder, "dir: this is a folder", "m.onnx", "dir", "--macs", "50%")
    rejected(folder, "the output would overwrite the input", "plan", "m.onnx", "m.onnx", "--macs", "50%")


# -- recipes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "pattern"),
    [
        ("r.yaml", "macs: 50%\nmaxratio: 0.8\n", "unknown option 'maxratio'; did you mean max-ratio"),
        ("r.yaml", "macs: 50%\nzzz: 8\n", "unknown option 'zzz'; there are macs"),
        ("r.yaml", "macs: {a: 1}\n", "macs: .* is not an amount"),
        ("r.yaml", "macs: true\n", "macs: True is not an amount"),
        ("r.yaml", "macs: 50%\nseed: many\n", "seed: 'many' is not a whole number"),
        ("r.yaml", "macs: 50%\nignore: 3\n", "ignore: 3 is not a regular expression"),
        ("r.yaml", "macs: 50%\nno-verify: 3\n", "no-verify: 3 is not true or false"),
        ("r.yaml", "min-channels: 1\nmin_channels: 2\n", "given twice"),
        ("r.yaml", "- macs\n", "a recipe is a mapping"),
        ("r.yaml", "", "a recipe is a mapping"),
        ("r.yaml", "macs: [50%\n", "not a readable recipe"),
        ("r.yaml", "!!python/object/apply:os.system ['true']\n", "not a readable recipe"),
        ("r.json", '{"macs": "50%"', "not a readable recipe"),
    ],
)
def test_bad_recipes(folder: Path, name: str, text: str, pattern: str) -> None:
    (folder / name).write_text(text)
    rejected(folder, rf"{name}: .*{pattern}", FASHION, "o.onnx", "--recipe", name)


# -- plans -----------------------------------------------------------------------------------------------


@pytest.fixture
def good(folder: Path, pruned: Path) -> Json:
    found: Json = json.loads((pruned / "small.plan.json").read_text())
    return found


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", "not a graphprune plan"),
        ("[]", "not a graphprune plan"),
        ("{", "not a graphprune plan"),
        ('{"version": 2}', "not a graphprune plan of version 1"),
        ("{}", "the plan removes nothing"),
        ('{"version": 1, "weights": {"stem.0.weight": {"zero": [1]}}}', "not a graphprune plan"),
        ('{"version": 1, "layers": {}}', "not a graphprune plan"),
    ],
)
def test_damaged_plans(folder: Path, text: str, pattern: str) -> None:
    (folder / "p.json").write_text(text)
    rejected(folder, pattern, "apply", "p.json", FASHION, "o.onnx")


def append(position: int) -> Callable[[Json], None]:
    return lambda plan: plan["weights"]["stem.0.weight"]["0"].append(position)


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        (append(99999), "weight stem.0.weight axis 0, which has 32"),
        (append(-1), "removes positions -1 to"),
        (lambda p: p["weights"]["stem.0.weight"]["0"].pop(), "does not fit this model's couplings"),
        (lambda p: p["weights"]["stem.0.weight"].update({"7": [1]}), "does not fit this model's couplings"),
        (lambda p: p["weights"]["head.weight"].update({"0": [1]}), "does not fit this model's couplings"),
        (lambda p: p["weights"].update({"ghost": {"0": [1]}}), "cuts weight ghost, which this model does not have"),
        (lambda p: p.update(weights={}), "the plan removes nothing"),
    ],
)
def test_plans_that_do_not_fit(folder: Path, good: Json, damage: Callable[[Json], None], pattern: str) -> None:
    damage(good)
    (folder / "p.json").write_text(json.dumps(good))
    rejected(folder, pattern, "apply", "p.json", FASHION, "o.onnx")


def test_a_plan_that_empties_an_axis(folder: Path) -> None:
    b = Builder("two")
    x = b.gemm(b.op("Relu", b.gemm(b.source("x", [2, 4]), 4, 6, "first")), 6, 3, "second")
    onnx.save(b.build(x), folder / "m.onnx")
    every = list(range(6))
    weights = {"first.weight": {"0": every}, "first.bias": {"0": every}, "second.weight": {"1": every}}
    (folder / "p.json").write_text(json.dumps({"version": 1, "weights": weights}))
    rejected(folder, "removes all 6 positions of weight first.weight axis 0", "apply", "p.json", "m.onnx", "o.onnx")


def test_the_plan_of_another_model(folder: Path, pruned: Path) -> None:
    onnx.save(GRAPHS["resnet_stage"](), folder / "m.onnx")
    plan = pruned / "small.plan.json"
    for arguments in (["apply", plan, "m.onnx", "o.onnx"], ["verify", "m.onnx", FASHION, plan]):
        rejected(folder, r"the plan cuts weight stem\.0\.weight, which this model does not have", *arguments)
    rejected(folder, "no such file|No such file", "apply", "nowhere.json", FASHION, "o.onnx")


# -- data ------------------------------------------------------------------------------------------------

IMAGES = np.zeros((6, 1, 28, 28), np.float32)


@pytest.mark.parametrize(
    ("arrays", "pattern"),
    [
        ({"picture": IMAGES}, "no array for input image; it has picture"),
        ({}, "no array for input image; it has no arrays"),
        ({"labels": np.zeros(6, np.int64)}, "no array for input image; it has labels"),
        ({"image": IMAGES.astype(np.float64)}, "image is float64, the model's input is float32"),
        ({"image": IMAGES.astype(np.uint8)}, "image is uint8, the model's input is float32"),
        ({"image": IMAGES[:, :, :14]}, r"image has shape \(6, 1, 14, 28\), the model's input is \[\?, 1, 28, 28\]"),
        ({"image": IMAGES[0, 0]}, r"image has shape \(28, 28\)"),
        ({"image": np.float32(1)}, r"image has shape \(\)"),
        ({"image": IMAGES[:0]}, "image is empty"),
        ({"image": np.where(IMAGES == 0, np.float32(np.nan), 1)}, "image holds NaN"),
        ({"image": np.array([IMAGES, None], object)}, "pickled objects are refused"),
    ],
)
def test_bad_data(folder: Path, arrays: dict[str, Any], pattern: str) -> None:
    np.savez(folder / "d.npz", **arrays)
    rejected(folder, rf"d\.npz: .*{pattern}", FASHION, "o.onnx", "--macs", "50%", "--data", "d.npz")


def test_bad_data_files(folder: Path) -> None:
    np.save(folder / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (folder / "text.npz").write_text("not an archive")
    (folder / "zip.npz").write_bytes(archive())
    (folder / "cut.npy").write_bytes((folder / "objects.npy").read_bytes()[:20])
    (folder / "empty.npz").write_bytes(b"")
    for name in ("objects.npy", "text.npz", "zip.npz", "cut.npy", "empty.npz"):
        rejected(folder, rf"{name}: ", FASHION, "o.onnx", "--macs", "50%", "--data", name)


def test_nothing_is_ever_a_traceback(folder: Path) -> None:
    """Whatever byte is wrong: a code from the list and one line, never a crash."""
    whole = bytearray((FASHION).read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(25):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            broken[place] = int(rng.integers(256))
        cut = int(rng.integers(1, len(whole))) if rng.random() < 0.3 else len(whole)
        (folder / "m.onnx").write_bytes(bytes(broken[:cut]))
        outcome = call("analyze", "m.onnx", "-q")
        assert outcome.code in (0, 2), outcome.err
