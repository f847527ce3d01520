"""Where samples come from: every source becomes a :class:`Samples`, a collection of feeds checked against a graph."""

from graphprune.data.collection import Samples
from graphprune.data.records import Feed
from graphprune.data.sources import given_samples, samples

__all__ = ["Feed", "Samples", "given_samples", "samples"]
