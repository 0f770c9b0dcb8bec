"""Classifiers that are ONNX files: the graph with preprocessing equals the file after preprocessing by numpy."""

import hashlib
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from resonnx_export.errors import BadInput
from resonnx_export.onnx_files import reading
from resonnx_export.onnx_files.recognised import grafted, recognise_onnx
from resonnx_export.pictures.recipe import IMAGENET_MEAN, IMAGENET_STD, image_input
from resonnx_server.runtime.model_files.files import read_regular

from ...server.public_networks import CLASSES, public_network
from .graphs import SIZE, SOFTMAX, opened


def _run(content: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _squeeze() -> onnx.ModelProto:
    """Ends with a convolution, a pool and a softmax over [N,K,1,1], as SqueezeNet."""
    rng = np.random.default_rng(1)
    shapes = {"w0": (5, 3, 3, 3), "w1": (CLASSES, 5, 1, 1)}
    weights = [numpy_helper.from_array(rng.normal(0, 1, shape).astype(np.float32), n) for n, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["c1"], ["p"]),
        helper.make_node("Softmax", ["p"], ["y"], axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES, 1, 1])
    graph = helper.make_graph(nodes, "squeeze", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _log_softmax() -> onnx.ModelProto:
    """Of a fixed batch, also in a shape, as torch.onnx.export writes it."""
    rng = np.random.default_rng(2)
    arrays = {
        "w0": rng.normal(0, 1, (4, 3, 3, 3)),
        "w1": rng.normal(0, 1, (CLASSES, 4)),
        "c": rng.normal(0, 1, CLASSES),
    }
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c0"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["flat"], allowzero=1),
        helper.make_node("Gemm", ["flat", "w1", "c"], ["g"], transB=1),
        helper.make_node("LogSoftmax", ["g"], ["y"], axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *SIZE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES])
    weights.append(numpy_helper.from_array(np.array([1, 4]), "shape"))
    graph = helper.make_graph(nodes, "fixed", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _last(network: onnx.ModelProto, channels_last: bool = True) -> onnx.ModelProto:
    """The same with pictures [N,H,W,C], of free size."""
    shape = network.graph.input[0].type.tensor_type.shape
    height, width = shape.dim[2].dim_value, shape.dim[3].dim_value
    for dim, size in zip(shape.dim[1:], (height, width, 3), strict=True):
        dim.dim_value = size
    network.graph.node.insert(0, helper.make_node("Transpose", ["data"], ["first"], perm=[0, 3, 1, 2]))
    for node in network.graph.node[1:]:
        node.input[:] = ["first" if name == "data" else name for name in node.input]
    return network


def _constants(network: onnx.ModelProto) -> onnx.ModelProto:
    """With weights in Constant nodes."""
    for tensor in [*network.graph.initializer]:
        network.graph.initializer.remove(tensor)
        network.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    return network


# By kind: the file, its end's activation, features, and the recipe.
KINDS: dict[str, tuple[onnx.ModelProto, str | None, int, dict[str, object]]] = {
    "opset 7": (public_network("alexnet", 7, 1), "softmax", 16, {}),
    "grey": (public_network("lenet", 9, "N"), None, 8 * 49, {"mean": (0.4,) * 3, "std": (0.3,) * 3}),
    "four at a time": (public_network("vgg", 20, 4), None, 16, {}),
    "BGR": (public_network("googlenet", 13, "N"), "softmax", 16, {"channel_order": "bgr", "scale": "255"}),
    "channels last": (_last(public_network("vgg", 17, "N")), None, 16, {}),
    "constants": (_constants(public_network("vgg", 13, "N")), None, 16, {}),
    "no linear layer": (_squeeze(), "softmax", CLASSES, {}),
    "fixed shapes": (_log_softmax(), "softmax", 4, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_equals_the_file_after_preprocessing(tmp_path: Path, kind: str) -> None:
    model, activation, features, options = KINDS[kind]
    network = opened(model, tmp_path)
    form = network.form
    assert (form.activation, network.num_classes, network.feature_size) == (activation, CLASSES, features)
    size = form.size or SIZE
    mean, std = (options.get("mean", IMAGENET_MEAN), options.get("std", IMAGENET_STD))
    scale = 1 if options.get("scale") == "255" else 255
    if scale == 1:
        mean, std = (104.0, 117.0, 123.0), (58.0, 57.0, 57.0)
    recipe = image_input(size, resize_short_side=None, **{**options, "mean": mean, "std": std})  # type: ignore[arg-type]
    images = np.random.default_rng(5).integers(0, 256, (5, *size, 3), np.uint8)
    pixels = images[..., ::-1] if options.get("channel_order") == "bgr" else images
    if form.channels == 1:
        pixels = np.stack([np.asarray(Image.fromarray(image).convert("L"))[..., None] for image in images])
        mean, std = mean[:1], std[:1]  # type: ignore[index]
    given = ((pixels / scale - np.array(mean)) / np.array(std)).astype(np.float32)
    given = np.ascontiguousarray(given if form.channels_last else given.transpose(0, 3, 1, 2))
    step = form.batch or 5
    given = np.resize(given, (-(-5 // step) * step, *given.shape[1:]))
    content = (tmp_path / "model.onnx").read_bytes()
    parts = [_run(content, {form.input: given[i : i + step]})[form.output] for i in range(0, len(given), step)]
    expected = np.concatenate(parts)[:5].reshape(5, -1)
    assert expected.std(axis=0).max() > 1e-4, "pictures differ"

    exported = grafted(network, recipe, SOFTMAX)
    found = _run(exported, {"image": images})
    assert {name: array.shape for name, array in found.items()} == {
        "probabilities": (5, CLASSES),
        "logits": (5, CLASSES),
        "features": (5, features),
    }
    if kind == "fixed shapes":
        expected = np.exp(expected)
    np.testing.assert_allclose(found["probabilities" if activation else "logits"], expected, rtol=1e-4, atol=1e-5)
    exponents = np.exp(found["logits"] - found["logits"].max(axis=1, keepdims=True))
    softmax = exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], softmax, rtol=1e-4, atol=1e-6)
    alone = _run(exported, {"image": images[:1]})["logits"]
    np.testing.assert_allclose(alone, found["logits"][:1], rtol=1e-4, atol=1e-5)
    assert recognise_onnx(network).parameters > 50 or kind == "constants"


def test_an_output_is_chosen_by_its_number_of_classes_or_its_name(tmp_path: Path) -> None:
    model = public_network("googlenet", 13, "N")
    pooled, logits = model.graph.node[-3].input[0], model.graph.node[-3].output[0]
    model.graph.output.append(onnx.ValueInfoProto(name=pooled))
    assert opened(model, tmp_path, classes=CLASSES).form.output == "prob"
    assert opened(model, tmp_path, output="prob").form.output == "prob"
    assert opened(model, tmp_path, output=pooled).form.output == pooled
    with pytest.raises(BadInput, match="several outputs"):
        opened(model, tmp_path)
    with pytest.raises(BadInput, match="--output none: the graph's outputs are 'prob'"):
        opened(model, tmp_path, output="none")
    # Logits and their probabilities are one answer.
    model.graph.output[1].name = logits
    form = opened(model, tmp_path).form
    assert (form.output, form.logits, form.activation) == ("prob", logits, "softmax")


def test_the_checksum_is_of_the_bytes_that_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    content = public_network("lenet", 13, "N").SerializeToString()
    path.write_bytes(content)

    def then_replaced(path: Path) -> bytes:
        read = read_regular(path)
        path.write_bytes(b"another file")
        return read

    monkeypatch.setattr(reading, "read_regular", then_replaced)
    (file,) = reading.read_onnx(path).files
    assert (file.name, file.size) == ("model.onnx", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()


def _gemm(*after: onnx.NodeProto) -> onnx.ModelProto:
    """Logits "g" [N,CLASSES] of a pool and a matrix, and what follows."""
    arrays = {"w": np.random.default_rng(5).normal(0, 1, (CLASSES, 3)).astype(np.float32)}
    arrays |= {"pairs": np.array([0, CLASSES // 2, 2]), "flat": np.array([0, CLASSES])}
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["g"], transB=1),
        *after,
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, *SIZE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "gemm", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_softmax_of_groups_is_not_one_of_all_classes(tmp_path: Path) -> None:
    node = helper.make_node
    grouped = [
        node("Reshape", ["g", "pairs"], ["r"]),
        node("Softmax", ["r"], ["q"], axis=-1),
        node("Reshape", ["q", "flat"], ["y"]),
    ]
    form = opened(_gemm(*grouped), tmp_path).form
    assert (form.activation, form.logits) == (None, "y")
    whole = [node("Softmax", ["g"], ["q"], axis=-1), node("Reshape", ["q", "flat"], ["y"])]
    form = opened(_gemm(*whole), tmp_path).form
    assert (form.activation, form.logits) == ("softmax", "g")


def test_long_chains_are_followed_in_one_pass(tmp_path: Path) -> None:
    names = ["g", *(f"i{number}" for number in range(6000)), "y"]
    chain = [helper.make_node("Identity", [before], [after]) for before, after in pairwise(names)]
    started = time.process_time()
    assert opened(_gemm(*chain), tmp_path).form.features == "f"
    assert time.process_time() - started < 10
