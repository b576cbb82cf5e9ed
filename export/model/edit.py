"""Small edits of an ONNX model in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in model.metadata_props}


def names_read(node: onnx.NodeProto) -> set[str]:
    """Every tensor that a node reads, in its subgraphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names.update(value.name for value in graph.output)
            names.update(*(names_read(inner) for inner in graph.node))
    return names


def set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replaces the nodes of a graph, by some of its own too."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def keep_initializers(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Removes the initialisers that are not among `names`."""
    kept = [initializer for initializer in graph.initializer if initializer.name in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
