"""Makes every file of this folder: trains a small CNN on Fashion-MNIST, exports it, writes the image sets.

    python examples/make_example.py --data DIR

DIR holds the four IDX files of Fashion-MNIST (plain or .gz); the default is where Debian's package
`dataset-fashion-mnist` puts them. Needs torch, onnx and onnxscript; minutes on two CPU cores.
"""

import argparse
import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION_IMAGES = 256
TEST_IMAGES = 4000
BATCH = 128


def read_idx(folder: Path, stem: str) -> npt.NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, compressed or not."""
    packed = folder / f"{stem}.gz"
    raw = gzip.decompress(packed.read_bytes()) if packed.is_file() else (folder / stem).read_bytes()
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{stem} is not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape.tolist())


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with batch normalisation and no activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions added to a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv(inputs, inner, stride=stride)
        self.second = conv(inner, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class Branches(nn.Module):
    """Three parallel paths (1x1; 1x1 then depthwise; 3x3), concatenated, then normalised together."""

    def __init__(self, inputs: int, each: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(inputs, each, 1, bias=False)
        self.reduce = conv(inputs, each, 1)
        self.depthwise = nn.Conv2d(each, each, 3, padding=1, groups=each, bias=False)
        self.full = nn.Conv2d(inputs, each, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3 * each)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        reduced = functional.relu(self.reduce(x))
        joined = torch.cat([self.point(x), self.depthwise(reduced), self.full(x)], dim=1)
        return functional.relu(self.norm(joined))


class Separable(nn.Module):
    """A depthwise 3x3 then a 1x1 convolution, with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = conv(inputs, inputs, stride=stride, groups=inputs)
        self.point = conv(inputs, outputs, 1)
        self.same = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.point(functional.relu(self.depthwise(x)))
        return functional.relu(x + y if self.same else y)


class Net(nn.Module):
    """The example network: images in [0, 1] to ten logits; it normalises its input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 32)
        self.body = nn.Sequential(
            Residual(32, 48, 48, stride=2),
            Branches(48, 32),
            Separable(96, 128, stride=2),
            Residual(128, 64, 128),
            Separable(128, 128),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Classify a batch of images."""
        x = functional.relu(self.stem((image - 0.286) / 0.353))
        x = functional.adaptive_avg_pool2d(self.body(x), 1).flatten(1)
        logits: Tensor = self.head(x)
        return logits


def augment(images: Tensor) -> Tensor:
    """Flip half of the images and shift each by up to two pixels."""
    count, _, height, width = images.shape
    flip = (torch.rand(count) < 0.5).view(-1, 1, 1, 1)
    padded = functional.pad(torch.where(flip, images.flip(3), images), (2, 2, 2, 2))
    rows = torch.randint(0, 5, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 5, (count, 1)) + torch.arange(width)
    return padded[torch.arange(count).view(-1, 1, 1), 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def accuracy(predict: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy, in percent, of a function from images to logits."""
    hits = 0
    for start in range(0, len(images), 500):
        logits = predict(images[start : start + 500].float() / 255)
        hits += int((logits.argmax(1) == labels[start : start + 500]).sum())
    return 100 * hits / len(labels)


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with SGD, one learning-rate cycle and light augmentation."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    steps = len(images) // BATCH
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, total_steps=epochs * steps, pct_start=0.25, cycle_momentum=False
    )
    for epoch in range(epochs):
        net.train()
        began, total = time.perf_counter(), 0.0
        order = torch.randperm(len(images))
        for step in range(steps):
            pick = order[step * BATCH : (step + 1) * BATCH]
            batch = augment(images[pick].float() / 255).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(net(batch), labels[pick], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            cycle.step()
            total += loss.item()
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)


def export(net: nn.Module, path: Path) -> None:
    """Write the network as one ONNX file with a dynamic batch, without the exporter's source traces."""
    net.eval()
    torch.onnx.export(
        net.to(memory_format=torch.contiguous_format),
        (torch.rand(2, 1, 28, 28),),
        path,
        input_names=["image"],
        output_names=["logits"],
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    for item in (model, model.graph, *model.graph.node, *model.graph.value_info):
        item.ClearField("metadata_props")
    for item in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        item.ClearField("metadata_props")
    model.doc_string = "Fashion-MNIST classifier; trained by examples/make_example.py"
    properties = {"data": "Fashion-MNIST (MIT licence)", "input": "grey images in [0, 1]"}
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def onnx_predict(path: Path) -> Callable[[Tensor], Tensor]:
    """Open the exported file as a function from images to logits."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the example network.")
    parser.add_argument("--data", type=Path, default=DEBIAN_DIR, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="more help only while the cores are free")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    def load(stem: str) -> Tensor:
        return torch.from_numpy(read_idx(args.data, stem).copy())

    images, labels = load("train-images-idx3-ubyte").unsqueeze(1), load("train-labels-idx1-ubyte").long()
    test, answers = load("t10k-images-idx3-ubyte").unsqueeze(1), load("t10k-labels-idx1-ubyte").long()
    net = Net().to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters")
    began = time.perf_counter()
    train(net, images, labels, args.epochs)
    print(f"trained in {time.perf_counter() - began:.0f} s")
    net.eval()
    with torch.inference_mode():
        print(f"torch accuracy: {accuracy(net, test, answers):.2f} % on {len(test):,} test images")

    args.out.mkdir(parents=True, exist_ok=True)
    export(net, args.out / "fashion.onnx")
    sample = images[torch.randperm(len(images))[:CALIBRATION_IMAGES]].float() / 255
    np.savez_compressed(args.out / "calibration.npz", image=sample.numpy())
    subset, truth = test[:TEST_IMAGES], answers[:TEST_IMAGES]
    np.savez_compressed(args.out / "test.npz", image=(subset.float() / 255).numpy(), labels=truth.numpy())
    predict = onnx_predict(args.out / "fashion.onnx")
    for name, x, y in (("all", test, answers), ("test.npz", subset, truth)):
        print(f"ONNX accuracy: {accuracy(predict, x, y):.2f} % on {len(x):,} images ({name})")
    for name in ("fashion.onnx", "calibration.npz", "test.npz"):
        print(f"{name}: {(args.out / name).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
