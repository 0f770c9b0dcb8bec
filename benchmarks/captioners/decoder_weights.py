"""Decoders with their weights in fewer bits, as ONNX Runtime's own tools make them, and as the exporter does."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from resonnx_export.precision.rescored import rescore

# Of MatMulNBits: what products are summed in.
_FP32_SUMS: Final = 1
_INT8_SUMS: Final = 4
_BLOCK: Final = 32


def _dynamic(matmuls: ModelProto, *, output_only: bool = False) -> ModelProto:
    """Weights and activations in int8; the scale of activations is that of the whole batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        nodes = [_output_layer(matmuls)] if output_only else None
        quantize_dynamic(
            matmuls,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes,
        )
        return onnx.load(path)


def _blocks(matmuls: ModelProto, bits: int, sums: int, *, output_only: bool = False) -> ModelProto:
    """Weights in 8 or 4 bits with a scale for each block of 32; activations in fp32, or int8 with scales by block."""
    others = {node.name for node in matmuls.graph.node} - {_output_layer(matmuls)}
    quantizer = MatMulNBitsQuantizer(
        matmuls,
        bits=bits,
        block_size=_BLOCK,
        is_symmetric=True,
        accuracy_level=sums,
        nodes_to_exclude=sorted(others) if output_only else None,
    )
    quantizer.process()
    model: Any = quantizer.model.model
    assert isinstance(model, ModelProto)
    return model


def _fp16(matmuls: ModelProto) -> ModelProto:
    converted = convert_float_to_float16(matmuls, keep_io_types=True)
    assert isinstance(converted, ModelProto)
    return converted


def _bf16(matmuls: ModelProto) -> ModelProto:
    """Products of bf16; everything between them in fp32."""
    graph = matmuls.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            x, w, y = node.input[0], weights[node.input[1]], node.output[0]
            # bf16 is the upper half of float32; half of what is cut off is added for rounding.
            upper = ((numpy_helper.to_array(w).view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
            w.CopyFrom(helper.make_tensor(w.name, TensorProto.BFLOAT16, upper.shape, upper.tobytes(), raw=True))
            node.input[0], node.output[0] = f"{y}_x", f"{y}_product"
            nodes += [
                helper.make_node("Cast", [x], [node.input[0]], to=TensorProto.BFLOAT16),
                node,
                helper.make_node("Cast", [node.output[0]], [y], to=TensorProto.FLOAT),
            ]
        else:
            nodes.append(node)
    _replace(graph.node, nodes)
    return matmuls


_OF_MATMULS: Final[dict[str, Callable[[ModelProto], ModelProto]]] = {
    "int8, dynamic": _dynamic,
    "int8, dynamic, output layer": partial(_dynamic, output_only=True),
    "int8 blocks, fp32 sums": partial(_blocks, bits=8, sums=_FP32_SUMS),
    "int8 blocks, int8 sums": partial(_blocks, bits=8, sums=_INT8_SUMS),
    "int8 blocks, output layer": partial(_blocks, bits=8, sums=_INT8_SUMS, output_only=True),
    "int4 blocks, int8 sums": partial(_blocks, bits=4, sums=_INT8_SUMS),
    "fp16": _fp16,
    "bf16": _bf16,
}
_RESCORED: Final = "int8 blocks, output layer, rescored"
VARIANTS: Final = (*_OF_MATMULS, _RESCORED)


def variant(decoder: bytes, name: str) -> bytes:
    """Return a float32 decoder.onnx with its weights as `name`, one of VARIANTS, has them; the exporter rescores."""
    if name == _RESCORED:
        return rescore(decoder)
    return bytes(_OF_MATMULS[name](_with_matmuls(decoder)).SerializeToString())


def _with_matmuls(decoder: bytes) -> ModelProto:
    """Replace each Gemm by the MatMul and Add that the tools know."""
    model = onnx.load_from_string(decoder)
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        x, w, *bias = node.input
        assert {a.name: a.i for a in node.attribute if a.name.startswith("trans")}.get("transA", 0) == 0
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            transposed = np.ascontiguousarray(numpy_helper.to_array(weights[w]).T)
            weights[w].CopyFrom(numpy_helper.from_array(transposed, w))
        (y,) = node.output
        product = f"{y}_product" if bias else y
        nodes.append(helper.make_node("MatMul", [x, w], [product], name=f"{y}_matmul"))
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], [y], name=f"{y}_add"))
    _replace(graph.node, nodes)
    return model


def _output_layer(matmuls: ModelProto) -> str:
    """Name the product that scores the words: LogSoftmax(product + bias)."""
    maker = {output: node for node in matmuls.graph.node for output in node.output}
    softmax = next(node for node in matmuls.graph.node if node.op_type == "LogSoftmax")
    (product,) = [maker[name] for name in maker[softmax.input[0]].input if name in maker]
    name: str = product.name
    return name


def _replace(nodes: Any, others: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in others]
    del nodes[:]
    nodes.extend(copies)
