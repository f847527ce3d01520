"""Transforms of signals, and the tables that go with them."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.kinds import no_labels
from graphprune.rules.registry import rule

rule(
    "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", kind="SIZES", note="A table made of settings."
)(no_labels)


@rule("DFT", kind="REINDEX")
def dft(r: Relate) -> None:
    """The transformed axis and the (real, imaginary) axis stay; the others pass."""
    rank = r.rank(0)
    named: list[int] | None = [-2] if r.node.version >= 20 else [int(r.attr("axis", 1))]
    if r.has(2):
        named = r.ints(2)
    out = r.output().shape
    assert out is not None
    axes = r.axes(0)
    for a in range(rank) if named is None else [named[0] % rank, rank - 1]:
        r.freeze(0, a, "it is transformed as a whole")
        axes[a] = r.frozen(out[a], "it is transformed as a whole")
    r.out(axes)


@rule("STFT", kind="REINDEX")
def stft(r: Relate) -> None:
    """Only the batch passes: the signal is cut into frames that are transformed as a whole."""
    for a in range(1, r.rank(0)):
        r.freeze(0, a, "it is cut into frames")
    if r.has(2):
        r.freeze_all(2, "it is the window of the frames")
    out = r.output().shape
    assert out is not None
    r.out([r.axis(0, 0), *(r.frozen(n, "frames are transformed as a whole") for n in out[1:])])
