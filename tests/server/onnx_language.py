"""The language (language.py) as the ONNX files of a captioner, which run on a device and say the same."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from resonnx_export.graphs.row_graphs import row_graphs
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import decode_all
from resonnx_server.runtime.decoding.sequence import pack_captions
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import CPU, Candidate, Session

from .language import STATES, TOP, VOCABULARY, Language, picture, spec


def onnx_files(seed: int = 0) -> dict[str, bytes]:
    """encoder.onnx, decoder.onnx and the graphs that put rows in order."""
    decoder = _decoder(Language(seed).table)
    return {"encoder.onnx": _encoder(), "decoder.onnx": decoder, **row_graphs(decoder)}


def manifest() -> pb.Manifest:
    """What the server must know of them."""
    captioner = spec(attention_rows=2, attention_columns=2)
    return pb.Manifest(task=pb.TASK_CAPTIONER, input=pb.ImageInput(width=1, height=1), captioner=captioner)


def open_language(files: dict[str, bytes]) -> CaptionerGraphs:
    """Open them on the CPU provider."""
    candidate = Candidate(CPU, pb.PRECISION_FP32)
    encoder, decoder = (Session(files[name], candidate, 1) for name in ("encoder.onnx", "decoder.onnx"))
    return CaptionerGraphs(encoder, decoder, manifest())


def version_files(seed: int = 0) -> tuple[VersionFiles, Golden]:
    """The language as a version, and golden captions of four pictures."""
    images = np.stack([picture(number) for number in range(1, 5)])
    files = onnx_files(seed)
    tokens, log_probs = pack_captions(decode_all(open_language(files), images, spec()), spec())
    whole = manifest()
    for name in ("encoder.onnx", "decoder.onnx"):
        whole.precisions.add(file=name, precision=pb.PRECISION_FP32, max_deviation=1e-3)
    return VersionFiles("identity", files, whole), Golden(images=images, tokens=tokens, log_probs=log_probs)


def _encoder() -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 1, 1, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", 1]) for name in ("state_0", "feature_0")]
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["bytes"]),
        helper.make_node("Cast", ["bytes"], ["numbers"], to=TensorProto.INT64),
        helper.make_node("MatMul", ["numbers", "places"], ["feature_0"]),
        helper.make_node("Mul", ["feature_0", "seven"], ["state_0"]),
    ]
    constants = {"flat": np.array([-1, 3]), "places": np.array([[1], [256], [0]]), "seven": np.array([7])}
    return _model(nodes, [image], outputs, constants)


def _decoder(table: np.ndarray) -> bytes:
    inputs = [helper.make_tensor_value_info("token", TensorProto.INT64, ["n"])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", 1]) for name in ("state_0", "feature_0")]
    outputs = [
        helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["n", VOCABULARY]),
        helper.make_tensor_value_info("top_log_probs", TensorProto.FLOAT, ["n", TOP]),
        helper.make_tensor_value_info("top_ids", TensorProto.INT64, ["n", TOP]),
        helper.make_tensor_value_info("next_state_0", TensorProto.INT64, ["n", 1]),
        helper.make_tensor_value_info("attention", TensorProto.FLOAT, ["n", 4]),
    ]
    nodes = [
        helper.make_node("Mul", ["state_0", "by_state"], ["a"]),
        helper.make_node("Unsqueeze", ["token", "one"], ["column"]),
        helper.make_node("Mul", ["column", "by_token"], ["b"]),
        helper.make_node("Mul", ["feature_0", "by_feature"], ["c"]),
        helper.make_node("Add", ["a", "b"], ["ab"]),
        helper.make_node("Add", ["ab", "c"], ["abc"]),
        helper.make_node("Add", ["abc", "one"], ["sum"]),
        helper.make_node("Mod", ["sum", "states"], ["next_state_0"]),
        helper.make_node("Squeeze", ["next_state_0", "one"], ["past"]),
        helper.make_node("Gather", ["table", "past"], ["log_probs"], axis=0),
        helper.make_node("TopK", ["log_probs", "top"], ["top_log_probs", "top_ids"], axis=1),
        helper.make_node("Cast", ["next_state_0"], ["looked"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["looked"] * 4, ["attention"], axis=1),
    ]
    constants = {
        "by_state": np.array([131]),
        "by_token": np.array([17]),
        "by_feature": np.array([3]),
        "one": np.array([1]),
        "states": np.array([STATES]),
        "top": np.array([TOP]),
        "table": table,
    }
    return _model(nodes, inputs, outputs, constants)


def _model(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> bytes:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "language", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
