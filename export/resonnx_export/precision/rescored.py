"""Converts a decoder's output layer to int8, with fp32 rescoring of its best words.

A step of one row mostly reads this layer's V x H weights. int8 in blocks reads a quarter of the bytes, but cannot rank
close words; so its 64 best words are scored again in float32, which reads 64 x H. The best words have float32's scores;
only the sum that normalises them is rounded. Activations are rounded by row, so rows do not affect each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from resonnx_export.errors import BadInput
from resonnx_export.graphs.trace import finish

# Number of words that are rescored.
RESCORED: Final = 64
# Names of the layer's two tensors in int8. In float32 it is WORDS, or the layer's own weights.
BLOCKS: Final = "output_int8"
SCALES: Final = "output_int8_scales"
WORDS: Final = "output_by_word"

_LOG_PROBS: Final = "log_probs"
_BLOCK: Final = 32
_ZERO: Final = 128
_STEPS: Final = 127
# MatMulNBits' accuracy_level for int8 activations, so that products are summed in integers.
_INT8_SUMS: Final = 4
_DOMAIN: Final = "com.microsoft"
_EXPECTED: Final = (
    "expected log_probs = LogSoftmax(hidden x weights + bias), with weights in two dimensions and an optional bias "
    "stored in the file, by one Gemm or one MatMul"
)


@dataclass(frozen=True)
class OutputLayer:
    """The output layer's nodes, and the names of its tensors: scores [R,V] = hidden [R,H] x weights + bias [V].

    The weights are [V,H] if `by_word`, otherwise [H,V]. The nodes are a Gemm, a MatMul, or a MatMul and an Add.
    """

    nodes: tuple[onnx.NodeProto, ...]
    hidden: str
    weights: str
    by_word: bool
    bias: str | None
    scores: str


def rescore(decoder: bytes) -> bytes:
    """Convert decoder.onnx of trace_decoder to an int8 output layer with fp32 rescoring; same input, same bytes.

    Raises:
        BadInput: The decoder has no such output layer; the message describes the expected layer.
    """
    model = onnx.load_model_from_string(decoder)
    graph = model.graph
    layer = find_output_layer(graph)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = numpy_helper.to_array(stored[layer.weights])
    by_word = weights if layer.by_word else np.ascontiguousarray(weights.T)
    blocks, scales = in_blocks(by_word)
    constants: dict[str, npt.NDArray[Any]] = {
        BLOCKS: blocks,
        SCALES: scales,
        "rescored_count": np.array([min(RESCORED, len(by_word))], np.int64),
        "rescored_axis": np.array([2], np.int64),
    }
    words = layer.weights if layer.by_word else WORDS
    if not layer.by_word:
        constants[words] = by_word
    scoring = _scoring(layer, words, by_word.shape)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node is layer.nodes[-1]:
            nodes += scoring
        elif node.op_type == "TopK" and node.input[0] == _LOG_PROBS:
            nodes += _best_of_rescored(node)
        elif node is not layer.nodes[0]:
            nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return finish(model)


def find_output_layer(graph: onnx.GraphProto) -> OutputLayer:
    """Find the output layer of a decoder's graph. Raises BadInput, which describes it, if there is none."""
    maker = {output: node for node in graph.node for output in node.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    softmax = maker.get(_LOG_PROBS)
    if softmax is None or softmax.op_type != "LogSoftmax":
        raise BadInput(f"the decoder has no output layer that can be rescored: {_EXPECTED}; {_made_by(softmax)}")
    scores = softmax.input[0]
    last = maker.get(scores)
    product, bias = last, None
    if last is not None and last.op_type == "Add":
        biases = [name for name in last.input if name in shapes]
        products = [maker[name] for name in last.input if name in maker]
        if len(biases) == len(products) == 1:
            (bias,), (product,) = biases, products
    if product is None or not _is_product(product, shapes) or (bias is not None and product.op_type == "Gemm"):
        raise BadInput(f"the decoder has no output layer that can be rescored: {_EXPECTED}; {_made_by(last)}")
    assert last is not None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in product.attribute}
    if product.op_type == "Gemm" and len(product.input) > 2 and product.input[2]:
        bias = product.input[2]
    by_word = bool(attributes.get("transB", 0))
    width = shapes[product.input[1]][0 if by_word else 1]
    # Gemm and Add broadcast, so the bias may have another shape, such as one number for all words.
    if bias is not None and shapes.get(bias) != (width,):
        raise BadInput(f"the output layer's bias has the shape {shapes.get(bias)} for {width} words; {_EXPECTED}")
    nodes = (last,) if product is last else (product, last)
    return OutputLayer(nodes, product.input[0], product.input[1], by_word, bias, scores)


def in_blocks(by_word: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Round weights [V,H] to int8 in blocks of 32 with a scale each, w = (q - 128) * scale, as for MatMulNBits.

    The format is that of com.microsoft.MatMulNBits in ONNX Runtime's docs/ContribOperators.md; scale = max|w| / 127.

    Returns:
        q uint8 [V,B,32] with B = ceil(H/32), padded with the code of zero; scales float32 [V,B].
    """
    count, size = by_word.shape
    blocks = -(-size // _BLOCK)
    padded = np.zeros((count, blocks * _BLOCK), np.float32)
    padded[:, :size] = by_word
    parts = padded.reshape(count, blocks, _BLOCK)
    scales = (np.abs(parts).max(axis=2) / _STEPS).astype(np.float32)
    steps = np.rint(parts / np.where(scales, scales, 1)[:, :, None])
    return (steps + _ZERO).astype(np.uint8), scales


def _is_product(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    if node.op_type not in ("Gemm", "MatMul") or len(shapes.get(node.input[1], ())) != 2 or node.input[0] in shapes:
        return False
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return not attributes.get("transA", 0) and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0


def _made_by(node: onnx.NodeProto | None) -> str:
    return "found nothing that makes them" if node is None else f"found {node.op_type}({', '.join(node.input)})"


def _scoring(layer: OutputLayer, words: str, shape: tuple[int, ...]) -> list[onnx.NodeProto]:
    """Return the nodes that score all words in int8, and the best of these again in float32."""
    count, size = shape
    rough, exact = "rough_scores", "rescored"
    again = "rescored_product" if layer.bias else exact
    product = helper.make_node(
        "MatMulNBits",
        [layer.hidden, BLOCKS, SCALES],
        [rough if layer.bias is None else "rough_product"],
        domain=_DOMAIN,
        K=size,
        N=count,
        bits=8,
        block_size=_BLOCK,
        accuracy_level=_INT8_SUMS,
    )
    nodes = [
        product,
        *([helper.make_node("Add", ["rough_product", layer.bias], [rough])] if layer.bias else []),
        helper.make_node("TopK", [rough, "rescored_count"], ["rough_best", "rescored_ids"]),
        helper.make_node("Gather", [words, "rescored_ids"], ["rescored_weights"]),
        helper.make_node("Unsqueeze", [layer.hidden, "rescored_axis"], ["hidden_column"]),
        helper.make_node("MatMul", ["rescored_weights", "hidden_column"], ["rescored_column"]),
        helper.make_node("Squeeze", ["rescored_column", "rescored_axis"], [again]),
    ]
    if layer.bias:
        nodes += [
            helper.make_node("Gather", [layer.bias, "rescored_ids"], ["rescored_bias"]),
            helper.make_node("Add", [again, "rescored_bias"], [exact]),
        ]
    nodes.append(helper.make_node("ScatterElements", [rough, "rescored_ids", exact], [layer.scores], axis=1))
    return _named(nodes)


def _best_of_rescored(top: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes that find the best words among the rescored ones."""
    log_probs, ids = top.output
    return _named(
        [
            helper.make_node("TopK", ["rescored", top.input[1]], ["best_scores", "best_places"]),
            helper.make_node("GatherElements", ["rescored_ids", "best_places"], [ids], axis=1),
            helper.make_node("GatherElements", [_LOG_PROBS, ids], [log_probs], axis=1),
        ]
    )


def _named(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    named = list(nodes)
    for node in named:
        node.name = f"node_{node.output[0]}"
    return named


def scoring_weights(decoder: bytes) -> tuple[str, str]:
    """Return the names of the output layer's int8 scales and float32 weights. Raises BadInput without rescoring."""
    nodes = {node.output[0]: node for node in onnx.load_model_from_string(decoder).graph.node}
    rough = [node for node in nodes.values() if node.op_type == "MatMulNBits"]
    if len(rough) != 1 or "rescored_weights" not in nodes:
        raise BadInput("the decoder's output layer is not in int8 with its best words scored again")
    return rough[0].input[2], nodes["rescored_weights"].input[0]
