"""Types of files by their bytes, mails by their meaning."""

from __future__ import annotations

import email
import functools
import hashlib
import importlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.packages import folder
from benchmarks.accuracy.task import Array, Feed, Task, made, percent, stacked
from tests.assets import fetch

if TYPE_CHECKING:
    from torch import nn

ENDINGS = {
    "py": "python", "pyc": "pythonbytecode", "c": "c", "h": "c", "cpp": "cpp", "cc": "cpp", "hpp": "cpp",
    "js": "javascript", "ts": "typescript", "css": "css", "html": "html", "json": "json", "xml": "xml",
    "yaml": "yaml", "yml": "yaml", "toml": "toml", "md": "markdown", "rst": "rst", "sh": "shell", "pl": "perl",
    "pm": "perl", "rb": "ruby", "m4": "m4", "cmake": "cmake", "gz": "gzip", "png": "png", "jpg": "jpeg", "gif": "gif",
    "svg": "svg", "so": "elf", "ttf": "ttf", "npy": "npy", "npz": "npz", "zip": "zip", "tcl": "tcl", "po": "po",
    "wav": "wav", "ipynb": "ipynb", "sql": "sql", "java": "java", "go": "go", "php": "php", "pdf": "pdf", "csv": "csv",
}  # fmt: skip
PER_TYPE = 60


def magika_bytes(content: bytes) -> Array:
    """What the classifier sees: 1,024 bytes of the beginning, 1,024 of the end, 256 where there are none."""
    found = np.full(2048, 256, np.int32)
    begin = np.frombuffer(content[:4096].lstrip()[:1024], np.uint8)
    end = np.frombuffer(content[-4096:].rstrip()[-1024:], np.uint8)
    found[: len(begin)] = begin
    found[2048 - len(end) :] = end
    return found


def _files() -> Iterator[tuple[str, bytes]]:
    """Type and contents of installed files, in an order that does not depend on the folder's, no content twice."""
    roots = [
        Path("/usr/share"),
        Path("/usr/lib"),
        Path("/usr/include"),
        Path("/etc"),
        Path(sysconfig.get_path("purelib")),
    ]
    paths = {p for root in roots if root.is_dir() for ending in ENDINGS for p in root.rglob(f"*.{ending}")}
    seen = set()
    counts: dict[str, int] = {}
    for path in sorted(paths, key=lambda p: hashlib.sha256(str(p).encode()).digest()):
        kind = ENDINGS.get(path.suffix[1:], "")
        if not kind or counts.get(kind, 0) >= 2 * PER_TYPE or path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        mark = hashlib.sha256(content).digest()
        if len(content) >= 64 and mark not in seen:
            seen.add(mark)
            counts[kind] = counts.get(kind, 0) + 1
            yield kind, content


class FileTypes(Task):
    """Magika: what kind of file some bytes are."""

    name = "magika"
    metric = "accuracy"
    samples = 512
    data_note = "files of this machine, as many others of each ending to measure on; contents differ by machine"

    def path(self) -> Path:
        """A published file."""
        return fetch("magika")

    @functools.cached_property
    def _all(self) -> tuple[Array, npt.NDArray[np.str_]]:
        """Bytes and types; of each type the first half is for measuring."""

        def make(path: Path) -> None:
            kinds, rows = zip(*((kind, magika_bytes(content)) for kind, content in _files()), strict=True)
            np.savez_compressed(path, bytes=np.stack(rows), kinds=np.array(kinds))

        with np.load(made("magika-files.npz", make)) as data:
            return data["bytes"], data["kinds"]

    @functools.cached_property
    def _measured(self) -> npt.NDArray[np.bool_]:
        kinds = self._all[1]
        found = np.zeros(len(kinds), np.bool_)
        for kind in np.unique(kinds):
            places = np.flatnonzero(kinds == kind)
            found[places[: min(PER_TYPE, (len(places) + 1) // 2)]] = True
        return found

    def calibration(self, n: int, seed: int = 0) -> Feed:
        """Files that are not measured, types mixed."""
        rest = np.flatnonzero(~self._measured)
        chosen = np.random.default_rng(seed).permutation(rest)[:n]
        return {"bytes": self._all[0][chosen]}

    def measures(self, model: Any) -> dict[str, float]:
        """Share of files whose type is that of their ending."""
        labels = json.loads((folder("magika") / "config.min.json").read_text())["target_labels_space"]
        data, kinds = self._all[0][self._measured], self._all[1][self._measured]
        found = np.array(labels)[stacked(model, {"bytes": data}, 100).argmax(1)]
        return {"accuracy": percent(found == kinds)}


TOKENS, TRAIN, TEST = 96, 1600, 800


def mail_text(source: str) -> str:
    """Subject and the first 600 characters of a mail's plain text."""
    message = email.message_from_string(source)
    parts = [p for p in message.walk() if p.get_content_maintype() == "text"]
    body = parts[0].get_payload(decode=False) if parts else ""
    return f"{message.get('Subject', '')} {body if isinstance(body, str) else ''}"[: 600 + 200]


def logistic(x: Array, y: Array, strength: float = 10.0) -> Array:
    """Weights and, last, the offset of a logistic regression: `strength` x losses + half the squared weights."""
    from scipy.optimize import minimize

    signs = np.where(y, 1.0, -1.0)
    inputs = np.concatenate([x, np.ones((len(x), 1))], 1).astype(np.float64)

    def loss(w: Array) -> tuple[float, Array]:
        margin = signs * (inputs @ w)
        slope = -strength * signs / (1 + np.exp(np.clip(margin, -500, 500)))
        kept = np.append(w[:-1], 0)
        return float(strength * np.logaddexp(0, -margin).sum() + kept @ kept / 2), inputs.T @ slope + kept

    found: Array = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return found


class Sentences(Task):
    """MiniLM: sentence embeddings, and a linear probe on the original's that tells spam from other mail."""

    name = "minilm_l6"
    metric = "spam probe"
    data_note = "mails; 1,600 others fit the probe, on the original's embeddings, and 800 others measure"

    def module(self) -> nn.Module:
        """The encoder with its trained weights: (ids, mask, types) to hidden states."""
        import torch
        from safetensors.torch import load_file

        importlib.import_module("benchmarks.zoo.entries")  # lets torchvision be imported, which transformers does
        from transformers import BertConfig, BertModel

        config = BertConfig.from_json_file(folder("minilm") / "config.json")
        config._attn_implementation = "eager"
        network = BertModel(config, add_pooling_layer=False)
        weights = load_file(fetch("minilm_l6"))
        missing = network.load_state_dict({k: v for k, v in weights.items() if "pooler" not in k}, strict=False)
        if missing.unexpected_keys and set(missing.unexpected_keys) != {"embeddings.position_ids"}:
            raise ValueError(f"weights that do not fit: {missing.unexpected_keys}")

        class Encoder(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = network

            def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
                return self.model(input_ids, attention_mask, token_type_ids).last_hidden_state

        return Encoder().eval()

    def path(self) -> Path:
        """Exported on first use."""
        import torch

        names = ["input_ids", "attention_mask", "token_type_ids"]

        def make(path: Path) -> None:
            example = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in names)
            sizes = {0: torch.export.Dim("n", min=1, max=4096), 1: torch.export.Dim("tokens", min=2, max=512)}
            torch.onnx.export(
                self.module(), example, path, dynamo=True, external_data=False, input_names=names,
                output_names=["hidden"], dynamic_shapes=tuple(sizes for _ in names), verbose=False,
            )  # fmt: skip

        return made("minilm_l6.onnx", make)

    @functools.cached_property
    def _mails(self) -> tuple[Array, Array, Array]:
        """Ids and masks (n, 96) of all mails in a fixed random order, and which are spam."""

        def make(path: Path) -> None:
            from tokenizers import Tokenizer

            tokens = Tokenizer.from_file(str(folder("minilm") / "tokenizer.json"))
            tokens.enable_truncation(TOKENS)
            tokens.enable_padding(length=TOKENS)
            mails = [json.loads(p.read_text()) for p in sorted(folder("mails").iterdir())]
            mails = [mails[i] for i in np.random.default_rng(0).permutation(len(mails))]
            found = tokens.encode_batch([mail_text(m["text"]) for m in mails])
            np.savez_compressed(
                path,
                ids=np.array([e.ids for e in found], np.int64),
                mask=np.array([e.attention_mask for e in found], np.int64),
                spam=np.array([m["group"].startswith("spam") for m in mails]),
            )

        with np.load(made("minilm-mails.npz", make)) as data:
            return data["ids"], data["mask"], data["spam"]

    def _feed(self, places: slice) -> Feed:
        ids, mask, _ = self._mails
        return {"input_ids": ids[places], "attention_mask": mask[places], "token_type_ids": np.zeros_like(ids[places])}

    def calibration(self, n: int, seed: int = 0) -> Feed:
        """Mails that neither fit nor test the probe."""
        first = TRAIN + TEST + n * seed
        if first + n > len(self._mails[0]):
            raise ValueError(f"{n} samples for seed {seed} are more mails than there are")
        return self._feed(slice(first, first + n))

    def _embed(self, model: Any, places: slice) -> Array:
        feed = self._feed(places)
        hidden, mask = stacked(model, feed, 16), feed["attention_mask"][:, :, None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))

    @functools.cached_property
    def _original(self) -> tuple[Array, Array]:
        """Embeddings of the test mails by the original, and the probe."""

        def make(path: Path) -> None:
            embedded = self._embed(self.path(), slice(0, TRAIN + TEST))
            np.savez(path, test=embedded[TRAIN:], probe=logistic(embedded[:TRAIN], self._mails[2][:TRAIN]))

        with np.load(made("minilm-probe.npz", make)) as data:
            return data["test"], data["probe"]

    def measures(self, model: Any) -> dict[str, float]:
        """The probe's accuracy, and the mean cosine with the original's embeddings."""
        wanted, probe = self._original
        found = self._embed(model, slice(TRAIN, TRAIN + TEST))
        spam = self._mails[2][TRAIN : TRAIN + TEST]
        cosine = 100 * float((found * wanted).sum(1).mean())
        return {"spam probe": percent((found @ probe[:-1] + probe[-1] > 0) == spam), "cosine": cosine}
