"""Plans carried out on safetensors: every form, what must be refused, and that it is the same as pruning the file."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("safetensors")
from safetensors import safe_open
from safetensors.numpy import save_file

import graphprune as gp
from graphprune.rewrite import pieces as slow
from tests import checkpoints as ck
from tests.commandline import call, done, listing, refused
from tests.graphs import GRAPHS

INDEX = "model.safetensors.index.json"


def rejected(folder: Path, pattern: str, *arguments: object) -> None:
    """A refusal that leaves the folder as it was."""
    before = listing(folder), sorted(folder.rglob("*"))
    refused(2, pattern, "apply", *arguments)
    assert (listing(folder), sorted(folder.rglob("*"))) == before


# -- what is written -------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [16, 100, 1 << 20])
def test_a_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(slow, "PIECE", piece)
    full = ck.single(tmp_path)
    out = done("apply", tmp_path / "plan.json", full, tmp_path / "small.safetensors")
    assert ck.same(ck.read(tmp_path / "small.safetensors"), ck.sliced(ck.state()))
    assert ck.same(ck.read(full), ck.state())
    assert "5 of 8 tensors cut" in out
    assert "none is verified" in out
    with safe_open(tmp_path / "small.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "note": "ü"}
    assert sorted(listing(tmp_path)) == ["full.safetensors", "plan.json", "small.safetensors"]


def test_shards_stay_shards(tmp_path: Path) -> None:
    index = ck.sharded(tmp_path)
    (tmp_path / "out").mkdir()
    report = json.loads(done("apply", tmp_path / "plan.json", index, tmp_path / "out" / INDEX, "--json", "-q"))
    wanted = ck.sliced(ck.state())
    assert ck.same(ck.read(tmp_path / "out" / INDEX), wanted)
    new = json.loads((tmp_path / "out" / INDEX).read_text())
    assert new["weight_map"] == json.loads(index.read_text())["weight_map"]
    assert new["metadata"] == {"total_size": sum(v.nbytes for v in wanted.values()), "note": 1}
    assert report["params"] == [sum(v.size for v in s.values()) for s in (ck.state(), wanted)]
    assert report["bytes"][1] == new["metadata"]["total_size"]


def test_shards_beside_the_original_get_names_of_their_own(tmp_path: Path) -> None:
    index = ck.sharded(tmp_path)
    before = listing(tmp_path)
    done("apply", tmp_path / "plan.json", index, tmp_path / "small.safetensors.index.json", "-q")
    assert ck.same(ck.read(tmp_path / "small.safetensors.index.json"), ck.sliced(ck.state()))
    after = listing(tmp_path)
    assert {n: after[n] for n in before} == before
    assert [n for n in sorted(after) if n.startswith("small-")] == [
        f"small-0000{k}-of-00003.safetensors" for k in (1, 2, 3)
    ]


def test_shards_become_one_file(tmp_path: Path) -> None:
    done("apply", ck.sharded(tmp_path).with_name("plan.json"), tmp_path / INDEX, tmp_path / "one.safetensors", "-q")
    assert ck.same(ck.read(tmp_path / "one.safetensors"), ck.sliced(ck.state()))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module."])
def test_a_prefix_of_all_names_is_passed_over(tmp_path: Path, prefix: str) -> None:
    ck.single(tmp_path, ck.state(prefix))
    gp.apply(ck.plan(), tmp_path / "full.safetensors", tmp_path / "small.safetensors")
    assert ck.same(ck.read(tmp_path / "small.safetensors"), ck.sliced(ck.state(prefix), prefix))


def test_a_prefix_of_the_plan_is_passed_over(tmp_path: Path) -> None:
    more = ck.plan()
    changes = {
        part: {f"net.core.{n}": v for n, v in getattr(more, part).items()} for part in ("weights", "blocks", "shapes")
    }
    ck.single(tmp_path)
    gp.apply(more.model_copy(update=changes), tmp_path / "full.safetensors", tmp_path / "small.safetensors")
    assert ck.same(ck.read(tmp_path / "small.safetensors"), ck.sliced(ck.state()))


def test_tied_names_are_cut_alike_and_one_is_enough(tmp_path: Path) -> None:
    tied = ck.plan(tied={"out.weight": "first.weight"})
    full = ck.state()
    full["out.weight"] = full["first.weight"]
    small = gp.apply(full, tied)
    assert np.array_equal(small["out.weight"], full["first.weight"][ck.KEPT])
    assert np.array_equal(small["first.weight"], small["out.weight"])
    del full["first.weight"]
    assert np.array_equal(gp.apply(full, tied)["out.weight"], small["out.weight"])


def test_a_buffer_that_is_not_saved_is_not_missed() -> None:
    full = ck.state()
    del full["second.codes"]
    small = gp.apply(full, ck.plan(transient=("second.codes",)))
    assert ck.same(small, {n: v for n, v in ck.sliced(ck.state()).items() if n != "second.codes"})


@pytest.mark.parametrize("name", GRAPHS)
def test_a_checkpoint_of_the_weights_becomes_what_the_pruned_file_holds(name: str, tmp_path: Path) -> None:
    model = GRAPHS[name]()
    try:
        plan = gp.plan(model, ratio=0.4, align=1)
    except gp.GraphPruneError:
        pytest.skip("nothing to prune")
    tensors = _initializers(model)
    if not plan.weights.keys() <= tensors.keys():
        pytest.skip("weights in nodes, or constants with several uses: no checkpoint has those")
    save_file(tensors, tmp_path / "full.safetensors")
    (tmp_path / "plan.json").write_text(plan.to_json())
    gp.apply(str(tmp_path / "plan.json"), tmp_path / "full.safetensors", tmp_path / "small.safetensors")
    got = ck.read(tmp_path / "small.safetensors")
    gp.save(gp.apply(model, plan), tmp_path / "small.onnx")
    pruned = _initializers(onnx.load(tmp_path / "small.onnx"))
    assert got.keys() == tensors.keys()
    for weight in plan.weights:
        assert got[weight].shape == pruned[weight].shape
        assert np.array_equal(got[weight], pruned[weight])


def _initializers(model: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


# -- Python ----------------------------------------------------------------------------------------------


def test_the_channel_map_names_every_old_position() -> None:
    found = gp.channel_map(ck.plan())
    assert found["first.bias"][0].tolist() == [0, -1, 1, -1, 2, 3, 4, 5]
    rows = found["grouped.weight"][1]
    assert rows.tolist() == [[-1, -1, 0, 1]] * 3 + [[0, 1, -1, -1]] * 3
    full, small = ck.state(), gp.apply(ck.state(), ck.plan())
    for old, new in enumerate(found["second.weight"][1]):
        if new >= 0:
            assert np.array_equal(full["second.weight"][:, old], small["second.weight"][:, new])


def test_scatter_is_the_way_back() -> None:
    full, plan = ck.state(), ck.plan()
    small = gp.apply(full, plan)
    assert ck.same(gp.scatter(full, small, plan), full)
    trained = {n: v + np.ones((), v.dtype) for n, v in small.items()}
    back = gp.scatter(full, trained, plan)
    assert ck.same(gp.apply(back, plan), trained)
    assert np.array_equal(back["first.weight"][ck.GONE], full["first.weight"][ck.GONE])
    assert ck.same(full, ck.state())
    with pytest.raises(gp.GraphPruneError, match=r"no first\.weight"):
        gp.scatter(full, {}, plan)
    with pytest.raises(gp.GraphPruneError, match=r"shape \[8, 3\] in the pruned"):
        gp.scatter(full, full, plan)


def test_block_numbers_may_be_listed(tmp_path: Path) -> None:
    listed = gp.Plan.model_validate_json(
        ck.plan(blocks={"grouped.weight": {1: {"axis": 0, "of": [1, 0, 1, 0, 1, 0]}}}).to_json()
    )
    full = ck.state()["grouped.weight"]
    small = gp.apply(ck.state(), listed)["grouped.weight"]
    assert np.array_equal(small, np.stack([row[:2] if k % 2 == 0 else row[2:] for k, row in enumerate(full)]))


# -- what is refused -------------------------------------------------------------------------------------

SHAPES = ck.plan().shapes
BAD_PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"weights": {"frist.weight": {0: [1]}}, "shapes": SHAPES | {"frist.weight": (8, 3)}},
                r"frist.*mean first\.weight"),
    "shape": ({"shapes": {**SHAPES, "first.weight": (9, 3)}}, r"first\.weight has shape \[8, 3\]"),
    "whole_shape": ({"shapes": {**SHAPES, "head.weight": (9, 3)}}, r"head\.weight has shape \[7, 5\]"),
    "unknown": ({"shapes": {n: s for n, s in SHAPES.items() if n != "head.weight"},
                 "weights": {**ck.plan().weights, "second.weight": {0: [1], 1: ck.GONE}}}, r"no head\.weight \[7, 5\]"),
    "no_shapes": ({"shapes": {}}, "does not say what sizes"),
    "no_blocks": ({"blocks": {}}, "where the blocks"),
    "bad_blocks": ({"blocks": {"grouped.weight": {1: {"axis": 0, "of": [0, 1]}}}}, "blocks of weight grouped"),
    "too_far": ({"weights": {"first.bias": {0: [8]}}}, "removes position 8"),
    "negative": ({"weights": {"first.bias": {0: [-1]}}}, "removes position -1"),
    "everything": ({"weights": {"first.bias": {0: [*range(8)]}}}, "no equal number"),
    "uneven": ({"weights": {"grouped.weight": {1: [[0], [1, 2]]}}}, "no equal number"),
    "no_axis": ({"weights": {"first.bias": {1: [0]}}}, "axis 1 of weight"),
    "nothing": ({"weights": {}}, "removes nothing"),
    "lossless": ({"recipe": {"lossless": True}}, "lossless"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PLANS)
def test_a_plan_that_does_not_fit(tmp_path: Path, case: str) -> None:
    changes, pattern = BAD_PLANS[case]
    full = ck.single(tmp_path)
    (tmp_path / "plan.json").write_text(ck.plan(**changes).to_json())
    rejected(tmp_path, pattern, tmp_path / "plan.json", full, tmp_path / "small.safetensors")


def test_names_that_fit_twice_are_ambiguous(tmp_path: Path) -> None:
    full = ck.single(tmp_path, ck.state("student.") | ck.state("teacher."))
    pattern = r"several parts of the checkpoint \(student\.\*, teacher\.\*\)"
    rejected(tmp_path, pattern, tmp_path / "plan.json", full, tmp_path / "small.safetensors")


def _truncated(data: bytes) -> bytes:
    return data[:-100]


def _header(entry: dict[str, Any]) -> bytes:
    text = json.dumps({"first.weight": entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (_truncated, "missing; it is truncated"),
    "header_cut": (lambda d: d[:50], "truncated in its header"),
    "empty": (lambda d: b"", "truncated in its header"),
    "longer": (lambda d: d + b"xx", "bytes follow"),
    "text": (lambda d: b"not a checkpoint at all " * 9, "not a safetensors file"),
    "no_json": (lambda d: struct.pack("<Q", 8) + b"{\"a\": 1]" + bytes(9), "no JSON"),
    "list": (lambda d: struct.pack("<Q", 2) + b"[]", "no JSON object"),
    "lfs": (lambda d: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "git lfs pull"),
    "no_dtype": (lambda d: _header({"shape": [4], "data_offsets": [0, 16]}), "bad header entry"),
    "new_dtype": (lambda d: _header({"dtype": "F3", "shape": [4], "data_offsets": [0, 16]}), "element type F3"),
    "wrong_size": (lambda d: _header({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}), "size of first"),
    "negative": (lambda d: _header({"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}), "sizes of first"),
    "hole": (lambda d: _header({"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}), "out of place"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_broken_file(tmp_path: Path, case: str) -> None:
    make, pattern = BAD_FILES[case]
    full = ck.single(tmp_path)
    full.write_bytes(make(full.read_bytes()))
    rejected(tmp_path, pattern, tmp_path / "plan.json", full, tmp_path / "small.safetensors")


def test_packed_elements_are_copied_but_not_cut(tmp_path: Path) -> None:
    ck.single(tmp_path)
    header = {
        "first.weight": {"dtype": "F4", "shape": [8, 4], "data_offsets": [0, 16]},
        "second.weight": {"dtype": "U8", "shape": [4, 8], "data_offsets": [16, 48]},
    }
    text = json.dumps(header).encode()
    content = bytes(range(48))
    (tmp_path / "full.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content)
    shapes = {n: tuple(e["shape"]) for n, e in header.items()}
    bad, good = ({name: {axis: [1]}} for name, axis in (("first.weight", 0), ("second.weight", 1)))
    (tmp_path / "plan.json").write_text(gp.Plan(weights=bad, shapes=shapes).to_json())
    arguments = tmp_path / "plan.json", tmp_path / "full.safetensors", tmp_path / "small.safetensors"
    rejected(tmp_path, "packs several F4", *arguments)
    (tmp_path / "plan.json").write_text(gp.Plan(weights=good, shapes=shapes).to_json())
    done("apply", *arguments, "-q")
    rest = np.frombuffer(content[16:], np.uint8).reshape(4, 8)
    written = (tmp_path / "small.safetensors").read_bytes()
    assert written.endswith(content[:16] + np.delete(rest, 1, axis=1).tobytes())


def _without_a_shard(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()


def _short_shard(folder: Path) -> None:
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def _changed_index(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] |= changes
        (folder / INDEX).write_text(json.dumps(index))

    return change


BAD_SHARDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (_without_a_shard, r"00002-of-00003.safetensors: no such file; model"),
    "truncated": (_short_shard, "00003-of-00003.*truncated"),
    "no_tensor": (_changed_index(other="model-00001-of-00003.safetensors"), "no tensor other"),
    "elsewhere": (_changed_index(other="../x.safetensors"), "no plain file name"),
    "no_map": (lambda f: (f / INDEX).write_text("{}") and None, "not an index"),
    "no_json": (lambda f: (f / INDEX).write_text("{") and None, "not an index"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_broken_shards(tmp_path: Path, case: str) -> None:
    index = ck.sharded(tmp_path)
    make, pattern = BAD_SHARDS[case]
    make(tmp_path)
    (tmp_path / "out").mkdir()
    rejected(tmp_path, pattern, tmp_path / "plan.json", index, tmp_path / "out" / INDEX)


@pytest.mark.parametrize(
    ("source", "output", "pattern"),
    [
        ("full.safetensors", "full.safetensors", "overwrite the input"),
        ("full.safetensors", "plan.json", "overwrite the input"),
        ("full.safetensors", "small.pt", r"becomes a \.safetensors file"),
        ("full.safetensors", f"small{INDEX[5:]}", r"becomes a \.safetensors file"),
        ("full.safetensors", "nowhere/small.safetensors", "does not exist"),
        ("none.safetensors", "small.safetensors", "no such file"),
        ("none.pt", "small.pt", "no such file"),
        (INDEX, "model-00001-of-00003.safetensors", "overwrite the input"),
        (".", "small", "overwrite the input or lie inside"),
    ],
)
def test_a_bad_place(tmp_path: Path, source: str, output: str, pattern: str) -> None:
    ck.single(tmp_path)
    ck.sharded(tmp_path)
    rejected(tmp_path, pattern, tmp_path / "plan.json", tmp_path / source, tmp_path / output)


def test_options_that_need_a_graph(tmp_path: Path) -> None:
    full = ck.single(tmp_path)
    rejected(tmp_path, "cannot be run", tmp_path / "plan.json", full, tmp_path / "s.safetensors", "--no-verify")
    with pytest.raises(gp.GraphPruneError, match="say where"):
        gp.apply(ck.plan(), full)
    with pytest.raises(gp.GraphPruneError, match="leave out the output"):
        gp.apply(ck.state(), ck.plan(), tmp_path / "s.safetensors")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="no folder is closed to this user")
def test_a_closed_folder(tmp_path: Path) -> None:
    full = ck.single(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o500)
    rejected(tmp_path, "cannot be written", tmp_path / "plan.json", full, tmp_path / "closed" / "s.safetensors")


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["ctrl_c", "full"])
@pytest.mark.parametrize("form", ["file", "shards", "folder"])
def test_what_stops_halfway_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, fault: BaseException
) -> None:
    source, output = {
        "file": (ck.single(tmp_path), tmp_path / "small.safetensors"),
        "shards": (ck.sharded(tmp_path), tmp_path / "small.safetensors.index.json"),
        "folder": (tmp_path / "full", tmp_path / "small"),
    }[form]
    if form == "folder":
        source.mkdir()
        ck.sharded(source)
    else:
        output.write_text("what stood there before")
    before = listing(tmp_path), sorted(tmp_path.rglob("*"))
    written = []

    def stop(path: Path, tensors: Any, metadata: Any) -> int:
        path.write_bytes(b"half")
        written.append(path)
        raise fault

    monkeypatch.setattr("graphprune.rewrite.safetensors.write", stop)
    outcome = call("apply", tmp_path / "plan.json", source, output)
    assert outcome.code == (130 if isinstance(fault, KeyboardInterrupt) else 2)
    assert outcome.err.count("\n") == 1
    assert written
    assert (listing(tmp_path), sorted(tmp_path.rglob("*"))) == before
