"""Benchmarks of graphprune: not part of the installed package."""
