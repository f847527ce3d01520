"""Prints the top-1 accuracy of ONNX classifiers: `python examples/accuracy.py model.onnx [more.onnx ...]`."""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

BATCH = 250


def accuracy(model: Path, data: dict[str, npt.NDArray[np.generic]]) -> tuple[float, int]:
    """Top-1 accuracy in percent, and the number of images it was measured on (whole batches if fixed).

    Args:
        model: ONNX file with one input and logits or probabilities as its first output.
        data: Images under the name of the model's input, and `labels`.
    """
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].name not in data:
        raise SystemExit(f"{model}: wants inputs {[i.name for i in inputs]}, the data has {sorted(data)}")
    name, fixed = inputs[0].name, inputs[0].shape[0]
    step = fixed if isinstance(fixed, int) else BATCH
    images, labels = data[name], data["labels"]
    count = len(images) - len(images) % step if isinstance(fixed, int) else len(images)
    hits = 0
    for start in range(0, count, step):
        scores = session.run(None, {name: images[start : min(start + step, count)]})[0]
        hits += int((scores.argmax(1) == labels[start : min(start + step, count)]).sum())
    return 100 * hits / count, count


def main() -> None:
    parser = argparse.ArgumentParser(description="Top-1 accuracy of ONNX classifiers on labelled images.")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "test.npz")
    args = parser.parse_args()
    with np.load(args.data) as archive:
        data = {name: archive[name] for name in archive.files}
    for model in args.models:
        size = model.stat().st_size / 1e6
        percent, count = accuracy(model, data)
        print(f"{percent:6.2f} % of {count:,} images  {size:6.2f} MB  {model}", flush=True)


if __name__ == "__main__":
    main()
