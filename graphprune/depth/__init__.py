"""Depth: which branches to leave out, in competition with widths."""
