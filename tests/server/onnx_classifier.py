"""A classifier of few sums as a version's files, for tests of what is done with one at load."""

from types import SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.config import ModelSettings
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.version import Version
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.scheduling.device import Device

FILE = "model.onnx"
_WEIGHTS = np.random.default_rng(0).normal(0, 1, (12, 3)).astype(np.float32)


def golden(count: int = 3) -> Golden:
    """Pictures uint8 [G,2,2,3] and what the classifier must answer."""
    images = np.random.default_rng(1).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    return Golden(images=images, logits=images.reshape(count, 12).astype(np.float32) @ _WEIGHTS)


def files(wrong_at: int = 0) -> VersionFiles:
    """A version, the answers of which are wrong in batches of `wrong_at` rows."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 2, 2, 3])
    sizes = {"probabilities": 3, "logits": 3, "features": 12}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in sizes.items()]
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "flat"], ["features"]),
        helper.make_node("Shape", ["image"], ["rows"], start=0, end=1),
        helper.make_node("Equal", ["rows", "wrong_at"], ["is_wrong"]),
        helper.make_node("Where", ["is_wrong", "wrong_weights", "weights"], ["used"]),
        helper.make_node("MatMul", ["features", "used"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = {
        "flat": np.array([-1, 12]),
        "wrong_at": np.array([wrong_at]),
        "weights": _WEIGHTS,
        "wrong_weights": _WEIGHTS + 1,
    }
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "classifier", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    manifest = pb.Manifest(
        task=pb.TASK_CLASSIFIER,
        input=pb.ImageInput(width=2, height=2),
        classifier=pb.ClassifierSpec(labels=["a", "b", "c"], feature_size=12),
        precisions=[pb.PrecisionBound(file=FILE, precision=pb.PRECISION_FP32, max_deviation=1e-3)],
    )
    return VersionFiles("identity", {FILE: model.SerializeToString()}, manifest)


def version(
    device: Device | None = None, cache: LatencyCache | None = None, threads: int = 2, **settings: object
) -> Version:
    """A version that is loaded."""
    return Version(
        SimpleNamespace(name="m", version=1),  # type: ignore[arg-type]
        ModelSettings(**settings),  # type: ignore[arg-type]
        Metrics(),
        lambda _: device,  # type: ignore[arg-type, return-value]
        threads,
        cache or LatencyCache(None, threads),
    )
