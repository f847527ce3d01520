"""Writing models: beside the target and renamed in at the end, in the input's style of external data."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.onnx import external_files
from graphprune.graph.scopes import initializers
from graphprune.graph.sizes import cloned, weight_bytes
from graphprune.plan import Plan

_PROTOBUF_LIMIT = 2**31 - 2**20
METADATA_KEY = "graphprune"


def stamp(model: ir.Model, plan: Plan, *, verified: bool) -> None:
    """Note the recipe and whether the result was proved, in the model's metadata."""
    note = {"plan": plan.version, "recipe": plan.recipe, "verified": verified}
    model.metadata_props[METADATA_KEY] = json.dumps(note, sort_keys=True)
    if not verified:
        model.metadata_props[f"{METADATA_KEY}.warning"] = "UNVERIFIED"


def has_external(model: ir.Model) -> bool:
    """Whether any initializer lives outside the file."""
    return any(isinstance(v.const_value, ir.ExternalTensor) for _, v in initializers(model))


def check_output(output: Path, *sources: Path) -> None:
    """Refuse an output that would overwrite what is read, or that has no folder.

    Raises:
        InputError: It would, or it has none.
    """
    for source in sources:
        if source.resolve() == output.resolve() or (output.exists() and source.exists() and output.samefile(source)):
            raise InputError(f"{output}: the output would overwrite the input; give another name")
    if not output.resolve().parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist")
    if output.is_dir():
        raise InputError(f"{output}: this is a folder; give a file name")


@contextmanager
def staged(output: Path, done: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder beside ``output`` for files that belong together: they replace what stood there at the end, or never.

    Once the first file is renamed, Ctrl-C waits until all are; on an error what stood there before is put back.

    Args:
        output: Where the last and most important of the files goes.
        done: Called when all files are in place, before a Ctrl-C that came meanwhile is raised.

    Raises:
        InputError: The folder cannot be written.
    """
    home = output.resolve().parent
    try:
        with uninterrupted():
            stage = tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=home)
        with stage as name, tempfile.TemporaryDirectory(prefix="old-", dir=name) as old:
            folder = Path(name) / "new"
            folder.mkdir()
            yield folder
            with uninterrupted():
                _rename_all(sorted(folder.iterdir(), key=lambda p: p.name == output.name), home, Path(old))
                done()
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error})") from None


def _rename_all(paths: Sequence[Path], home: Path, old: Path) -> None:
    """Move files to ``home``, the last one last; when one cannot be moved, all is as it was."""
    targets = [home / path.name for path in paths]
    for target in targets:
        if target.is_file():
            _keep(target, old / target.name)
    moved: list[Path] = []
    try:
        for path, target in zip(paths, targets, strict=True):
            path.replace(target)
            moved.append(target)
    except BaseException:
        for target in moved:
            if (old / target.name).exists():
                (old / target.name).replace(target)
            else:
                target.unlink()
        raise


def _keep(path: Path, copy: Path) -> None:
    """Hold on to a file under a second name, by a copy where there are no links."""
    try:
        copy.hardlink_to(path)
    except OSError:
        shutil.copy2(path, copy)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the end of the block and takes effect there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if caught and callable(before):
        before(signal.SIGINT, None)


def save(model: ir.Model, path: str | Path, *, like: ir.Model | None = None) -> None:
    """Write a model; what stood there is replaced only when everything is written.

    Weights go to one external file "<name>.data" beside the model when any of the model's weights are external,
    when it would exceed what one file can hold, or when those of ``like``, the original, are; its own files are safe.

    Raises:
        InputError: The folder cannot be written, or external data of ``like`` would be overwritten.
    """
    path = Path(path)
    check_output(path.with_name(f"{path.name}.data"), *(external_files(like) if like is not None else ()))
    external = any(has_external(m) for m in (model, like) if m is not None) or weight_bytes(model) > _PROTOBUF_LIMIT
    data = f"{path.name}.data" if external else None
    with staged(path) as folder:
        ir.save(cloned(model), folder / path.name, format="protobuf", external_data=data)
