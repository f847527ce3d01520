"""The command line: what it writes, what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from onnx import numpy_helper

from graphprune.cli import main
from tests.commandline import FASHION, call, done, listing, refused, weights
from tests.graphs import GRAPHS

CALIBRATION = FASHION.with_name("calibration.npz")


# -- prune -----------------------------------------------------------------------------------------------


def test_prune_writes_four_files_and_a_table(pruned: Path, tmp_path: Path) -> None:
    assert sorted(listing(pruned)) == ["small.onnx", "small.plan.json", "small.recipe.yaml", "small.report.json"]
    out = done(FASHION, tmp_path / "small.onnx", "--macs", "50%")
    for word in ("parameters", "MACs", "size", "verified: equals the masked original", "relative error", "blocked"):
        assert word in out
    report = json.loads((pruned / "small.report.json").read_text())
    assert report["after"]["macs"] <= report["before"]["macs"] // 2
    assert report["before"]["bytes"] == FASHION.stat().st_size
    assert report["after"]["bytes"] == (pruned / "small.onnx").stat().st_size
    assert report["check"]["status"] == "verified"
    assert report["check"]["error"] < 1e-4
    assert report["blocked"][0]["tensor"] == "head.weight"


def test_the_result_runs_and_is_smaller(pruned: Path) -> None:
    session = ort.InferenceSession(pruned / "small.onnx", providers=["CPUExecutionProvider"])
    images = np.load(CALIBRATION)["image"][:5]
    assert session.run(None, {"image": images})[0].shape == (5, 10)
    old, new = weights(FASHION), weights(pruned / "small.onnx")
    assert {n for n, w in old.items() if w.dtype == np.float32} <= new.keys()
    assert sum(w.size for w in new.values()) < 0.6 * sum(w.size for w in old.values())


def test_the_short_form_and_a_rerun_give_the_same_bytes(pruned: Path, tmp_path: Path) -> None:
    before = FASHION.read_bytes()
    done(FASHION, tmp_path / "small.onnx", "--macs", "50%", "-q")
    assert FASHION.read_bytes() == before
    for name in ("small.onnx", "small.plan.json", "small.recipe.yaml"):
        assert (tmp_path / name).read_bytes() == (pruned / name).read_bytes()


@pytest.mark.parametrize("seed", [0, 1])
def test_random_scores_follow_the_seed(stage: Path, seed: int) -> None:
    for name in ("a.onnx", "b.onnx"):
        done(stage, stage.with_name(name), "--ratio", "0.4", "--align", "1", "--criterion", "random", "--seed", seed)
    done(stage, stage.with_name("c.onnx"), "--ratio", "0.4", "--align", 1, "--criterion", "random", "--seed", 7)
    same, other = (stage.with_name(n).read_bytes() for n in ("b.onnx", "c.onnx"))
    assert stage.with_name("a.onnx").read_bytes() == same != other


def test_other_processes_give_the_same_bytes(pruned: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "graphprune", str(FASHION), str(tmp_path / "small.onnx"), "--macs", "50%"]
    finished = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "3"}
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "verified" in finished.stdout
    assert (tmp_path / "small.onnx").read_bytes() == (pruned / "small.onnx").read_bytes()


def test_json_is_one_object_on_stdout(stage: Path) -> None:
    outcome = call(stage, stage.with_name("o.onnx"), "--ratio", "0.4", "--json")
    report = json.loads(outcome.out)
    assert outcome.code == 0
    assert report["verb"] == "prune"
    assert "verified" in outcome.err
    assert json.loads(stage.with_name("o.report.json").read_text()) == report
    quiet = call(stage, stage.with_name("o.onnx"), "--ratio", "0.4", "--json", "--quiet")
    assert json.loads(quiet.out) == report
    assert quiet.err == ""


def test_an_error_in_json_is_one_object_too(stage: Path) -> None:
    outcome = call(stage, stage.with_name("o.onnx"), "--macs", "many", "--json")
    assert json.loads(outcome.out)["exit_code"] == outcome.code == 2
    assert outcome.err.count("\n") == 1


def test_quiet_says_nothing(stage: Path) -> None:
    assert done(stage, stage.with_name("o.onnx"), "--ratio", "0.4", "-q") == ""


def test_no_verify_is_marked_everywhere(stage: Path) -> None:
    output = stage.with_name("o.onnx")
    assert "UNVERIFIED" in done(stage, output, "--ratio", "0.4", "--no-verify")
    assert json.loads(stage.with_name("o.report.json").read_text())["check"]["status"] == "UNVERIFIED"
    assert any("UNVERIFIED" in p.value for p in onnx.load(output).metadata_props)


def test_data_is_used_for_verification(tmp_path: Path) -> None:
    done(FASHION, tmp_path / "o.onnx", "--macs", "70%", "--data", CALIBRATION, "-q")
    assert json.loads((tmp_path / "o.report.json").read_text())["check"]["inputs"] == 4


def test_input_shape_sets_what_the_costs_hold_for(tmp_path: Path) -> None:
    report = json.loads(done("analyze", FASHION, "--input-shape", "4x1x28x28", "--json", "-q"))
    plain = json.loads(done("analyze", FASHION, "--json", "-q"))
    assert report["input_shapes"][0] == {"image": [4, 1, 28, 28]}
    assert report["cost"]["macs"] == 4 * plain["cost"]["macs"]


@pytest.mark.parametrize("name", ["dynamic_batch_reshape", "dynamic_width_reshape"])
def test_an_input_shape_does_not_fix_dynamic_axes(tmp_path: Path, name: str) -> None:
    """Sizes given for the probe must not be baked into the file: it still runs at other sizes."""
    model, output = tmp_path / "m.onnx", tmp_path / "s.onnx"
    onnx.save(GRAPHS[name](), model)
    done(
        model,
        output,
        "--ratio",
        "0.4",
        "--align",
        "1",
        "--input-shape",
        "3x5x10" if "width" not in name else "3x4x10",
        "-q",
    )
    done("verify", model, output, tmp_path / "s.plan.json", "-q")


def test_external_weights_stay_external(tmp_path: Path) -> None:
    for threshold, name in ((100, "a"), (1024, "b")):
        model, output = tmp_path / f"{name}.onnx", tmp_path / f"{name}_small.onnx"
        onnx.save(
            onnx.load(FASHION), model, save_as_external_data=True, location=f"{name}.bin", size_threshold=threshold
        )
        done(model, output, "--macs", "50%", "-q")
        assert output.with_name(f"{name}_small.onnx.data").stat().st_size < 0.6 * FASHION.stat().st_size
        done("verify", model, output, tmp_path / f"{name}_small.plan.json", "-q")
        report = json.loads((tmp_path / f"{name}_small.report.json").read_text())
        assert report["before"]["bytes"] == model.stat().st_size + (tmp_path / f"{name}.bin").stat().st_size


def test_widths_are_multiples_of_16_by_default(stage: Path) -> None:
    same = (["--align", "auto"], ["--align", "16", "--max-step", "0.25"])
    for name, flags in (("a", []), *zip("bc", same, strict=True)):
        done(stage, stage.with_name(f"{name}.onnx"), "--ratio", "0.4", *flags, "-q")
    assert len({stage.with_name(f"{name}.onnx").read_bytes() for name in "abc"}) == 1
    assert json.loads(stage.with_name("b.plan.json").read_text())["recipe"]["align"] == 16


def test_progress_shows_on_a_terminal_only(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Tty()
    monkeypatch.setattr(sys, "stderr", stream)
    assert main([str(stage), str(stage.with_name("o.onnx")), "--ratio", "0.4", "-q"]) == 0
    assert stream.getvalue() == ""
    monkeypatch.setenv("TERM", "xterm")
    assert main(["analyze", str(stage)]) == 0
    assert "analyze" in stream.getvalue()


# -- ignore and only -------------------------------------------------------------------------------------


def test_an_ignored_layer_keeps_its_weights(tmp_path: Path) -> None:
    done(FASHION, tmp_path / "o.onnx", "--macs", "60%", "--ignore", r"body\.3", "--ignore", "stem", "-q")
    old, new = weights(FASHION), weights(tmp_path / "o.onnx")
    kept = [n for n in old if n.startswith(("body.3", "stem"))]
    assert kept
    assert all(np.array_equal(old[n], new[n]) for n in kept)
    assert any(old[n].shape != new[n].shape for n in old)


def test_only_the_named_layer_loses_channels(tmp_path: Path) -> None:
    done(FASHION, tmp_path / "o.onnx", "--ratio", "0.5", "--only", r"body\.3\.second\.0\.weight$", "-q")
    old, new = weights(FASHION), weights(tmp_path / "o.onnx")
    assert old["body.3.second.0.weight"].shape == (128, 64, 3, 3)
    assert new["body.3.second.0.weight"].shape == (64, 32, 3, 3)
    assert np.array_equal(old["stem.0.weight"], new["stem.0.weight"])


# -- recipe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_flags_win_over_the_recipe(stage: Path, suffix: str) -> None:
    entries = {"ratio": 0.25, "align": 1, "ignore": "stem", "max-ratio": 0.8, "no-verify": True}
    recipe = stage.with_suffix(suffix)
    recipe.write_text(json.dumps(entries) if suffix == ".json" else yaml.safe_dump(entries))
    done(stage, stage.with_name("o.onnx"), "--recipe", recipe, "--ratio", "40%", "-q")
    effective = yaml.safe_load(stage.with_name("o.recipe.yaml").read_text())
    assert effective == {
        "ratio": "40%",
        "criterion": "l2",
        "seed": 0,
        "align": 1,
        "min-channels": 1,
        "max-ratio": 0.8,
        "max-step": 0.5,
        "ignore": ["stem"],
        "no-verify": True,
    }


def test_the_effective_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "o.onnx", tmp_path / "b" / "o.onnx"
    for path in (first, second):
        path.parent.mkdir()
    flags = ["--ratio", "0.3", "--params", "60%", "--data", CALIBRATION, "--input-shape", "image:2,1,28,28", "-q"]
    done(FASHION, first, *flags)
    recipe = first.with_name("o.recipe.yaml")
    assert yaml.safe_load(recipe.read_text())["ratio"] == 0.3
    done(FASHION, second, "--recipe", recipe, "-q")
    for name in ("o.onnx", "o.plan.json"):
        assert first.with_name(name).read_bytes() == second.with_name(name).read_bytes()


def test_a_recipe_of_ones_own_is_not_overwritten(stage: Path) -> None:
    recipe = stage.with_name("o.recipe.yaml")
    recipe.write_text("ratio: 40%  # mine\n")
    done(stage, stage.with_name("o.onnx"), "--recipe", recipe, "-q")
    assert recipe.read_text() == "ratio: 40%  # mine\n"


# -- plan, apply, verify ---------------------------------------------------------------------------------


def test_apply_replays_byte_for_byte(pruned: Path, tmp_path: Path) -> None:
    done("apply", pruned / "small.plan.json", FASHION, tmp_path / "again.onnx", "--data", CALIBRATION, "-q")
    assert sorted(listing(tmp_path)) == ["again.onnx", "again.report.json"]
    assert (tmp_path / "again.onnx").read_bytes() == (pruned / "small.onnx").read_bytes()


def test_apply_replays_on_another_checkpoint(stage: Path) -> None:
    done(stage, stage.with_name("o.onnx"), "--ratio", "0.4", "-q")
    later = GRAPHS["resnet_stage"]()
    for tensor in later.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    onnx.save(later, stage.with_name("later.onnx"))
    done("apply", stage.with_name("o.plan.json"), stage.with_name("later.onnx"), stage.with_name("p.onnx"), "-q")
    first, second = weights(stage.with_name("o.onnx")), weights(stage.with_name("p.onnx"))
    assert all(np.allclose(first[n] * 1.5, second[n]) for n in first if first[n].dtype == np.float32)


def test_plan_writes_only_the_plan(pruned: Path, tmp_path: Path) -> None:
    done("plan", FASHION, tmp_path / "p.json", "--macs", "50%", "-q")
    assert list(listing(tmp_path)) == ["p.json"]
    assert (tmp_path / "p.json").read_bytes() == (pruned / "small.plan.json").read_bytes()
    refused(2, "plan verifies nothing", "plan", FASHION, tmp_path / "p.json", "--macs", "50%", "--no-verify")


def test_verify_accepts_the_right_file_and_nothing_else(pruned: Path, tmp_path: Path) -> None:
    plan = pruned / "small.plan.json"
    assert "verified" in done("verify", FASHION, pruned / "small.onnx", plan, "--samples", "2")
    assert json.loads(done("verify", FASHION, pruned / "small.onnx", plan, "--json", "-q"))["check"]["inputs"] == 2
    refused(4, "differs from the masked original", "verify", FASHION, FASHION, plan)
    wrong = onnx.load(pruned / "small.onnx")
    tensor = next(t for t in wrong.graph.initializer if t.name == "body.3.first.0.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    refused(4, "differs from the masked original", "verify", FASHION, tmp_path / "wrong.onnx", plan)
    onnx.save(GRAPHS["resnet_stage"](), tmp_path / "other.onnx")
    refused(4, "graph inputs changed", "verify", FASHION, tmp_path / "other.onnx", plan)


# -- analyze and profile ---------------------------------------------------------------------------------


def test_analyze_shows_groups_and_blockers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = done("analyze", FASHION, "--top", "3")
    for word in ("8 with 416 units", "100.0% in operators that can be cut", "head.weight[0]", "graph output logits"):
        assert word in out
    assert "... and 5 more" in out
    assert "... and" not in done("analyze", FASHION, "-v")
    assert listing(tmp_path) == {}
    report = json.loads(done("analyze", FASHION, "--json", "-q"))
    assert len(report["groups"]) == 8
    assert report["prunable_macs"] == 1.0


def test_analyze_explains() -> None:
    out = done("analyze", FASHION, "--explain", "head.weight", "--explain", "node_Conv_198")
    assert "axis 0: 10 of 10 frozen by graph output logits" in out
    assert "node node_Conv_198: Conv" in out
    refused(2, "did you mean head.weight", "analyze", FASHION, "--explain", "hed.weight")


def test_profile_adds_up() -> None:
    report = json.loads(done("profile", FASHION, "--json", "-q"))
    assert sum(n["macs"] for n in report["nodes"]) == report["cost"]["macs"]
    assert sum(n["params"] for n in report["nodes"]) == report["cost"]["params"]
    assert report["milliseconds"] is None
    assert "node_Conv_202" in done("profile", FASHION, "--top", "2")


def test_profile_measures() -> None:
    report = json.loads(done("profile", FASHION, "--json", "-q", "--latency", "--threads", "1"))
    assert report["milliseconds"] > 0
    assert {t["op"] for t in report["times"]} >= {"Conv"}
    assert all(t["milliseconds"] >= 0 for t in report["times"])
