"""Operators through which nothing can leave, each with the reason; text and container bookkeeping among them."""

from __future__ import annotations

from graphprune.rules.context import Relate
from graphprune.rules.kinds import no_labels, opaque
from graphprune.rules.registry import rule

_DRAWN = "its numbers are drawn at random, and which ones depends on how many are drawn"
_TEXT = "it works on text, which has no channels"

REASONS = {
    "Bernoulli": _DRAWN,
    "Multinomial": _DRAWN,
    "RandomNormalLike": _DRAWN,
    "RandomUniformLike": _DRAWN,
    "EyeLike": "a matrix of its size is made",
    "ImageDecoder": "it reads an encoded image",
    "MaxUnpool": "its indices count positions of the whole tensor",
    "NonMaxSuppression": "boxes are chosen by their overlap, and their numbers are returned",
    "NonZero": "it returns the positions of its non-zero elements",
    "RegexFullMatch": _TEXT,
    "SequenceMap": "a subgraph runs on each element of a sequence",
    "StringConcat": _TEXT,
    "StringNormalizer": _TEXT,
    "StringSplit": _TEXT,
    "TfIdfVectorizer": "it counts n-grams along its whole input",
    "Unique": "its elements are compared with each other, and their positions are returned",
}


def _opaque(reason: str) -> None:
    def relate(r: Relate) -> None:
        opaque(r, reason)

    rule(*(op for op, why in REASONS.items() if why == reason), kind="OPAQUE", note=reason)(relate)


for _reason in dict.fromkeys(REASONS.values()):
    _opaque(_reason)

rule("OptionalHasElement", "SequenceEmpty", "SequenceLength", kind="SIZES")(no_labels)
