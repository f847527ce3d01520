"""What the benchmarks share: machine and versions, tables, and jobs in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MARK = "RESULT "
PACKAGES = (
    "graphprune",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "numpy",
    "torch",
    "torchvision",
    "transformers",
    "onnxsim",
    "torch-pruning",
)

Row = dict[str, Any]


def machine() -> dict[str, str]:
    """Processor, cores, memory, system and Python of this machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that matter, "-" for one that is not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def fingerprint() -> str:
    """Short hash of graphprune's sources, so that rows measured with different code can be told apart."""
    import graphprune

    root = Path(graphprune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def other_sources(rows: Sequence[Row]) -> str:
    """How many rows were measured with other sources than these, in a line; empty when none was."""
    sources = fingerprint()
    others = [row["sources"] for row in rows if row.get("sources", sources) != sources]
    return (
        f"{len(others)} of {len(rows)} rows are of other sources: {', '.join(sorted(set(others)))}.\n" if others else ""
    )


def header(title: str) -> str:
    """Title, machine and versions as markdown."""
    lines = [f"# {title}", "", ", ".join(f"{k} {v}" for k, v in machine().items()), ""]
    lines += [", ".join(f"{k} {v}" for k, v in versions().items()) + f" (sources {fingerprint()})", ""]
    return "\n".join(lines)


def table(rows: Iterable[Sequence[object]], names: Sequence[str]) -> str:
    """A markdown table whose columns line up in a terminal too."""
    cells = [[str(c).replace("|", "/").replace("\n", " ") for c in row] for row in rows]
    widths = [max([len(n), *(len(row[i]) for row in cells)]) for i, n in enumerate(names)]
    right = [bool(cells) and all(_number(row[i]) for row in cells) for i in range(len(names))]

    def line(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return "| " + " | ".join(parts) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([line(list(names)), rule, *map(line, cells)])


def _number(cell: str) -> bool:
    return re.fullmatch(r"-?|[\d.,]+(e[-+]?\d+)?( %)?( \(floor\))?", cell) is not None


def write_results(name: str, text: str, data: object) -> None:
    """Write a report and its data under `benchmarks/results/`."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text.rstrip() + "\n")
    everything = {"machine": machine(), "versions": versions(), "sources": fingerprint(), "data": data}
    (RESULTS / f"{name}.json").write_text(json.dumps(everything, indent=1) + "\n")
    print(f"\nwritten: benchmarks/results/{name}.md and .json", flush=True)


def emit(result: Mapping[str, Any]) -> None:
    """Hand a (partial) result to the process that started this one; the last one counts."""
    print(f"\n{MARK}{json.dumps(result)}", flush=True)


def run_job(module: str, job: Mapping[str, Any], timeout: float) -> Row:
    """Run `python -m module --worker JOB` and return what it emitted last, with the reason if it was cut off."""
    command = [sys.executable, "-m", module, "--worker", json.dumps(job)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
        out, broken = done.stdout, ""
        if done.returncode:
            last = [line for line in done.stderr.strip().splitlines() if line.strip()] or [""]
            broken = f"the process ended with code {done.returncode}: {last[-1][:400]}"
    except subprocess.TimeoutExpired as error:
        out = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        broken = f"no result after {timeout:.0f} s"
    found = [line for line in out.splitlines() if line.startswith(MARK)]
    row: Row = json.loads(found[-1].removeprefix(MARK)) if found else {}
    row["total_seconds"] = round(time.perf_counter() - started, 2)
    if broken:
        row["broken"] = f"{broken} (during {row.get('phase', 'start')})"
    return row


def watched(command: Sequence[str]) -> Row:
    """Seconds, peak resident bytes as the kernel counts them, the part in no mapped file and the output of a process.

    Raises:
        RuntimeError: The process failed; with what it wrote to stderr.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = own = 0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        found = {n: int(v.split()[0]) for n, _, v in (s.partition(":") for s in lines) if n in ("VmHWM", "RssAnon")}
        peak, own = max(peak, found.get("VmHWM", 0)), max(own, found.get("RssAnon", 0))
        time.sleep(0.01)
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), "peak": peak * 1024, "own": own * 1024, "out": out}


def peak_kib() -> int:
    """Most memory this process ever held; what its parent held before it was started does not count where known."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak[0]) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cache_dir() -> Path:
    """Where rows are kept between runs: `$GRAPHPRUNE_BENCH` or a folder beside the zoo."""
    return Path(os.environ.get("GRAPHPRUNE_BENCH") or Path.home() / ".cache" / "graphprune" / "bench")


def cached_job(
    module: str,
    job: Mapping[str, Any],
    timeout: float,
    *,
    fresh: bool = False,
    redo: Callable[[Row], bool] = lambda _: False,
) -> Row:
    """`run_job`, once per (file, options): a row that is there already is returned as it is.

    Args:
        module: Module that knows the job.
        job: What to do; its "path" names the file, or whatever else it is about.
        timeout: Seconds after which the process is ended.
        fresh: Measure again in any case.
        redo: Says of an old row whether it must be measured again.
    """
    path = Path(job["path"])
    told = {**job, "path": path.name}
    if path.is_absolute():
        stat = path.stat()
        told |= {"size": stat.st_size, "mtime": stat.st_mtime_ns}
    key = hashlib.sha256(json.dumps([module, told], sort_keys=True).encode()).hexdigest()[:12]
    place = cache_dir() / f"{path.stem}.{job['kind']}.{key}.json"
    if place.exists() and not fresh:
        row: Row = json.loads(place.read_text())
        if not redo(row):
            return row
    row = run_job(module, job, timeout)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".part")
    partial.write_text(json.dumps(row, indent=1) + "\n")
    partial.replace(place)
    return row
