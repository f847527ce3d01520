"""The neutral graph and its adapters: what the rules read, whatever the file format."""

from graphprune.graph.model import Graph, Node, Value, Weight

__all__ = ["Graph", "Node", "Value", "Weight"]
