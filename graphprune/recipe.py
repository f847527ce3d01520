"""The recipe: the options of a run as one value, read from a file, overridden by flags, written beside the output."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from graphprune.errors import InputError
from graphprune.recipe_values import AMOUNTS, CONVERT, align, moved_labels, moved_source, number, parse_shapes, shares


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of a run; None where nothing was given. The names are those of the flags.

    Attributes:
        macs: Limit on MACs: 50% (what remains) or 1.2G. This and other targets may be lists, 75%,50%,25%: a family of
            nested models from one analysis, written to OUTPUT-75 ... or where OUTPUT has {}.
        params: Limit on parameters: 50% or 5M.
        size: Limit on the size of the file: 50% or 20MB.
        memory: Limit on the activations alive at once, at batch 1: 50% or 8MB.
        latency: Limit on the time of a run in onnxruntime, predicted, then measured in turns with the original: 60% or
            8ms.
        threads: Threads that latency is measured with (1); 0 for as many as there are.
        provider: Execution provider that latency is measured with (CPUExecutionProvider).
        latency_table: Times of operators on another device instead of this machine: a .csv or .json file with
            operator, shapes and time, or FILE.py:FUNCTION. Nothing is measured then.
        ratio: Share of channels that every group loses: 0.3 or 30%.
        lossless: Remove the dead channels and nothing else: the result equals the original. Takes no target.
        align: Kept widths are multiples of this where a group is wide enough: a number, or auto: 16,
            less where that is too coarse for the targets; with latency by measurement. 1 frees them (auto).
        min_channels: Channels that every group keeps at least (1).
        max_ratio: Largest share of its channels that a group may lose (0.9).
        max_step: Largest share of a group between two widths; a group too narrow for the alignment gets a finer one
            (0.25; 0.5 with a number for align).
        ignore: Regular expression; nodes, weights and module paths that match stay whole. Repeatable. kind:heads
            names all groups of a kind, as analyze shows it.
        only: Regular expression; only what matches may be cut. Repeatable.
        allow_io: Regular expression; axes of graph inputs and outputs that match may shrink (KV caches, embeddings).
            Repeatable.
        shared_offsets: Every convolution group, head or norm group loses the same offsets, even where each could keep
            its own.
        width: How many channels groups keep: PATTERN=16:48, PATTERN=16: or PATTERN=32, where the pattern matches names
            of groups as analyze shows them, or is kind:heads. Repeatable.
        equal: Regular expression; the groups whose names match keep the same width. With brackets, one class for
            each text that they capture. Repeatable.
        allocation: How the cut is shared out: solver (least loss under all limits), global (one ranking of all
            channels), uniform (the same share everywhere), or auto: solver where losses were measured, else global.
        depth: Leave out branches of residual sums where the outputs lose less by that than by cutting widths: auto, at
            most so many, or only (no widths are cut then).
        sensitivity: Curves of loss for the solver: auto, measured on --data by cutting each group alone, or the file of
            analyze --sensitivity --json.
        criterion: How channels are ranked, see docs/criteria.md (auto: obs with data, else l2). By weights: l1, l2,
            lamp, bn-scale, fpgm, dimap, spectral, similarity, random. By --data: wanda, activation-mean,
            activation-variance, activation-attention, apoz, correlation, entropy, taylor, taylor-ema,
            empirical-fisher, fisher, gauss-newton, hessian, perturbation, obs.
        aggregate: What is made of a channel's coupled slices: sum, mean or max (sum).
        normalise: What the scores of a group are divided by: its mean, max or sum, or none (auto: mean, none for
            criteria that compare groups by themselves).
        seed: Seed of everything that draws (0).
        input_shape: Sizes for an input with dynamic axes: x:1,3,224,224, without the name if it is the only one.
            Repeatable.
        data: Samples, for criteria that look at activations and for verification: a .npz or .npy file
            stacked on axis 0, a folder of them or of images, JSON of Polygraphy's --save-inputs, LOADER.py:FUNCTION,
            or the words random (noise) and synthetic (inputs made to fit the model's BatchNormalizations).
        labels: What is right for each sample of the data: its name in the archive, or FILE.npy. For taylor, taylor-ema
            and empirical-fisher, and for --metric accuracy, which is measured by default then.
        samples: How many samples to take of the data (1024; less of synthetic ones).
        preprocess: How images become inputs: resize, crop, color, scale, mean, std, layout. In recipes only.
        recover: What is done for accuracy once the cut is proved: none, or steps with commas: merge, mean, moments,
            batchnorm, refit, distill (auto: refit where there is data).
        metric: A measure of your own, before and after: FILE.py:FUNCTION, called with run(feed) -> outputs; or
            accuracy.
        no_verify: Do not compare the result with the masked original; it is marked UNVERIFIED then.
    """

    macs: str | None = None
    params: str | None = None
    size: str | None = None
    memory: str | None = None
    latency: str | None = None
    threads: int | None = None
    provider: str | None = None
    latency_table: str | None = None
    ratio: str | None = None
    lossless: bool | None = None
    align: str | None = None
    min_channels: int | None = None
    max_ratio: float | None = None
    max_step: float | None = None
    ignore: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    allow_io: tuple[str, ...] | None = None
    shared_offsets: bool | None = None
    width: tuple[str, ...] | None = None
    equal: tuple[str, ...] | None = None
    allocation: str | None = None
    depth: str | None = None
    sensitivity: str | None = None
    criterion: str | None = None
    aggregate: str | None = None
    normalise: str | None = None
    seed: int | None = None
    input_shape: tuple[str, ...] | None = None
    data: str | None = None
    labels: str | None = None
    samples: int | None = None
    preprocess: Annotated[Mapping[str, Any] | None, Parameter(parse=False)] = None
    recover: str | None = None
    metric: str | None = None
    no_verify: bool | None = None

    def over(self, base: Recipe) -> Recipe:
        """This recipe, with what it leaves open taken from ``base``."""
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        return Recipe(**{k: v if v is not None else getattr(base, k) for k, v in mine.items()})

    def options(self) -> dict[str, Any]:
        """Keyword options of :func:`graphprune.plan`.

        Raises:
            InputError: An option is out of range.
        """
        out: dict[str, Any] = {k: number(v) for k in AMOUNTS if (v := getattr(self, k)) is not None}
        if self.align is not None:
            out["align"] = align(self.align)
        if self.seed is not None and self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
        for key in (
            "lossless",
            "min_channels",
            "max_ratio",
            "max_step",
            "ignore",
            "only",
            "allow_io",
            "shared_offsets",
            "width",
            "equal",
            "allocation",
            "depth",
            "sensitivity",
            "criterion",
            "aggregate",
            "normalise",
            "seed",
            "threads",
            "provider",
            "latency_table",
        ):
            if getattr(self, key) is not None:
                out[key] = getattr(self, key)
        return out

    def data_options(self) -> dict[str, Any]:
        """Keyword options of :func:`graphprune.prune` about data."""
        found = {key: getattr(self, key) for key in ("data", "labels", "samples", "preprocess", "metric")}
        return found if self.recover is None else {**found, "recover": self.recover}

    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Sizes by input name, "" where the name was left out.

        Raises:
            InputError: A shape cannot be read.
        """
        return parse_shapes(self.input_shape or ())

    def effective(self, planned: Mapping[str, Any], folder: Path) -> str:
        """The recipe as YAML, as a file in ``folder`` that gives the same result again.

        Args:
            planned: Options as the plan notes them, defaults included.
            folder: Where the file will stand; the data path is written relative to it.
        """
        import yaml

        entries: dict[str, Any] = {k: list(v) if isinstance(v, tuple | list) else v for k, v in planned.items()}
        entries["input_shape"] = list(self.input_shape or ())
        entries["data"] = moved_source(self.data, folder) if self.data is not None else None
        entries["labels"] = moved_labels(self.labels, folder)
        entries["samples"] = self.samples
        entries["preprocess"] = dict(self.preprocess) if self.preprocess is not None else None
        if self.latency_table is not None:
            entries["latency_table"] = moved_source(self.latency_table, folder)
        if self.sensitivity is not None:
            entries["sensitivity"] = moved_source(self.sensitivity, folder)
        entries["recover"] = self.recover
        entries["metric"] = moved_source(self.metric, folder) if self.metric is not None else None
        entries["no_verify"] = bool(self.no_verify)
        kept = {k.replace("_", "-"): v for k, v in entries.items() if not (v is None or v is False or v == [])}
        return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Options of a sweep that measures what each group costs; None where nothing was given.

    Attributes:
        sensitivity: Cut each group alone and measure, on --data, how far the outputs move.
        data: Samples without labels: any source of prune --data.
        samples: How many samples to take of the data (256).
        ratios: Shares of its units that each group loses (25%,50%,75%).
        compensate: Let the layers that read a group make up for what left, as recovery will.
        criterion: What orders the units of a group (auto: obs).
        seed: Seed of everything that draws (0).
        jobs: Cuts measured at once, with more than one in processes of their own (1; all that a cluster has).
        backend: Who measures: processes of this machine, or a cluster: dask, ray (processes).
        address: Where the cluster's scheduler answers.
        cache: Folder for results; a sweep that was stopped goes on from there (~/.cache/graphprune/sensitivity).
        plot: Where to draw the curves: a .svg, .html or .png file.
    """

    sensitivity: bool | None = None
    data: str | None = None
    samples: int | None = None
    ratios: str | None = None
    compensate: bool | None = None
    criterion: str | None = None
    seed: int | None = None
    jobs: int | None = None
    backend: str | None = None
    address: str | None = None
    cache: Path | None = None
    plot: Path | None = None

    def options(self) -> dict[str, Any]:
        """Keyword options of :func:`graphprune.sensitivity`.

        Raises:
            InputError: An option is given without --sensitivity, is missing, or cannot be read.
        """
        given = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        if not given.pop("sensitivity", False):
            if given:
                raise InputError(f"--{next(iter(given))} belongs to --sensitivity")
            return {}
        given.pop("plot", None)
        if "data" not in given:
            raise InputError("--sensitivity measures on samples: give some with --data")
        if self.ratios is not None:
            given["ratios"] = shares("ratios", self.ratios)
        return given


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML or JSON file.

    Raises:
        InputError: The file cannot be read, has an unknown key, or a value of the wrong kind.
    """
    entries = _parse(path)
    if not isinstance(entries, dict):
        raise InputError(f"{path}: a recipe is a mapping of options, such as 'macs: 50%'")
    out: dict[str, Any] = {}
    for raw, value in entries.items():
        key = str(raw).replace("-", "_")
        if key not in CONVERT:
            known = [k.replace("_", "-") for k in CONVERT]
            near = difflib.get_close_matches(str(raw), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"{path}: unknown option {raw!r}; {hint}")
        if key in out:
            raise InputError(f"{path}: option {raw!r} is given twice")
        wanted, convert = CONVERT[key]
        try:
            out[key] = None if value is None else convert(value)
        except (TypeError, ValueError):
            raise InputError(f"{path}: {raw}: {value!r} is not {wanted}") from None
    for key in ("data", "metric", "latency_table", "sensitivity"):
        if out.get(key) is not None:
            out[key] = moved_source(out[key], None, path.parent)
    out["labels"] = moved_labels(out.get("labels"), None, path.parent)
    return Recipe(**out)


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return json.loads(text)
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable recipe ({str(error)[:200]})") from None
