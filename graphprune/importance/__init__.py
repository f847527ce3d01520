"""Criteria: how much each unit matters. One criterion per file."""

from graphprune.importance.base import CRITERIA, Criterion, Scores, score

__all__ = ["CRITERIA", "Criterion", "Scores", "score"]
