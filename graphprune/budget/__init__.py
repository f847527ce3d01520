"""How much to remove where: targets, constraints and the solver."""
