"""Tables and summary lines over measured rows; shared by the zoo and the real files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.common import Row, table

Rows = Mapping[str, Row]  # file → {"ours": row, "onnxsim": row}
NAMES = ("nodes_lost", "nodes_new", "weights_lost", "weights_new")
PEER_WORDS = ("smaller", "stale shapes", "unchanged", "INVALID", "error")
GRAINS = {
    "granularity": "granularity (distinct removable rows over all positions of stored tensors)",
    "free": "free share (the same without positions fixed by the interface, lookup rows, and index tensors)",
}
NEAR = {"1": 0.01}


def failure(row: Row) -> str:
    """Why a row of graphprune has no result at all, "" when it has."""
    return str(row.get("broken") or row.get("error") or "")


def run_failure(row: Row, align: str) -> str:
    """What is wrong with one prune: no result, not proved, groups given up, an invalid or changed file."""
    run = row.get("runs", {}).get(align)
    if run is None:
        return failure(row) or "not measured"
    if "error" in run:
        return " after ".join(str(run[k]) for k in ("error", "infeasible") if k in run)
    if "reached" not in run:
        return str(run["infeasible"])
    found = []
    if not run.get("proven", True):
        found.append(f"groups were given up before {run['infeasible']}")
    if not run["passed"]:
        found.append(f"not verified, relative error {run['rel_error']:.2g}")
    if run["frozen"]:
        found.append(f"groups given up: {', '.join(run['frozen'][:4])}")
    found += [f"{kind}: {run[kind]}" for kind in ("defect", "stale", "interface") if run[kind]]
    return "; ".join(found)


def verified(row: Row, align: str) -> bool:
    """Whether the prune was proved and wrote a valid file with an unchanged interface."""
    run = row.get("runs", {}).get(align, {})
    return bool(run.get("passed")) and not (run["defect"] or run["stale"] or run["interface"])


def on_target(row: Row, align: str, target: float) -> bool:
    """Whether the asked MACs were met, and by no more than the slack that the alignment needs."""
    run = row.get("runs", {}).get(align, {})
    return "floor" not in run and 0 <= target - run.get("reached", 9) <= NEAR.get(align, 0.03) * target


def share(value: float | None, digits: int = 1) -> str:
    """A fraction as percent."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _seconds(row: Row, *steps: str) -> str:
    spent = row.get("seconds", {})
    return f"{sum(spent.get(step, 0.0) for step in steps):.2f}" if spent else "-"


def peer_words(row: Row) -> str:
    """One word on what the peer made of a file."""
    if row.get("broken") or row.get("error"):
        return "error"
    if row.get("defect"):
        return "INVALID"
    ratio = row.get("reached")
    if ratio is not None and ratio > 0.999 and row["bytes"] > 0.99:
        return "unchanged"
    return "stale shapes" if row["stale"] else "smaller"


def main_table(rows: Rows, aligns: Sequence[str]) -> str:
    """One line per file."""
    names = ["file", "nodes", "groups", "units", "granularity", "free share", "prunable MACs"]
    for a in aligns:
        names += [f"MACs left, align {a}", "error", "verdict"]
    names += ["load s", "analysis s", "plan+rewrite s", "verify s", "I/O same", "valid", "names", "peak MB"]
    names += ["onnxsim", "its MACs", "its s"]
    return table((_line(file, both, aligns) for file, both in rows.items()), names)


def _line(file: str, both: Row, aligns: Sequence[str]) -> list[object]:
    row, other = both["ours"], both.get("onnxsim", {})
    runs = [row.get("runs", {}).get(a, {}) for a in aligns]
    cells: list[object] = [file, *(row.get(k, "-") for k in ("nodes", "groups", "units"))]
    cells += [f"{row[k]:.3f}" if row.get(k) is not None else "-" for k in ("granularity", "free")]
    cells.append(share(row.get("prunable")))
    for run in runs:
        floor = " (floor)" if run.get("proven") else ""
        cells.append(share(run.get("reached")) + floor)
        cells.append(f"{run['rel_error']:.0e}" if run.get("rel_error") is not None else "-")
        cells.append(("equal" if run["passed"] else "DIFFERS") if "passed" in run else "FAILED")
    last = runs[-1] if runs else {}
    cells += [_seconds(row, "load"), _seconds(row, "analysis")]
    cells += [_seconds(last, "plan", "rewrite"), _seconds(last, "verify", "bisect")]
    for kinds in (("interface",), ("defect", "stale")):
        known = [run[kind] for run in runs for kind in kinds if kind in run]
        cells.append("-" if not known else "no" if any(known) else "yes")
    cells.append(_name_words([run["names"] for run in runs if "names" in run]))
    cells.append(row.get("rss_mb", "-"))
    if not other:
        return [*cells, "-", "-", "-"]
    ratio = share(other.get("reached")) if peer_words(other) != "INVALID" else "-"
    seconds = other.get("seconds", {}).get("prune")
    return [*cells, peer_words(other), ratio, f"{seconds:.2f}" if seconds is not None else "-"]


def _name_words(found: Sequence[Mapping[str, int]]) -> str:
    """How many names changed, at most over the runs."""
    worst = {name: max((names[name] for names in found), default=0) for name in NAMES}
    return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in worst.items() if n) or "kept"


def summary(rows: Rows, aligns: Sequence[str], target: float) -> str:
    """The counts that matter."""
    mine = {file: both["ours"] for file, both in rows.items()}
    count = len(rows)
    lines = []
    for a in aligns:
        floors = sum(row.get("runs", {}).get(a, {}).get("proven", False) for row in mine.values())
        proved = sum(verified(row, a) for row in mine.values())
        hit = sum(on_target(row, a, target) for row in mine.values())
        lines.append(
            f"- align {a}: {proved} of {count} verified (valid file, interface unchanged, equal to the masked"
            " original);"
            f" {hit} reach {share(target, 0)} MACs within {share(NEAR.get(a, 0.03), 0)};"
            f" {floors} infeasible (pruned to the floor instead)"
        )
    for key, what in GRAINS.items():
        grains = [row[key] for row in mine.values() if row.get(key) is not None]
        if grains:
            enough = sum(g >= 0.8 for g in grains)
            lines.append(f"- {what}: median {median(grains):.3f}, {enough} of {count} at least 0.8")
    peers = [peer_words(both["onnxsim"]) for both in rows.values() if "onnxsim" in both]
    if peers:
        words = ", ".join(f"{peers.count(word)} {word}" for word in PEER_WORDS)
        left = [both["onnxsim"]["reached"] for both in rows.values() if both.get("onnxsim", {}).get("reached")]
        lines.append(
            f"- onnxsim at sparsity 0.5, {len(peers)} files: {words}; MACs left where they can be counted:"
            f" median {share(median(left)) if left else '-'}"
        )
    sources = {row.get("sources", "?") for row in mine.values()}
    if len(sources) > 1:
        lines.append(f"- rows were measured with {len(sources)} states of the sources: {', '.join(sorted(sources))}")
    return "\n".join(lines)


def failures(rows: Rows, aligns: Sequence[str]) -> str:
    """Every failed row with its text."""
    found: dict[tuple[str, str], list[str]] = {}
    for file, both in rows.items():
        for a in aligns:
            text = run_failure(both["ours"], a)
            if text:
                found.setdefault((file, text), []).append(a)
    lines = [(file, "+".join(a), text) for (file, text), a in found.items()]
    return table(lines, ["file", "align", "failure"]) if lines else "none"


def infeasible(rows: Rows, aligns: Sequence[str]) -> str:
    """Files whose target is out of reach, with the lowest share reachable and what is in the way."""
    lines = []
    for file, both in rows.items():
        for a in aligns:
            run = both["ours"].get("runs", {}).get(a, {})
            if run.get("proven"):
                lines.append((file, a, share(run["floor"]), obstacle_words(both["ours"])))
    return table(lines, ["file", "align", "floor", "largest blockers"]) if lines else "none"


def explanations(rows: Rows, below: float = 0.8) -> str:
    """Why granularity is low: shares of all weight elements that are blocked, or leave only in bundles."""
    found = [(f, b["ours"]) for f, b in rows.items() if b["ours"].get("granularity", 1) < below]
    found.sort(key=lambda item: item[1]["granularity"])
    lines = [(file, f"{row['granularity']:.3f}", obstacle_words(row)) for file, row in found]
    return table(lines, ["file", "granularity", "what is missing"]) if lines else "none"


def fixed_macs(rows: Rows) -> str:
    """What would be left of the MACs if every removable unit went, and where."""
    lines = []
    for file, both in rows.items():
        fixed = both["ours"].get("fixed")
        if fixed and fixed["total"] > 0.005:
            places = "; ".join(f"{share(amount)} {node} ({why})" for node, amount, why in fixed["nodes"])
            lines.append((file, share(fixed["total"]), places))
    return table(lines, ["file", "fixed MACs", "largest places"]) if lines else "none"


def obstacle_words(row: Row, limit: int = 5) -> str:
    """The largest obstacles of a row in words."""
    found = [(amount, f"blocked: {name}") for name, amount in row.get("blocked", [])]
    found += [(amount, f"in bundles: {name}") for name, amount in row.get("coarse", [])]
    found.sort(reverse=True)
    return "; ".join(f"{share(amount)} {name}" for amount, name in found[:limit] if amount > 0) or "nothing"


def peer_failures(rows: Rows) -> str:
    """What the peer broke."""
    lines = []
    for file, both in rows.items():
        row = both.get("onnxsim", {})
        text = row.get("broken") or row.get("error") or row.get("defect") or row.get("stale") or ""
        if text:
            lines.append((file, text))
    return table(lines, ["file", "onnxsim"]) if lines else "none"
