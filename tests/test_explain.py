"""The dependency graph as a networkx graph and in words."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from graphprune import api
from graphprune.coupling.groups import DependencyGraph
from graphprune.errors import InputError
from tests.commandline import FASHION
from tests.graphs import GRAPHS


@pytest.fixture(scope="module")
def fashion() -> DependencyGraph:
    return api.analyze(Path(FASHION))


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_say_where_each_unit_lies(name: str) -> None:
    """Removing one unit must remove exactly the positions its edges name, on every axis of the graph."""
    deps = api.analyze(GRAPHS[name]())
    graph = deps.graph
    assert nx.is_bipartite(graph)
    for group in deps.groups:
        assert graph.nodes[group.name] == {"kind": "group", "size": group.size, "role": group.kind}
        for place in {0, group.size - 1}:
            cut = deps.cut(group.units[place : place + 1])
            for (tensor, axis), edge in graph[group.name].items():
                assert len(edge["positions"]) == group.size
                kept = cut.kept(tensor, axis)
                gone = np.setdiff1d(np.arange(graph.nodes[tensor, axis]["size"]), kept) if kept is not None else []
                assert edge["positions"][place] == list(gone)


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_and_blocked_axes_are_there(name: str) -> None:
    deps = api.analyze(GRAPHS[name]())
    for group in deps.groups:
        for member in group.members:
            edge = deps.graph.edges[group.name, (member.tensor, member.axis)]
            assert {len(p) for p in edge["positions"]} == {member.rows}
            assert deps.graph.nodes[member.tensor, member.axis]["weight"]
    for b in deps.blocked:
        node = deps.graph.nodes[b.tensor, b.axis]
        assert node["kind"] == "axis"
        assert (node["reason"], node["blocked"], node["size"]) == (str(b.reason), b.positions, b.size)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_name_is_explained(name: str) -> None:
    deps = api.analyze(GRAPHS[name]())
    names = [*(g.name for g in deps.groups), *deps.source.weights, *deps.source.inputs, *deps.source.outputs]
    for known in [*names, *(n.name for n in deps.source.nodes)]:
        assert known in deps.explain(known)


def test_activations_are_in_the_graph(fashion: DependencyGraph) -> None:
    node = fashion.graph.nodes["getitem", 1]
    assert node == {"kind": "axis", "size": 32, "weight": False}
    assert ("image", 1) not in fashion.graph


def test_a_group_in_words(fashion: DependencyGraph) -> None:
    text = fashion.explain("body.0.second.0.weight[1]")
    assert text.startswith("group body.0.second.0.weight[1]: 48 units")
    assert "body.0.first.0.weight axis 0: 1 position per unit, 48 of 48" in text
    assert "through 3 operators: 2 Conv, 1 Relu" in text


def test_a_weight_in_words(fashion: DependencyGraph) -> None:
    text = fashion.explain("head.weight")
    assert text.startswith("weight head.weight (10x128)")
    assert "axis 0: 10 of 10 frozen by graph output logits" in text
    assert "axis 1: 128 of 128 positions cut with group body.3.second.0.weight[0] (128 units)" in text
    assert fashion.explain("head.weight[0]") == "head.weight[0]: " + text.split("axis 0: ")[1].split("\n")[0]


def test_an_activation_and_a_node_in_words(fashion: DependencyGraph) -> None:
    assert "frozen by graph input image" in fashion.explain("image")
    text = fashion.explain("node_Conv_200")
    assert text.startswith("node node_Conv_200: Conv")
    assert "reads body.0.first.0.weight (48x32x3x3)" in text


def test_unknown_names_get_near_ones(fashion: DependencyGraph) -> None:
    with pytest.raises(InputError, match=r"nothing is called 'hed\.weight'; did you mean head\.weight"):
        fashion.explain("hed.weight")
    with pytest.raises(InputError, match="see analyze for the names"):
        fashion.explain("?")
    with pytest.raises(InputError, match="nothing is called"):
        fashion.explain("head.weight[9]")
