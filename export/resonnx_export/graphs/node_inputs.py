"""Finds the tensors that a node of an ONNX graph reads."""

from collections.abc import Iterator

import onnx


def tensors_read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of a node's inputs, also of those inside its branches and loops."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from tensors_read_by(inner)
            yield from (output.name for output in graph.output)
