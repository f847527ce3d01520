"""onnx's own test models: each is analysed, and pruned at random with its inputs and outputs opened up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from onnx import ModelProto, version_converter

from graphprune import api
from graphprune.errors import InputError
from tests.cuts import pruned_and_checked, random_cut
from tests.freed import freed
from tests.onnxcases import OnnxCase, layers, nodes

SEEDS = 3
VERIFIED, NOTHING, REFUSED, CANNOT_RUN = "verified", "nothing to prune", "refused", "cannot run in onnxruntime"
NO_NUMBERS, SILENT, WRONG = "inputs or outputs are not numbers", "says nothing on any input", "WRONG"


def outcome(one: OnnxCase) -> tuple[str, str]:
    """What came of one model, with the reason; raises nothing but errors of graphprune itself."""
    try:
        api.analyze(one.model)
    except InputError as error:
        return REFUSED, str(error)
    if one.inputs is None or one.outputs is None:
        return NO_NUMBERS, ""
    drawn = {n: _varied(a) for n, a in one.inputs.items()}
    results: tuple[str, str] = CANNOT_RUN, ""
    for model in (one.model, _newer(one.model)):
        for inputs in (one.inputs, drawn) if model is not None else ():
            results = _pruned(freed(model, inputs, one.outputs))
            if results[0] == CANNOT_RUN:
                break
            if results[0] != SILENT:
                return results
    return results


def _varied(array: np.ndarray) -> np.ndarray:
    """Floats of the same shape that say something: test data are often all zeros or ones."""
    rng = np.random.default_rng(0)
    return rng.uniform(0.5, 1.5, array.shape).astype(array.dtype) if array.dtype.kind == "f" else array


def _newer(model: ModelProto) -> ModelProto | None:
    """The model in an opset that onnxruntime runs; None where onnx cannot convert it."""
    if model.opset_import[0].version >= 8:
        return None
    try:
        return version_converter.convert_version(model, 13)
    except RuntimeError:
        return None


def _pruned(model: ModelProto) -> tuple[str, str]:
    try:
        deps = api.analyze(model)
    except InputError as error:
        return REFUSED, str(error)
    if not deps.units:
        return NOTHING, "; ".join(dict.fromkeys(str(b.reason) for b in deps.blocked))
    for seed in range(SEEDS):
        cut = random_cut(deps, seed)
        if cut is None:
            return NOTHING, "every axis would become empty"
        _, verdict = pruned_and_checked(cut, seed)
        if not verdict.passed:
            kind = next((k for text, k in _VERDICTS.items() if text in verdict.text), WRONG)
            return kind, verdict.text
    return VERIFIED, ""


_VERDICTS = {"does not run": CANNOT_RUN, "gives no finite": SILENT}


def survey(cases: Iterable[OnnxCase], capsys: pytest.CaptureFixture[str]) -> Counter[str]:
    """Outcomes by kind; anything wrong fails."""
    count: Counter[str] = Counter()
    wrong = []
    for one in cases:
        try:
            kind, why = outcome(one)
        except Exception as error:
            kind, why = WRONG, f"{type(error).__name__}: {error}"
        count[kind] += 1
        if kind == WRONG:
            wrong.append(f"{one.name}: {why[:300]}")
    with capsys.disabled():
        print("\n" + "\n".join(f"{n:6d}  {kind}" for kind, n in count.most_common()))
    assert not wrong, "\n".join(wrong)
    return count


def test_single_layers(capsys: pytest.CaptureFixture[str]) -> None:
    count = survey(layers(), capsys)
    assert count[VERIFIED] >= 115
    assert count[CANNOT_RUN] + count[SILENT] <= 5


@pytest.mark.long
def test_operator_tests(capsys: pytest.CaptureFixture[str]) -> None:
    count = survey(nodes(), capsys)
    assert count[VERIFIED] >= 900
