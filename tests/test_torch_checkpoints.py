"""Files of torch.save, and pruned modules saved, restored and scattered back; the oracle is torch itself."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

import graphprune as gp  # noqa: E402
from tests import checkpoints as ck  # noqa: E402
from tests.commandline import done, listing, refused  # noqa: E402

torch.set_num_threads(1)
State = dict[str, Any]


def tensors(state: ck.State) -> State:
    return {n: torch.from_numpy(np.array(v)) for n, v in state.items()}


def same(got: State, wanted: ck.State) -> bool:
    return ck.same({n: np.asarray(t.detach()) for n, t in got.items()}, wanted)


def shrunk(folder: Path, content: Any, **options: Any) -> Any:
    """What is left of a file of torch.save."""
    torch.save(content, folder / "full.pt", **options)
    (folder / "plan.json").write_text(ck.plan().to_json())
    done("apply", folder / "plan.json", folder / "full.pt", folder / "small.pt", "-q")
    assert sorted(listing(folder)) == ["full.pt", "plan.json", "small.pt"]
    return torch.load(folder / "small.pt", weights_only=True)


# -- files of torch.save ---------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_state_dict(tmp_path: Path, zipped: bool) -> None:
    state = OrderedDict(tensors(ck.state()))
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    got = shrunk(tmp_path, state, _use_new_zipfile_serialization=zipped)
    assert same(got, ck.sliced(ck.state()))
    assert list(got) == list(state)
    assert got._metadata == state._metadata


def test_a_training_checkpoint(tmp_path: Path) -> None:
    state = tensors(ck.state("module."))
    content = {
        "epoch": 3,
        "state_dict": state,
        "ema": {"model": tensors(ck.state()), "decay": 0.9},
        "optimizer": torch.optim.SGD([torch.zeros(3)], lr=0.1, momentum=0.9).state_dict(),
        "mean": {"loss": torch.ones(())},
    }
    got = shrunk(tmp_path, content)
    assert got["epoch"] == 3
    assert got["ema"]["decay"] == 0.9
    assert same(got["state_dict"], ck.sliced(ck.state("module."), "module."))
    assert same(got["ema"]["model"], ck.sliced(ck.state()))
    assert got["mean"] == content["mean"]
    assert "optimizer" not in got
    (tmp_path / "small.pt").unlink()
    out = done("apply", tmp_path / "plan.json", tmp_path / "full.pt", tmp_path / "small.pt")
    assert "left out of full.pt, since it would no longer fit: optimizer" in " ".join(out.split())


def test_one_tensor_under_two_names_stays_one(tmp_path: Path) -> None:
    state = tensors(ck.state())
    state["alias"] = state["first.weight"]
    state["parameter"] = nn.Parameter(torch.ones(3), requires_grad=False)
    state["second.weight"] = nn.Parameter(state["second.weight"])
    got = shrunk(tmp_path, state)
    assert got["alias"].data_ptr() == got["first.weight"].data_ptr()
    assert torch.equal(got["alias"], state["first.weight"][ck.KEPT])
    assert isinstance(got["second.weight"], nn.Parameter)
    assert got["second.weight"].requires_grad
    assert not got["parameter"].requires_grad


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "complex64", "uint16"])
def test_element_types_stay(tmp_path: Path, dtype: str) -> None:
    state = tensors(ck.state())
    full = torch.arange(24).reshape(8, 3).to(getattr(torch, dtype))
    got = shrunk(tmp_path, state | {"first.weight": full})["first.weight"]
    assert got.dtype == full.dtype
    assert torch.equal(got.to(torch.complex128), full.to(torch.complex128)[ck.KEPT])


def test_views_and_strides(tmp_path: Path) -> None:
    state = tensors(ck.state())
    big = torch.arange(48.0).reshape(3, 16)
    got = shrunk(tmp_path, state | {"first.weight": big[:, 4:12].T.double()})
    assert torch.equal(got["first.weight"], big[:, 4:12].T.double()[ck.KEPT])


class Nasty:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("pwned"),)


class Custom(nn.Module):
    pass


def _with(name: str, tensor: Any) -> State:
    return tensors(ck.state()) | {name: tensor}


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (lambda p: p.write_bytes(pickle.dumps({"first.weight": Nasty()})), "is not run"),
    "code_in_zip": (lambda p: torch.save({"state_dict": tensors(ck.state()), "x": Nasty()}, p), "which is code"),
    "module": (lambda p: torch.save(Custom(), p), r"Custom, which is code.*state_dict"),
    "truncated": (lambda p: p.write_bytes(_saved(p)[:-700]), "truncated"),
    "empty": (lambda p: p.write_bytes(b""), "truncated"),
    "text": (lambda p: p.write_text("no checkpoint"), "no file of torch.save|not a readable file"),
    "tensor": (lambda p: torch.save(torch.ones(3), p), "holds a Tensor"),
    "no_tensors": (lambda p: torch.save({"epoch": 3}, p), "no state dict"),
    "names": (lambda p: torch.save({"x.weight": torch.ones(3)}, p), r"cuts first\.weight and 4 more"),
    "shape": (lambda p: torch.save(_with("first.bias", torch.ones(9)), p), r"first\.bias has shape \[9\]"),
    "sparse": (lambda p: torch.save(_with("first.weight", torch.eye(8, 3).to_sparse()), p), "sparse_coo"),
}  # fmt: skip


def _saved(path: Path) -> bytes:
    torch.save(tensors(ck.state()), path)
    return path.read_bytes()


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, pattern = BAD[case]
    make(tmp_path / "full.pt")
    (tmp_path / "plan.json").write_text(ck.plan().to_json())
    before = listing(tmp_path), sorted(tmp_path.rglob("*"))
    refused(2, pattern, "apply", "plan.json", "full.pt", "small.pt")
    assert (listing(tmp_path), sorted(tmp_path.rglob("*"))) == before


def test_without_torch_the_message_says_what_to_install(tmp_path: Path) -> None:
    torch.save(tensors(ck.state()), tmp_path / "full.pt")
    (tmp_path / "plan.json").write_text(ck.plan().to_json())
    code = "import sys; sys.modules['torch'] = None; from graphprune.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "apply", "plan.json", "full.pt", "small.pt"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert 'pip install "graphprune[torch]"' in out.stderr
    assert not (tmp_path / "small.pt").exists()


# -- pruned modules --------------------------------------------------------------------------------------


class Net(nn.Module):
    """A residual network with batch norms, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.head = nn.Linear(16, 5)
        self.register_buffer("shift", torch.linspace(0, 1, 16).reshape(16, 1, 1), persistent=False)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.body(x) + self.shift)
        return self.head(x.mean((2, 3)))


class Layer(nn.Module):
    """Attention that says its sizes in attributes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = heads, width // heads, (width // heads) ** -0.5
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Any) -> Any:
        batch, tokens, _ = x.shape
        h = self.norm(x)
        q, k, v = (
            f(h).view(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        made = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2)
        return x + self.o(made.reshape(batch, tokens, self.num_heads * self.head_dim))


class Text(nn.Module):
    """Tied embeddings around two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        self.layers = nn.ModuleList(Layer(24, 4) for _ in range(2))
        self.head = nn.Linear(24, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Speech(nn.Module):
    """A recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0])


MODULES: dict[str, tuple[type[nn.Module], Callable[[], Any]]] = {
    "net": (Net, lambda: torch.randn(2, 3, 8, 8)),
    "text": (Text, lambda: torch.randint(0, 40, (2, 5))),
    "speech": (Speech, lambda: torch.randn(2, 5, 6)),
}


def pruned(name: str, seed: int = 0) -> tuple[nn.Module, gp.Result, Any]:
    torch.manual_seed(seed)
    kind, inputs = MODULES[name]
    module, x = kind().eval(), inputs()
    return module, gp.prune(module, example_inputs=x, ratio=0.4, align=1), x


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("how", ["plain", "inplace", "examples", "meta", "half"])
def test_a_pruned_module_is_saved_and_restored(tmp_path: Path, name: str, how: str) -> None:
    _, result, x = pruned(name)
    small = result.model.half() if how == "half" else result.model
    gp.save(small if how == "half" else result, tmp_path / "saved")
    assert sorted(listing(tmp_path / "saved")) == ["model.safetensors", "plan.json"]
    with torch.device("meta" if how == "meta" and name != "net" else "cpu"):
        fresh = MODULES[name][0]().eval()
    again = gp.restore(
        fresh, tmp_path / "saved", inplace=how == "inplace", **({"example_inputs": x} if how == "examples" else {})
    )
    assert type(again) is type(small)
    assert (again is fresh) is (how == "inplace")
    state, wanted = again.state_dict(), small.state_dict()
    assert state.keys() == wanted.keys()
    assert all(state[n].dtype == t.dtype and torch.equal(state[n], t) for n, t in wanted.items())
    if how != "half":
        assert torch.equal(again(x), small(x))
        again.train()(x).sum().backward()
    names = [n for n, _ in again.named_parameters(remove_duplicate=False)]
    assert len(names) - len([*again.parameters()]) == (1 if name == "text" else 0)


def test_a_saved_module_is_plain_safetensors(tmp_path: Path) -> None:
    _, result, _ = pruned("text")
    gp.save(result.model, tmp_path / "saved")
    found, state = load_file(tmp_path / "saved" / "model.safetensors"), result.model.state_dict()
    assert state.keys() - found.keys() == {"head.weight"}
    assert all(torch.equal(t, state[n]) for n, t in found.items())
    assert gp.Plan.read(tmp_path / "saved" / "plan.json").weights == result.plan.weights


def test_saving_again_replaces_what_was_saved(tmp_path: Path) -> None:
    _, result, x = pruned("net")
    gp.save(result, tmp_path / "saved")
    (tmp_path / "saved" / "mine.txt").write_text("mine")
    with torch.no_grad():
        result.model.head.bias += 1
    gp.save(result, tmp_path / "saved")
    assert sorted(listing(tmp_path / "saved")) == ["mine.txt", "model.safetensors", "plan.json"]
    assert torch.equal(gp.restore(Net().eval(), tmp_path / "saved")(x), result.model(x))


def test_a_fresh_process_gives_the_same_outputs(tmp_path: Path) -> None:
    _, result, x = pruned("text")
    gp.save(result, tmp_path / "saved")
    torch.save(x, tmp_path / "x.pt")
    code = """
import sys, torch, graphprune as gp
from tests.test_torch_checkpoints import Text
torch.set_num_threads(1)
torch.save(gp.restore(Text().eval(), sys.argv[1])(torch.load(sys.argv[2])), sys.argv[3])"""
    paths = tmp_path / "saved", tmp_path / "x.pt", tmp_path / "y.pt"
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, cwd=Path(__file__).parents[1])
    assert torch.equal(torch.load(tmp_path / "y.pt"), result.model(x))


@pytest.mark.parametrize("name", MODULES)
def test_a_state_dict_follows_and_comes_back(name: str) -> None:
    module, result, _ = pruned(name)
    other = MODULES[name][0]()  # another checkpoint of the same names
    small = gp.apply(result, other.state_dict())
    again = MODULES[name][0]()
    again.load_state_dict(gp.scatter(other.state_dict(), small, result))
    assert all(torch.equal(again.state_dict()[n], t) for n, t in other.state_dict().items())
    assert all(torch.equal(gp.apply(result, module.state_dict())[n], t) for n, t in result.model.state_dict().items())
    back = gp.scatter(other.state_dict(), result.model.state_dict(), result.plan)
    for weight, axes in gp.channel_map(result).items():
        if weight in back and all(m.ndim == 1 for m in axes.values()):
            cut = module.state_dict()[weight]
            kept = [np.flatnonzero(axes[a] >= 0) if a in axes else np.arange(n) for a, n in enumerate(cut.shape)]
            assert torch.equal(back[weight][np.ix_(*kept)], cut[np.ix_(*kept)])


def test_what_cannot_be_saved_or_restored(tmp_path: Path) -> None:
    module, result, _ = pruned("net")
    with pytest.raises(gp.GraphPruneError, match="not made by graphprune"):
        gp.save(module, tmp_path / "a")
    with pytest.raises(gp.GraphPruneError, match="does not exist"):
        gp.save(result, tmp_path / "none" / "a")
    assert listing(tmp_path) == {}
    gp.save(result, tmp_path / "saved")
    for wrong, pattern in (
        (Text(), r"no stem\.weight|no norm"),
        (result.model, r"shape \[\d+, 3, 3, 3\] in this Net"),
    ):
        with pytest.raises(gp.GraphPruneError, match=pattern):
            gp.restore(wrong, tmp_path / "saved")
    with pytest.raises(gp.GraphPruneError, match="No such file"):
        gp.restore(Net(), tmp_path)
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(gp.GraphPruneError, match="truncated"):
        gp.restore(Net(), tmp_path / "saved")


def test_a_tie_that_was_cut_is_noticed(tmp_path: Path) -> None:
    _, result, _ = pruned("text")
    result.model.head.weight = nn.Parameter(result.model.head.weight.detach() + 1)
    gp.save(result, tmp_path / "saved")
    with pytest.raises(gp.GraphPruneError, match=r"differs from embed\.weight, which it is tied to"):
        gp.restore(Text(), tmp_path / "saved")
