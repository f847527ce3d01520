"""What a model costs, as exact functions of the kept counts."""

from graphprune.cost.model import CostModel, Costs

__all__ = ["CostModel", "Costs"]
