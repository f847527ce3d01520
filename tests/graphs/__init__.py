"""Hand-built ONNX models, one wiring each, with the group sizes a sound analysis should find."""

from tests.graphs import (
    attention,
    attention_forms,
    caches,
    control,
    convnets,
    layouts,
    mlp,
    sequence,
    shapes,
    shuffles,
    swin,
    weights,
    yolo,
)
from tests.graphs.builder import Builder
from tests.graphs.feeds import random_feeds, run
from tests.graphs.registry import AMBIGUOUS, GOLDEN, GRAPHS

FAMILIES = (
    attention,
    attention_forms,
    caches,
    control,
    convnets,
    layouts,
    mlp,
    sequence,
    shapes,
    shuffles,
    swin,
    weights,
    yolo,
)

__all__ = ["AMBIGUOUS", "FAMILIES", "GOLDEN", "GRAPHS", "Builder", "random_feeds", "run"]
