"""The exit codes of the command line, and that a run that does not succeed leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

import graphprune as gp
from graphprune import api, search
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import Verdict
from tests.commandline import FASHION, call, done, listing, refused, weights
from tests.graphs import Builder


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
    monkeypatch.setattr(search, "verify_cut", lambda *_, **__: failed)
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

    monkeypatch.setattr(search, "rewrite", spoiled)
    out = done(FASHION, tmp_path / "o.onnx", "--macs", "60%")
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
    for place in ("graphprune.search.verify_cut", "graphprune.commands.save", "graphprune.commands.group_cuts"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            assert call(stage, stage.with_name("o.onnx"), "--ratio", "0.4").code == 130
        assert listing(stage.parent) == before


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_sigint_of_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "graphprune", str(FASHION), str(tmp_path / "o.onnx"), "--macs", "50%"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(0.9)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done already")
    assert listing(tmp_path) == {}
    assert process.returncode in (130, -signal.SIGINT)


def test_no_arguments_show_the_help() -> None:
    outcome = call()
    assert outcome.code == 2
    assert "Usage: graphprune" in outcome.out
    assert gp.__version__ in done("--version")
    for verb in ("prune", "analyze", "plan", "apply", "verify", "profile"):
        assert f"Usage: graphprune {verb}" in done(verb, "--help")
