"""Finds the convolutional trunk of a traced graph, the part that is stored in reduced precision.

The trunk has 98 % of a network's operations. The layers after it are more sensitive: on the demonstration digits, int8
changes the logits by 13 % of the largest with the last layer quantised, and by 2 % without.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from resonnx_export.errors import BadInput

_BLOCK: Final = re.compile(r"layer\d+\.\d+")


@dataclass(frozen=True)
class Trunk:
    """The nodes from the first convolution to the feature map.

    Attributes:
        blocks: Names of nodes, in order, by residual block ("layer1.0") or, outside these, by convolution ("conv1").
        inputs: Tensors from outside, except weights: normalised pictures.
        outputs: Tensors used outside: the feature map.
        tail: Names of the last block's nodes after the last convolution.
    """

    blocks: Mapping[str, Sequence[str]]
    inputs: Sequence[str]
    outputs: Sequence[str]
    tail: Sequence[str]

    @property
    def nodes(self) -> list[str]:
        """The names of all nodes, in order."""
        return [name for names in self.blocks.values() for name in names]


def find_trunk(graph: onnx.GraphProto) -> Trunk:
    """Find the trunk of a graph of trace.py, whose nodes are in the order of execution.

    Raises:
        BadInput: The graph has no convolution.
    """
    nodes = list(graph.node)
    convolutions = [i for i, node in enumerate(nodes) if node.op_type == "Conv"]
    if not convolutions:
        raise BadInput("the network has no convolution to store in reduced precision")
    start, end = convolutions[0], convolutions[-1] + 1
    # Up to the activation after the addition (and the gate before it) at the end of the last block.
    while end < len(nodes) and (len(_outputs(graph, start, end)) > 1 or nodes[end].op_type == "Relu"):
        end += 1
    blocks: dict[str, list[str]] = {}
    block = ""
    for node in nodes[start:end]:
        # Additions and activations follow the convolutions of their block, whose weights have its name.
        if node.op_type == "Conv":
            block = _block(node.input[1])
        blocks.setdefault(block, []).append(node.name)
    made = {name for node in nodes[start:end] for name in node.output} | {weight.name for weight in graph.initializer}
    used = dict.fromkeys(name for node in nodes[start:end] for name in node.input if name)
    return Trunk(
        blocks,
        [name for name in used if name not in made],
        _outputs(graph, start, end),
        [node.name for node in nodes[convolutions[-1] + 1 : end]],
    )


def _outputs(graph: onnx.GraphProto, start: int, end: int) -> list[str]:
    """Return the tensors made by the nodes from `start` until `end` that are used elsewhere."""
    outside = [*graph.node[:start], *graph.node[end:]]
    used = {name for node in outside for name in node.input} | {output.name for output in graph.output}
    return [name for node in graph.node[start:end] for name in node.output if name in used]


def _block(weight: str) -> str:
    match = _BLOCK.search(weight)
    return match[0] if match else weight.removeprefix("network.").removeprefix("trunk.").removesuffix(".weight")
