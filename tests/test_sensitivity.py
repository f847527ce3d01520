"""Sensitivity: measured against onnxruntime on masked originals, kept on disk, shown, drawn, and followed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import graphprune as gp
from graphprune.data.parts import divided
from graphprune.errors import InputError
from graphprune.recover.evidence import count
from graphprune.sweep import measure
from graphprune.sweep.curves import Measured, Sensitivity
from tests.commandline import FASHION, call, done, listing, refused
from tests.sensitive import GROUPS, forbidden, planted, stage

CALIBRATION = FASHION.parent / "calibration.npz"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return stage(tmp_path)


def outputs(model: onnx.ModelProto, data: Path) -> NDArray[np.float64]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": np.load(data)["x"]})[0], np.float64)


def by_branch(found: Sensitivity) -> dict[str, list[float]]:
    """Errors by the branch that a group lies in."""
    return {g.name.partition(".")[0]: [p.error or 0.0 for p in g.points] for g in found.groups}


# -- what is measured -------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["auto", "l2", "random"])
def test_errors_are_those_of_the_masked_original(files: tuple[Path, Path], tmp_path: Path, criterion: str) -> None:
    model, data = files
    found = gp.sensitivity(model, data, samples=40, criterion=criterion, cache=tmp_path / "cache")
    whole = outputs(planted(), data)
    assert {g.name.partition(".")[0] for g in found.groups} == set(GROUPS)
    for group in found.groups:
        branch = group.name.partition(".")[0]
        assert [p.removed for p in group.points] == [2, 4, 6]
        for point in group.points:
            masked = planted()
            weight = next(t for t in masked.graph.initializer if t.name == f"{branch}.out.weight")
            array = numpy_helper.to_array(weight).copy()
            array[:, list(group.order[: point.removed])] = 0
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
            off = outputs(masked, data)
            wanted = ((off - whole) ** 2).sum() / ((whole - whole.mean()) ** 2).sum()
            assert point.error == pytest.approx(wanted, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("compensate", [False, True])
def test_a_dead_group_costs_nothing_and_the_loud_one_most(
    files: tuple[Path, Path], tmp_path: Path, compensate: bool
) -> None:
    found = by_branch(gp.sensitivity(*files, compensate=compensate, cache=tmp_path / "cache"))
    assert max(found["dead"]) < 1e-12
    assert all(loud > 1000 * quiet > 0 for loud, quiet in zip(found["loud"], found["quiet"], strict=True))


def test_making_up_for_what_left_lowers_every_error(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    _, judges = divided(gp.samples(data, gp.load(model)))
    held = tmp_path / "held.npz"
    np.savez(held, x=np.concatenate([feed["x"] for feed in judges]))
    plain = by_branch(gp.sensitivity(model, held, cache=tmp_path / "cache"))
    found = gp.sensitivity(model, data, cache=tmp_path / "cache", compensate=True)
    helped = by_branch(found)
    assert found.samples == len(np.load(held)["x"]) < len(np.load(data)["x"])
    assert all(a > 1.05 * b for a, b in zip(plain["loud"], helped["loud"], strict=True))


def test_the_original_is_untouched_and_models_in_memory_work(files: tuple[Path, Path], tmp_path: Path) -> None:
    before = listing(files[0].parent)
    a = gp.sensitivity(files[0], files[1], cache=tmp_path / "cache" / "a")
    b = gp.sensitivity(onnx.load(files[0]), np.load(files[1])["x"], cache=tmp_path / "cache" / "b")
    assert [g.points for g in a.groups] == [g.points for g in b.groups]
    assert {k: v for k, v in listing(files[0].parent).items() if not k.startswith("cache")} == before


def test_groups_of_one_or_two_units() -> None:
    assert [count(1, 0.5), count(2, 0.25), count(2, 0.75), count(8, 0.01), count(8, 0.99)] == [0, 1, 1, 1, 7]


# -- what the solver makes of it ---------------------------------------------------------------------------


def test_curves_go_through_what_was_measured(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = gp.sensitivity(*files, ratios=[0.25, 0.5], compensate=True, cache=tmp_path / "cache")
    deps = gp.analyze(files[0])
    for group, curve, units in zip(found.groups, found.curves(deps), deps.groups, strict=True):
        assert curve.order.tolist() == units.units[list(group.order)].tolist()
        for point in group.points if max(p.error or 0.0 for p in group.points) > 1e-9 else ():
            assert curve.loss[point.removed] == pytest.approx(point.error, rel=0.5)


def test_what_could_not_be_measured_stays_longest(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = gp.sensitivity(*files, ratios=[0.5], cache=tmp_path / "cache")
    blind = [
        g.model_copy(update={"points": (Measured(removed=4, ratio=0.5, error=None),)}) if "dead" in g.name else g
        for g in found.groups
    ]
    curves = found.model_copy(update={"groups": tuple(blind)}).curves(gp.analyze(files[0]))
    worst = {g.name.partition(".")[0]: c.loss[1] for g, c in zip(found.groups, curves, strict=True)}
    assert worst["dead"] > 100 > max(worst["loud"], worst["quiet"])


@pytest.mark.parametrize("change", [{"order": (0, 0, 1)}, {"shape": (0.0, 2.0, 1.0)}, {"size": 4}])
def test_curves_that_make_no_sense_are_refused(
    files: tuple[Path, Path], tmp_path: Path, change: dict[str, object]
) -> None:
    found = gp.sensitivity(*files, cache=tmp_path / "cache")
    data = found.model_dump(mode="json")
    data["groups"][0] |= change
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="no sensitivities of version 1"):
        Sensitivity.read(tmp_path / "a.json")


@pytest.mark.parametrize("how", ["auto", "file", "value"])
def test_the_solver_takes_from_groups_that_cost_little(files: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    found = gp.sensitivity(*files, cache=tmp_path / "cache")
    found.save(tmp_path / "curves.json")
    given = {"auto": "auto", "file": tmp_path / "curves.json", "value": found}[how]
    result = gp.prune(files[0], data=files[1], macs="50%", align=1, sensitivity=given)
    gone = {g.name.partition(".")[0]: len(g.removed) for g in result.plan.groups}
    assert gone["dead"] == 7 and gone.get("loud", 0) < gone["quiet"]
    assert result.verdict is not None and result.verdict.passed
    assert result.after.macs <= 0.5 * result.before.macs


def test_units_leave_in_the_order_that_was_measured(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = gp.sensitivity(*files, criterion="random", seed=5, cache=tmp_path / "cache")
    plan = gp.plan(files[0], macs="60%", align=1, sensitivity=found)
    order = {g.name: g.order for g in found.groups}
    for group in plan.groups:
        assert set(group.removed) == set(order[group.name][: len(group.removed)])


def test_the_command_follows_a_file_and_its_recipe_gives_it_again(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = done("analyze", files[0], "--sensitivity", "--data", files[1], "--json", "-q")
    (tmp_path / "curves.json").write_text(out)
    small = tmp_path / "small.onnx"
    done(files[0], small, "--macs", "50%", "--align", 1, "--sensitivity", tmp_path / "curves.json", "-q")
    recipe = (tmp_path / "small.recipe.yaml").read_text()
    assert "sensitivity: curves.json" in recipe and "criterion: obs" in recipe
    again = tmp_path / "again.onnx"
    done(files[0], again, "--recipe", tmp_path / "small.recipe.yaml", "-q")
    one, two = (json.loads((tmp_path / f"{n}.plan.json").read_text()) for n in ("small", "again"))
    assert one["weights"] == two["weights"]


def test_a_family_shares_the_curves(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = gp.sensitivity(*files, cache=tmp_path / "cache")
    large, small = gp.family(files[0], macs=["80%", "50%"], align=1, sensitivity=found)
    sizes = [sum(len(g.removed) for g in r.plan.groups) for r in (large, small)]
    assert 0 < sizes[0] < sizes[1]


# -- what is kept on disk ------------------------------------------------------------------------------------


def test_what_is_known_is_not_measured_again(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gp.sensitivity(*files, cache=tmp_path / "cache")
    monkeypatch.setattr(measure, "Bench", forbidden)
    again = gp.sensitivity(*files, cache=tmp_path / "cache")
    assert again == first
    with pytest.raises(AssertionError):  # another option
        gp.sensitivity(*files, cache=tmp_path / "cache", ratios=[0.9])
    with pytest.raises(AssertionError):  # other data
        gp.sensitivity(files[0], files[1], samples=20, cache=tmp_path / "cache")


def test_a_sweep_that_was_stopped_goes_on(files: tuple[Path, Path], tmp_path: Path) -> None:
    def stop(step: str) -> None:
        if step.endswith("4/9"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gp.sensitivity(*files, cache=tmp_path / "cache", progress=stop)
    (file,) = (tmp_path / "cache").iterdir()
    kept = file.read_text().splitlines()
    assert len(kept) in (4, 5)
    steps: list[str] = []
    found = gp.sensitivity(*files, cache=tmp_path / "cache", progress=steps.append)
    assert file.read_text().splitlines()[: len(kept)] == kept
    assert len([s for s in steps if s.endswith("/9")]) == 10 - len(kept)
    assert found.groups == gp.sensitivity(*files, cache=tmp_path / "other").groups


@pytest.mark.parametrize("damage", ["cut off", "garbage", "head", "another version", "negative"])
def test_a_damaged_cache_is_measured_again(files: tuple[Path, Path], tmp_path: Path, damage: str) -> None:
    first = gp.sensitivity(*files, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    text = file.read_text()
    damaged = {
        "cut off": text[:-20],
        "garbage": text.replace('"error": ', '"error": x', 1),
        "head": "{" + text,
        "another version": text.replace('"graphprune": "', '"graphprune": "9', 1),
        "negative": re.sub('"error": ', '"error": -1', text, count=1),
    }[damage]
    file.write_text(damaged)
    again = gp.sensitivity(*files, cache=tmp_path / "cache")
    assert again.groups == first.groups
    (note,) = again.notes
    assert str(file) in note and "measured again" in note
    assert gp.sensitivity(*files, cache=tmp_path / "cache").groups == first.groups


def test_what_another_machine_wrote_is_said_and_left_alone(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphprune.sweep.cache._machine", lambda: "Plan9 mips elsewhere")
    gp.sensitivity(*files, cache=tmp_path / "cache")
    before = listing(tmp_path / "cache")
    monkeypatch.undo()
    (note,) = gp.sensitivity(*files, cache=tmp_path / "cache").notes
    assert "Plan9 mips elsewhere; ignored, measured again" in note
    assert before.items() <= listing(tmp_path / "cache").items()


def test_a_cache_that_cannot_be_written_is_said(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = gp.sensitivity(*files, cache=tmp_path / "file" / "below")
    assert any("results are not kept" in note for note in found.notes)


# -- what is shown ---------------------------------------------------------------------------------------------


def test_the_report_ranks_groups_and_names_what_was_done(files: tuple[Path, Path]) -> None:
    out = done("analyze", files[0], "--sensitivity", "--data", files[1], "--ratios", "0.25,50%", "--criterion", "l2")
    rows = [line.split()[0] for line in out.splitlines() if " channels  " in line]
    assert [r.partition(".")[0] for r in rows] == ["loud", "quiet", "dead"]
    assert "25% leave" in out and "50% leave" in out and "75%" not in out
    assert "in the order of l2" in out and "40 samples" in out


@pytest.mark.parametrize("ending", ["svg", "html", "png"])
def test_plots(files: tuple[Path, Path], tmp_path: Path, ending: str) -> None:
    if ending == "png":
        pytest.importorskip("matplotlib")
    path = tmp_path / f"curves.{ending}"
    out = done("analyze", files[0], "--sensitivity", "--data", files[1], "--plot", path)
    assert f"curves in {path}" in out.replace("\n", " ") or path.name in out
    content = path.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
        return
    text = content.decode()
    assert (
        text.count("<polyline") == 3
        and "loud.out.weight[1]" in text
        and "//" not in text.replace("http://www.w3.org", "")
    )
    from xml.etree import ElementTree

    ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])


def test_sensitivities_are_read_from_what_was_saved(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = gp.sensitivity(*files)
    found.save(tmp_path / "a.json")
    assert gp.Sensitivity.read(tmp_path / "a.json") == found
    report = json.loads(done("analyze", files[0], "--sensitivity", "--data", files[1], "--json", "-q"))
    assert Sensitivity.model_validate(report["sensitivity"]).groups == found.groups


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give some with --data"),
        (["--data", "nothing.npz"], "no such file"),
        (["--data", "DATA", "--ratios", "0"], "between 0 and 1"),
        (["--data", "DATA", "--ratios", "25%,100%"], "--ratios 1:"),
        (["--data", "DATA", "--ratios", "half"], "cannot be read"),
        (["--data", "DATA", "--ratios", "nan"], "between 0 and 1"),
        (["--data", "DATA", "--samples", "0"], "at least one"),
        (["--data", "DATA", "--jobs", "0"], "at least one"),
        (["--data", "DATA", "--backend", "spark"], "there are processes, dask, ray"),
        (["--data", "DATA", "--backend", "dask"], "--address is missing"),
        (["--data", "DATA", "--address", "tcp://127.0.0.1:1"], "is for --backend dask and ray"),
        (["--data", "DATA", "--criterion", "best"], "best"),
        (["--data", "DATA", "--cache", "DATA"], "is a file"),
        (["--data", "DATA", "--plot", "curves.gif"], r"\.svg, \.html, \.png"),
        (["--data", "DATA", "--plot", "nowhere/curves.svg"], "no such folder"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(tmp_path / "cache"))
    before = listing(tmp_path)
    refused(2, message, "analyze", files[0], "--sensitivity", *[str(files[1]) if f == "DATA" else f for f in flags])
    assert listing(tmp_path) == before


def test_options_of_a_sweep_need_the_sweep(files: tuple[Path, Path]) -> None:
    refused(2, "--jobs belongs to --sensitivity", "analyze", files[0], "--jobs", 2)


def test_a_missing_matplotlib_is_said(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    arguments = ("analyze", files[0], "--sensitivity", "--data", files[1], "--plot", tmp_path / "a.png")
    refused(2, r"graphprune\[plot\]", *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable file"),
        ("{}", "no sensitivities of version 1"),
        ('{"explanations": {}, "model": "x"}', "no sensitivities"),
        ("[1]", "no sensitivities"),
    ],
)
def test_other_files_are_refused(files: tuple[Path, Path], tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "curves.json"
    path.write_text(content)
    refused(2, message, files[0], tmp_path / "out.onnx", "--macs", "50%", "--sensitivity", path)
    assert not (tmp_path / "out.onnx").exists()


def test_what_does_not_go_together(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    found = gp.sensitivity(model, data, cache=tmp_path / "cache")
    with pytest.raises(InputError, match="give some with --data"):
        gp.prune(model, macs="50%", sensitivity="auto")
    with pytest.raises(InputError, match="No such file"):
        gp.prune(model, macs="50%", sensitivity=tmp_path / "missing.json")
    with pytest.raises(InputError, match="in the order of obs"):
        gp.prune(model, macs="50%", sensitivity=found, criterion="l1")
    with pytest.raises(InputError, match="another graph"):
        gp.prune(FASHION, macs="50%", sensitivity=found)
    with pytest.raises(InputError, match="--lossless"):
        gp.prune(model, lossless=True, sensitivity=found)


def test_other_weights_are_said(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = gp.sensitivity(*files, cache=tmp_path / "cache")
    other = planted()
    other.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(2 * numpy_helper.to_array(other.graph.initializer[0]), other.graph.initializer[0].name)
    )
    result = gp.prune(other, macs="50%", align=1, sensitivity=found)
    assert any("other weights" in note for note in result.notes)


def test_modules_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="ONNX"):
        gp.sensitivity(torch.nn.Linear(3, 4), np.zeros((2, 3), np.float32))


def test_the_example_gives_the_same_curves_by_processes(tmp_path: Path) -> None:
    flags = ("--sensitivity", "--data", CALIBRATION, "--samples", 32, "--ratios", "50%", "--compensate", "--json", "-q")
    one = json.loads(done("analyze", FASHION, *flags, "--cache", tmp_path / "a"))["sensitivity"]["groups"]
    two = json.loads(call("analyze", FASHION, *flags, "--cache", tmp_path / "b", "--jobs", 2).out)["sensitivity"][
        "groups"
    ]
    for a, b in zip(one, two, strict=True):
        assert a["order"] == b["order"]
        assert a["points"][0]["error"] == pytest.approx(b["points"][0]["error"], rel=1e-3)
    assert {p.suffix for p in (tmp_path / "b").iterdir()} == {".jsonl"}
