"""What a pruned module is to do, from what the original does, what its graph does, and what the pruned graph does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from graphprune.graph.torch_record import Event, Recorder

_APART, _AGAIN = 80, 4  # how far two lists may differ, and how many equal calls bring them together again


def expected_events(seen: Recorder, before: Recorder, after: Recorder) -> list[Event]:
    """What a module is to do once it is cut.

    A module may do more when it runs than what was captured of it, such as checks that are skipped while capturing:
    of these calls the operator alone has to stay.

    Args:
        seen: What the original module does.
        before: What its graph does.
        after: What the pruned graph does.
    """
    cut: dict[str, list[Event]] = {}
    for node, event in zip(after.makers, after.events, strict=True):
        cut.setdefault(node, []).append(event)
    known, inside = node_places(seen, before)
    out: list[Event] = []
    for i, event in enumerate(seen.events):
        if i in known:
            out.extend(cut.get(known[i], []))
        elif i not in inside:
            out.append(event[:1])
    return out


def node_places(seen: Recorder, before: Recorder) -> tuple[dict[int, str], set[int]]:
    """Where the nodes of a graph lie in what its module does.

    Returns:
        By place in what was seen the node all of whose calls begin there, and the places of their other calls.
    """
    size, first = Counter(before.makers), {node: j for j, node in reversed(list(enumerate(before.makers)))}
    known: dict[int, str] = {}
    inside: set[int] = set()
    for i, j in _aligned(seen.events, before.events):
        node = before.makers[j]
        if first[node] == j and seen.events[i : i + size[node]] == before.events[j : j + size[node]]:
            known[i] = node
            inside.update(range(i + 1, i + size[node]))
    return known, inside


def _aligned(a: Sequence[Event], b: Sequence[Event]) -> Iterator[tuple[int, int]]:
    """Pairs of places of calls that are the same in both, in order."""
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            yield i, j
            i, j = i + 1, j + 1
            continue
        steps = ((k, n - k) for n in range(1, _APART) for k in range(n + 1))
        found = next(((k, m) for k, m in steps if a[i + k : i + k + _AGAIN] == b[j + m : j + m + _AGAIN] != []), None)
        if found is None:
            return
        i, j = i + found[0], j + found[1]
