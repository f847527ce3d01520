"""Criteria: how much each unit matters. One criterion per file."""

from graphprune.importance.base import CRITERIA, MEASURED, Criterion, score
from graphprune.importance.slices import Scores, Slices

__all__ = ["CRITERIA", "MEASURED", "Criterion", "Scores", "Slices", "score"]
