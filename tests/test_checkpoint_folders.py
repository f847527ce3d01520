"""Hugging Face folders: weights cut, config.json brought in line, the rest copied. The oracle is transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("safetensors")

import graphprune as gp
from graphprune.rewrite.config import Fields, updated
from tests import checkpoints as ck
from tests.commandline import done, listing, refused

Config = dict[str, Any]


# -- config.json -----------------------------------------------------------------------------------------


def followed(config: Config, axes: dict[int, list[int]], **widths: dict[int, list[int]]) -> tuple[Config, Fields]:
    """A config after axes of these lengths became others, with what is left of the groups of each kind."""
    plan = gp.Plan(widths={kind.replace("_", " "): found for kind, found in widths.items()})
    pairs = [(old, new) for old, all_new in axes.items() for new in all_new]
    before = {f"w{k}": (old, 3) for k, (old, _) in enumerate(pairs)}
    after = {f"w{k}": (new, 3) for k, (_, new) in enumerate(pairs)}
    return updated(config, plan, before, after)


def changes(fields: Fields) -> dict[str, Any]:
    return {f.name: f.new for f in fields.changed}


def test_a_width_that_is_one_everywhere_is_followed() -> None:
    config = {"hidden_size": 64, "intermediate_size": 256, "vocab_size": 64, "model_type": "x", "num_hidden_layers": 64}
    new, fields = followed(config, {64: [64], 256: [128]})
    assert changes(fields) == {"intermediate_size": 128}
    assert new == config | {"intermediate_size": 128}
    assert not fields.left
    assert not fields.notes


def test_groups_decide_where_axes_of_one_length_differ() -> None:
    config = {"hidden_size": 64, "num_attention_heads": 8, "head_dim": 8}
    axes = {64: [64, 48]}
    _, fields = followed(config, axes, residual_width={64: [64]}, heads={8: [6]})
    assert changes(fields) == {"num_attention_heads": 6}
    assert not fields.notes
    _, fields = followed(config, axes, residual_width={64: [48]}, heads={8: [8]})
    assert changes(fields) == {"hidden_size": 48}
    _, fields = followed(config, axes)
    assert changes(fields) == {}
    assert "w1 axis 0 (64 -> 48)" in fields.notes[0]


def test_layers_that_differ_are_left_and_said() -> None:
    new, fields = followed({"intermediate_size": 256}, {256: [128, 96]}, FFN_width={256: [96, 128]})
    assert new == {"intermediate_size": 256}
    assert [(f.name, f.new) for f in fields.left] == [("intermediate_size", 256)]
    assert "256 became 96 and 128" in fields.left[0].reason


def test_heads_that_share_keys_and_values() -> None:
    config = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 8}
    shared = {"KV_groups": {8: [6]}, "query_heads_per_KV_group": {4: [3]}}
    _, fields = followed(config, {4096: [18 * 128], 1024: [6 * 128]}, **shared)
    assert changes(fields) == {"num_attention_heads": 18, "num_key_value_heads": 6}
    assert not fields.notes
    _, fields = followed(config, {4096: [24 * 128], 1024: [6 * 128]}, KV_groups={8: [6]})
    assert changes(fields) == {"num_attention_heads": 24, "num_key_value_heads": 6}


def test_rotary_dims_leave_in_pairs_and_what_is_computed_from_them_is_said() -> None:
    _, fields = followed({"head_dim": 128, "num_attention_heads": 2}, {256: [192]}, head_dims={64: [48], 128: [96]})
    assert changes(fields) == {"head_dim": 96}
    assert "attention scale or rotary angles" in fields.notes[0]
    _, fields = followed({"head_dim": 128}, {128: [64]}, head_dims={64: [48], 128: [64]})
    assert [f.name for f in fields.left] == ["head_dim"]


def test_an_implied_head_size_is_said() -> None:
    config = {"hidden_size": 64, "num_attention_heads": 8}
    _, fields = followed(config, {64: [64, 48]}, residual_width={64: [64]}, heads={8: [6]})
    assert changes(fields) == {"num_attention_heads": 6}
    assert fields.left[0].name == "head_dim"
    assert "heads of 8; a class that takes hidden_size / num_attention_heads" in fields.left[0].reason
    _, fields = followed(config, {64: [48]}, residual_width={64: [48]}, heads={8: [6]})
    assert not fields.left


def test_lists_and_nested_configs() -> None:
    config = {"hidden_sizes": [8, 16], "text_config": {"d_ff": 32}, "rope_scaling": {"dim": 8}, "use_cache": True}
    new, fields = followed(config, {8: [4], 16: [16], 32: [24]})
    assert changes(fields) == {"hidden_sizes": [4, 16], "text_config.d_ff": 24}
    assert new == config | {"hidden_sizes": [4, 16], "text_config": {"d_ff": 24}}
    assert config["text_config"] == {"d_ff": 32}


# -- folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in the style of the hub, with its plan beside it."""
    home = tmp_path / "full"
    home.mkdir()
    ck.sharded(home)
    (home / "plan.json").rename(tmp_path / "plan.json")
    config = {"hidden_size": 8, "vocab_size": 8, "dtype": "float32", "note": "ü"}
    (home / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (home / "tokenizer.json").write_text("{}")
    (home / "deep").mkdir()
    (home / "deep" / "more.txt").write_text("more")
    (home / "link.txt").symlink_to(home / "tokenizer.json")
    for stale in ("pytorch_model.bin", "tf_model.h5", "deep/model.onnx", "optimizer.pt"):
        (home / stale).write_bytes(b"old")
    (home / "training_args.bin").write_bytes(b"kept")
    return home


def test_a_folder(folder: Path) -> None:
    out = folder.with_name("small")
    text = " ".join(done("apply", folder.with_name("plan.json"), folder, out).split())
    assert ck.same(ck.read(out / "model.safetensors.index.json"), ck.sliced(ck.state()))
    files = listing(out)
    shards = {f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)}
    copied = {"deep/more.txt", "link.txt", "tokenizer.json", "training_args.bin"}
    assert files.keys() == shards | copied | {"config.json", "model.safetensors.index.json", "plan.json"}
    assert not (out / "link.txt").is_symlink()
    assert json.loads(files["config.json"]) == {"hidden_size": 6, "vocab_size": 8, "dtype": "float32", "note": "ü"}
    assert "hidden_size 8 6" in text
    assert (
        "not copied, since it would no longer fit: deep/model.onnx, optimizer.pt, pytorch_model.bin, tf_model.h5"
        in text
    )
    assert files["plan.json"] == folder.with_name("plan.json").read_bytes()


def test_a_folder_of_one_file_without_config(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    ck.single(folder).rename(folder / "model.safetensors")
    result = gp.apply(folder / "plan.json", folder, folder.with_name("small"))
    assert ck.same(ck.read(folder.with_name("small") / "model.safetensors"), ck.sliced(ck.state()))
    assert result.files == ("deep/more.txt", "model.safetensors", "plan.json")
    assert result.notes == ("not copied, since it would no longer fit: deep/model.onnx",)


def test_a_folder_with_a_file_of_torch_save(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    for path in folder.glob("model*"):
        path.unlink()
    torch.save({n: torch.from_numpy(v.copy()) for n, v in ck.state().items()}, folder / "pytorch_model.bin")
    gp.apply(folder.with_name("plan.json"), folder, folder.with_name("small"))
    got = torch.load(folder.with_name("small") / "pytorch_model.bin", weights_only=True)
    assert ck.same({n: t.numpy() for n, t in got.items()}, ck.sliced(ck.state()))
    assert not list(folder.with_name("small").glob(".*"))


@pytest.mark.parametrize("case", ["shard", "config", "inside", "taken", "file", "nowhere", "no_weights"])
def test_a_refused_folder_leaves_nothing(folder: Path, case: str) -> None:
    home = folder.parent
    out, pattern = {
        "inside": (folder / "small", "lie inside"),
        "taken": (home / "taken", "not an empty folder"),
        "file": (home / "plan.json", "not an empty folder"),
        "nowhere": (home / "none" / "small", "does not exist"),
        "shard": (home / "small", "no such file"),
        "config": (home / "small", r"config\.json: cannot be read"),
        "no_weights": (home / "small", "not one checkpoint"),
    }[case]
    (home / "taken").mkdir()
    (home / "taken" / "mine").write_text("mine")
    if case == "shard":
        (folder / "model-00001-of-00003.safetensors").unlink()
    elif case == "config":
        (folder / "config.json").write_text("{")
    elif case == "no_weights":
        for path in (*folder.glob("*.safetensors*"), folder / "pytorch_model.bin"):
            path.unlink()
    before = listing(home), sorted(home.rglob("*"))
    refused(2, pattern, "apply", home / "plan.json", folder, out)
    assert (listing(home), sorted(home.rglob("*"))) == before


# -- transformers ----------------------------------------------------------------------------------------


def hub_model(name: str) -> tuple[Any, Any]:
    """A small model of transformers with random weights, and its input."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("benchmarks.zoo.entries")  # makes torchvision importable, which transformers reads
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    llama = {"hidden_size": 64, "intermediate_size": 176, "num_key_value_heads": 4, "head_dim": 8}
    kinds = {
        "llama": ("Llama", "ForCausalLM", {**llama, "num_attention_heads": 8, "num_hidden_layers": 2}),
        "t5": ("T5", "EncoderModel", {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4}),
        "distilbert": ("DistilBert", "ForMaskedLM", {"dim": 48, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}),
    }
    stem, ending, sizes = kinds[name]
    config = getattr(transformers, f"{stem}Config")(vocab_size=97, **sizes)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    return getattr(transformers, stem + ending)(config).eval(), torch.randint(0, 97, (2, 7))


def output(module: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        out = module(ids)
    return out if isinstance(out, torch.Tensor) else out[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("llama", "FFN width"),
        ("llama", "residual width"),
        ("llama", "KV groups"),
        ("llama", "query heads per KV group"),
        ("t5", "heads"),
        ("t5", "head dims"),
        ("distilbert", "FFN width"),
    ],
)
def test_transformers_loads_the_folder_and_gives_what_the_pruned_module_gives(
    tmp_path: Path, name: str, kind: str
) -> None:
    model, ids = hub_model(name)
    model.save_pretrained(tmp_path / "full", max_shard_size="100KB")
    result = gp.prune(model, example_inputs=ids, ratio=0.5, align=1, only=[f"kind:{kind}"])
    (tmp_path / "plan.json").write_text(result.plan.to_json())
    done("apply", tmp_path / "plan.json", tmp_path / "full", tmp_path / "small", "-q")
    small = type(model).from_pretrained(tmp_path / "small").eval()
    assert {n: p.shape for n, p in small.named_parameters()} == {n: p.shape for n, p in result.model.named_parameters()}
    wanted = output(result.model, ids)
    assert float((output(small, ids) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_a_folder_that_was_cut_is_restored_where_the_class_computes_other_constants(tmp_path: Path) -> None:
    model, ids = hub_model("llama")
    model.save_pretrained(tmp_path / "full")
    result = gp.prune(model, example_inputs=ids, ratio=0.5, align=1)
    (tmp_path / "plan.json").write_text(result.plan.to_json())
    text = " ".join(done("apply", tmp_path / "plan.json", tmp_path / "full", tmp_path / "small").split())
    assert "graphprune.restore keeps those" in text
    fresh = type(model)(model.config).eval()
    again = gp.restore(fresh, tmp_path / "small", example_inputs=ids)
    wanted = output(result.model, ids)
    assert float((output(again, ids) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
