"""Folders of files inside published packages: fetched once, checked, and cached beside the single files of `tests`."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.assets import DOWNLOAD_TIMEOUT_S, AssetUnavailable, _download, cache_dir


@dataclass(frozen=True)
class Folder:
    """Some members of a package.

    Attributes:
        name: Name of the cached folder.
        requirement: `pip:name==version`, `npm:name@version` or `deb:name`.
        members: Regular expression that a member's path must contain.
        sha256: Hash over the sorted base names and contents; empty for a package whose version is not pinned.
    """

    name: str
    requirement: str
    members: str
    sha256: str


PHOTOS = r"skimage/data/[a-z_]+\.(png|jpg)$"
FOLDERS = {
    folder.name: folder
    for folder in (
        Folder("foolbox", "pip:foolbox==3.3.4", r"foolbox/data/imagenet_\d+_\d+\.jpg$", "614fda491c113314542e7caed709298bdbeab063efe60e15313bb26b58b5f448"),
        Folder("skimage", "pip:scikit-image==0.26.0", PHOTOS, "d89f2a3790016f47acbabe636410140e81e11b7afa9f1da0ee0132e03850b098"),
        Folder("sklearn", "pip:scikit-learn==1.9.1", r"sklearn/datasets/images/\w+\.jpg$", "8b4e11716528a37d01c1933343635ffbfdd6b5e7019f987bbb26aa116038ee17"),
    )
}


def digest(folder: Path) -> str:
    """Hash over names and contents of a folder's files."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        found.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def folder(name: str) -> Path:
    """Return a folder of `FOLDERS`, fetched on first use.

    Raises:
        AssetUnavailable: The package cannot be had, or its members are not the expected ones.
    """
    wanted = FOLDERS[name]
    place = cache_dir() / "folders" / name
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        packed, ready = Path(scratch) / "packed", Path(scratch) / "ready"
        packed.mkdir()
        ready.mkdir()
        try:
            for path, content in _members(_archive(wanted.requirement, packed), wanted.members):
                (ready / path.rpartition("/")[2]).write_bytes(content)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise AssetUnavailable(f"{name}: {error}") from error
        found = digest(ready)
        if wanted.sha256 and found != wanted.sha256:
            raise AssetUnavailable(f"{name}: SHA-256 is {found}, expected {wanted.sha256}")
        shutil.move(ready, place)
    return place


def _archive(requirement: str, target: Path) -> Path:
    kind, _, name = requirement.partition(":")
    if kind == "pip":
        return _download(name, target)
    commands = {"npm": ["npm", "pack", "--silent", name], "deb": ["apt-get", "-q", "download", name]}
    done = subprocess.run(
        commands[kind], cwd=target, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
    )
    archives = list(target.iterdir())
    if done.returncode or len(archives) != 1:
        raise AssetUnavailable(f"{requirement}: {done.stderr.strip()[-300:] or 'no archive came'}")
    if kind == "deb":
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archives[0])], stdout=(target / "data.tar").open("wb"), check=True)
        return target / "data.tar"
    return archives[0]


def _members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            yield from ((n, wheel.read(n)) for n in wheel.namelist() if re.search(pattern, n))
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isfile() and re.search(pattern, member.name) else None
            if source is not None:
                yield member.name, source.read()
