"""Coupled channels: the rules driven over a graph, and the groups that come out."""
