"""The exit codes of the command line, and that a run that does not succeed leaves nothing behind."""

from __future__ import annotations

import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

import graphprune as gp
from graphprune import api, dialect, search
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import Verdict
from tests.commandline import FASHION, call, done, listing, refused, weights
from tests.graphs import Builder


@pytest.fixture(autouse=True)
def _ctrl_c_counts() -> Iterator[None]:
    """A shell that starts jobs in the background lets them ignore SIGINT, and what they start too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def frozen_model(path: Path) -> Path:
    """One matrix between input and output: nothing in it can leave."""
    b = Builder("frozen")
    onnx.save(b.build(b.gemm(b.source("x", [2, 6]), 6, 4, "only")), path)
    return path


def test_exit_1_is_for_the_unexpected(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nobody saw this coming")

    monkeypatch.setattr(api, "analyze", broken)
    line = refused(1, "unexpected ZeroDivisionError: nobody saw this coming", "analyze", stage)
    assert "-v" in line
    assert "Traceback" in call("analyze", stage, "-v").err


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["prune"], "MODEL"),
        (["prune", "a.onnx"], "OUTPUT"),
        (["prune", "a.onnx", "b.onnx", "c.onnx"], "c.onnx"),
        (["prune", "a.onnx", "b.onnx", "--mac", "50%"], "--mac"),
        (["prune", "a.onnx", "b.onnx", "--seed", "many"], "--seed"),
        (["prune", "a.onnx", "b.onnx", "--macs"], "--macs"),
        (["analyse", "a.onnx"], "did you mean analyze"),
        (["a.onnx", "b.onnx"], "a.onnx: no such file"),
        (["apply", "p.json", "a.onnx"], "OUTPUT"),
    ],
)
def test_exit_2_is_for_bad_usage(
    arguments: list[str], pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(2, pattern, *arguments)
    assert listing(tmp_path) == {}


def test_exit_3_names_the_best_reachable(tmp_path: Path) -> None:
    refused(3, r"best reachable is [\d,]+ \(\d", FASHION, tmp_path / "o.onnx", "--macs", "1%")
    assert listing(tmp_path) == {}


def test_exit_4_writes_nothing(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Verdict(passed=False, error=1.0, tolerance=1e-4, samples=1, text="differs from the masked original")
    monkeypatch.setattr(dialect, "verify_file", lambda *_, **__: failed)
    monkeypatch.setattr(search, "culprits", lambda *_, **__: [])
    plan = pruned / "small.plan.json"
    refused(4, "differs from the masked original.*nothing was written", FASHION, tmp_path / "o.onnx", "--macs", "50%")
    refused(4, "differs.*nothing was written", "apply", plan, FASHION, tmp_path / "o.onnx")
    assert listing(tmp_path) == {}


def test_a_group_that_does_not_verify_is_left_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewriter that spoils one weight: its group is found, given up, and the target met without it."""

    def spoiled(cut: Any) -> Any:
        model = rewrite(cut)
        if cut.kept("body.3.first.0.weight", 0) is not None:
            value = model.graph.initializers["body.3.first.0.weight"]
            value.const_value = gp.api.ir.tensor(value.const_value.numpy()[::-1].copy())
        return model

    monkeypatch.setattr(dialect, "rewrite", spoiled)
    out = done(FASHION, tmp_path / "o.onnx", "--macs", "60%", "--align", "8")
    assert "left whole because their removal did not verify: body.3.first.0.weight[0]" in out
    assert weights(tmp_path / "o.onnx")["body.3.first.0.weight"].shape[0] == 64


def test_exit_5_says_why_nothing_can_be_pruned(tmp_path: Path) -> None:
    model = frozen_model(tmp_path / "frozen.onnx")
    before = listing(tmp_path)
    refused(5, "nothing can be pruned: .*interface", model, tmp_path / "o.onnx", "--macs", "50%")
    assert listing(tmp_path) == before


def test_ctrl_c_leaves_nothing(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = listing(stage.parent)
    for place in ("graphprune.dialect.verify_file", "graphprune.commands.save", "graphprune.commands.group_cuts"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            assert call(stage, stage.with_name("o.onnx"), "--ratio", "0.4").code == 130
        assert listing(stage.parent) == before


MOMENTS = {  # where the signal comes: the attribute patched, before or after the call, which call; what must hold
    "loading": ("graphprune.api.load", "before", 1, False),
    "planning": ("graphprune.budget.planner.Planner.units", "after", 1, False),
    "verifying": ("graphprune.dialect.verify_file", "before", 1, False),
    "saving": ("graphprune.commands.save", "after", 1, False),
    "plan written": ("graphprune.commands._text", "after", 1, False),
    "all written": ("graphprune.commands._text", "after", 3, False),
    "model written": ("graphprune.rewrite.files._rename_all", "before", 1, False),  # by save, inside the stage
    "before the first is renamed": ("graphprune.rewrite.files._rename_all", "before", 2, True),
    "first renamed": ("pathlib.Path.replace", "after", 2, True),
    "all renamed": ("graphprune.rewrite.files._rename_all", "after", 2, True),
    "reporting": ("graphprune.report.terminal.Terminal.show", "before", 1, True),
    "leaving": ("graphprune.report.terminal.Terminal.show", "after", 1, True),
}
OUTPUTS = {"o.onnx", "o.plan.json", "o.recipe.yaml", "o.report.json"}


def signalled(monkeypatch: pytest.MonkeyPatch, place: str, when: str, count: int) -> list[int]:
    """Let a SIGINT come at the ``count``-th call of ``place``; returns a list of the calls seen."""
    owner, _, name = place.rpartition(".")
    original, seen = pkgutil.resolve_name(place), []

    def patched(*args: Any, **more: Any) -> Any:
        seen.append(len(seen) + 1)
        if when == "before" and len(seen) == count:
            signal.raise_signal(signal.SIGINT)
        result = original(*args, **more)
        if when == "after" and len(seen) == count:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(pkgutil.resolve_name(owner), name, patched)
    return seen


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_is_all_or_nothing(moment: str, stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, when, count, finished = MOMENTS[moment]
    before = listing(stage.parent)
    with monkeypatch.context() as patch:
        seen = signalled(patch, place, when, count)
        outcome = call(stage, stage.with_name("o.onnx"), "--ratio", "0.4")
    assert len(seen) >= count, "the signal never came"
    after = listing(stage.parent)
    assert outcome.code == (0 if finished else 130), outcome.err
    assert set(after) - set(before) == (OUTPUTS if finished else set())
    assert {k: after[k] for k in before} == before
    assert [p for p in stage.parent.iterdir() if p.is_dir()] == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("moment", ["verifying", "all written", "first renamed", "reporting"])
def test_an_interrupt_leaves_older_files_whole(moment: str, stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done(stage, stage.with_name("o.onnx"), "--ratio", "0.2")
    before = listing(stage.parent)
    place, when, count, finished = MOMENTS[moment]
    with monkeypatch.context() as patch:
        signalled(patch, place, when, count)
        call(stage, stage.with_name("o.onnx"), "--ratio", "0.4")
    after = listing(stage.parent)
    assert after.keys() == before.keys()
    changed = {name for name in before if after[name] != before[name]}
    assert changed == (OUTPUTS if finished else set())


def test_a_file_that_cannot_be_renamed_brings_the_others_back(stage: Path) -> None:
    done(stage, stage.with_name("o.onnx"), "--ratio", "0.2")
    report = stage.with_name("o.report.json")
    report.unlink()
    report.mkdir()
    before = listing(stage.parent)
    refused(2, "cannot be written", stage, stage.with_name("o.onnx"), "--ratio", "0.4")
    assert listing(stage.parent) == before
    assert report.is_dir()


def test_an_interrupt_of_the_api_leaves_all_or_nothing(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who calls from Python always sees the interrupt; by then the file is there."""
    with monkeypatch.context() as patch:
        signalled(patch, "graphprune.rewrite.files._rename_all", "before", 1)
        with pytest.raises(KeyboardInterrupt):
            gp.prune(stage, stage.with_name("o.onnx"), ratio=0.4)
    assert onnx.load(stage.with_name("o.onnx")).graph.node


_SCRIPT = """
import os, signal, sys
from graphprune import cli, dialect
from graphprune.report.terminal import Terminal
owner, name = {"verify": (dialect, "verify_file"), "show": (Terminal, "show")}[sys.argv.pop(1)]
original = getattr(owner, name)
def patched(*args, **more):
    os.kill(os.getpid(), signal.SIGINT)
    return original(*args, **more)
setattr(owner, name, patched)
code = cli.main()
if code == 0:
    os.kill(os.getpid(), signal.SIGINT)
sys.exit(code)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.parametrize(("moment", "code"), [("verify", 130), ("show", 0)])
def test_sigint_of_a_process(moment: str, code: int, stage: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    command = [sys.executable, "-c", _SCRIPT, moment, str(stage), str(tmp_path / "o.onnx"), "--ratio", "0.4"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == code, process.stderr
    assert set(listing(tmp_path)) - set(before) == (OUTPUTS if code == 0 else set())


def test_no_arguments_show_the_help() -> None:
    outcome = call()
    assert outcome.code == 2
    assert "Usage: graphprune" in outcome.out
    assert gp.__version__ in done("--version")
    for verb in ("prune", "analyze", "plan", "apply", "verify", "profile"):
        assert f"Usage: graphprune {verb}" in done(verb, "--help")
