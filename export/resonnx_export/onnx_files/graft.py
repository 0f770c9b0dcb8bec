"""Puts preprocessing before an ONNX graph, and the outputs of our classifiers behind it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.graphs import CLASSIFIER_OUTPUTS, IMAGE

from resonnx_export.graphs.node_inputs import tensors_read_by
from resonnx_export.graphs.trace import Activation, finish
from resonnx_export.onnx_files.form import Form
from resonnx_export.pictures.recipe import channel_order, pixel_scale

# Before the names of the file's own tensors.
_PREFIX: Final = "file/"
# The first IR version whose constants need not be inputs.
_LEAST_IR: Final = 4
# Pillow's weights of R, G and B in grey, in units of 1/65536.
_GREY: Final = (19595, 38470, 7471)
_ACTIVATIONS: Final[Mapping[int, tuple[str, dict[str, Any]]]] = {
    pb.ClassifierSpec.ACTIVATION_SOFTMAX: ("Softmax", {"axis": 1}),
    pb.ClassifierSpec.ACTIVATION_SIGMOID: ("Sigmoid", {}),
    pb.ClassifierSpec.ACTIVATION_NONE: ("Identity", {}),
}


def graft(
    content: bytes, form: Form, recipe: pb.ImageInput, classes: int, features: int, activation: Activation
) -> bytes:
    """Return model.onnx: image uint8 [batch,H,W,3] -> probabilities (by `activation`), logits, features.

    Args:
        content: The ONNX file, with a free batch axis and without external data.
        form: Its parts.
        recipe: Normalisation.
        classes: K of the logits.
        features: D of the features.
        activation: Turns logits into probabilities.

    Raises:
        ParityFailed: The graph is not valid ONNX.
    """
    model = onnx.compose.add_prefix(onnx.load_model_from_string(content), _PREFIX)
    tensors = list(model.graph.initializer)
    inner = [node for node in model.graph.node if not _is_weight(node, tensors)]
    before, constants = _preparation(form, recipe)
    logits = _PREFIX + form.logits
    after = [*_rows(logits, "logits")]
    after += (
        [*_rows(_PREFIX + form.features, "features")]
        if form.features
        else [helper.make_node("Identity", ["logits"], ["features"])]
    )
    operator, attributes = _ACTIVATIONS[activation]
    after.append(helper.make_node(operator, ["logits"], ["probabilities"], **attributes))
    nodes = _needed([*before, *inner, *after])
    used = {name for node in nodes for name in tensors_read_by(node)}
    sizes = {"probabilities": classes, "logits": classes, "features": features}
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["batch", recipe.height, recipe.width, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", sizes[name]]) for name in CLASSIFIER_OUTPUTS],
        [tensor for tensor in [*tensors, *constants] if tensor.name in used],
        sparse_initializer=list(model.graph.sparse_initializer),
    )
    return finish(
        helper.make_model(
            graph,
            opset_imports=model.opset_import,
            functions=model.functions,
            ir_version=max(model.ir_version, _LEAST_IR),
        )
    )


def _preparation(form: Form, recipe: pb.ImageInput) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes from uint8 [N,H,W,3], RGB, to the file's input, and their constants."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    current = IMAGE

    def add(operator: str, *more: np.ndarray, **attributes: Any) -> None:
        nonlocal current
        names = [f"constant_{len(constants) + i}" for i in range(len(more))]
        constants.extend(numpy_helper.from_array(array, name) for array, name in zip(more, names, strict=True))
        nodes.append(helper.make_node(operator, [current, *names], [f"prepared_{len(nodes)}"], **attributes))
        current = nodes[-1].output[0]

    # Transposed first: this moves bytes, not floats, and multiplying planes is faster.
    add("Transpose", perm=[0, 3, 1, 2])
    if channel_order(recipe) == "bgr":
        add("Gather", np.array([2, 1, 0]), axis=1)
    add("Cast", to=TensorProto.FLOAT)
    mean, std = np.array(recipe.mean, np.float64), np.array(recipe.std, np.float64)
    if form.channels == 1:
        # As Pillow's convert("L"): sums are exact in float32, below 2^24.
        weights = np.array(_GREY, np.float32).reshape(1, 3, 1, 1)
        add("Conv", weights, np.array([32768], np.float32), kernel_shape=[1, 1])
        add("Mul", np.array(1 / 65536, np.float32))
        add("Floor")
        mean, std = mean[:1], std[:1]
    divisor = 1 if pixel_scale(recipe) == "255" else 255
    # A row for each channel, as in graphs/trace.py.
    for operator, factors in (("Mul", 1 / (divisor * std)), ("Add", -mean / std)):
        add(operator, np.tile(factors.astype(np.float32).reshape(-1, 1, 1), recipe.width))
    if form.channels_last:
        add("Transpose", perm=[0, 2, 3, 1])
    nodes[-1].output[0] = _PREFIX + form.input
    return nodes, constants


def _rows(tensor: str, output: str) -> Iterator[onnx.NodeProto]:
    """Yield nodes that make float32 [N,D] of a tensor."""
    yield helper.make_node("Flatten", [tensor], [f"{output}_flat"], axis=1)
    yield helper.make_node("Cast", [f"{output}_flat"], [output], to=TensorProto.FLOAT)


def _is_weight(node: onnx.NodeProto, tensors: list[onnx.TensorProto]) -> bool:
    """Move the tensor of a Constant node to `tensors`; return whether it had one."""
    values = [each.t for each in node.attribute if each.name == "value"] if node.op_type == "Constant" else []
    for value in values:
        tensors.append(onnx.TensorProto())
        tensors[-1].CopyFrom(value)
        tensors[-1].name = node.output[0]
    return bool(values)


def _needed(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Leave out nodes that no output depends on, such as auxiliary heads."""
    wanted = {*CLASSIFIER_OUTPUTS}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(tensors_read_by(node))
    return kept[::-1]
