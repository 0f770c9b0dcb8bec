"""Versions of a classifier that answer with a class of their own, for tests of models that change."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.golden_examples import Golden, dump_golden
from resonnx_server.runtime.model_files.manifest import SCHEMA_VERSION, dump_manifest, sha256sums

SIDE = 8
CLASSES = 256
_FEATURES = SIDE * SIDE * 3


def files(answer: int, *, lies: bool = False) -> dict[str, bytes]:
    """Return the files of a version whose best class is always `answer`.

    Args:
        answer: Below CLASSES.
        lies: Its golden examples are those of another answer, so it is refused.
    """
    weights = np.random.default_rng(0).normal(0, 1e-3, (_FEATURES, CLASSES)).astype(np.float32)
    bias = np.zeros(CLASSES, np.float32)
    bias[answer] = 20
    images = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    logits = images.reshape(2, -1).astype(np.float32) @ weights + (np.roll(bias, 1) if lies else bias)
    manifest = pb.Manifest(
        schema_version=SCHEMA_VERSION,
        task=pb.TASK_CLASSIFIER,
        input=pb.ImageInput(
            width=SIDE,
            height=SIDE,
            resize=pb.ImageInput.RESIZE_STRETCH,
            filter=pb.ImageInput.FILTER_BILINEAR,
            pixel_scale=255,
        ),
        classifier=pb.ClassifierSpec(labels=[f"class {i}" for i in range(CLASSES)], feature_size=_FEATURES),
        precisions=[pb.PrecisionBound(file="model.onnx", precision=pb.PRECISION_FP32, max_deviation=1e-3)],
    )
    found = {
        "model.onnx": _graph(weights, bias),
        "golden.npz": dump_golden(Golden(images=images, logits=logits)),
        "manifest.json": dump_manifest(manifest),
    }
    return {**found, "SHA256SUMS": sha256sums(found)}


def _graph(weights: np.ndarray, bias: np.ndarray) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE, SIDE, 3])
    sizes = {"probabilities": CLASSES, "logits": CLASSES, "features": _FEATURES}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in sizes.items()]
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "flat"], ["features"]),
        helper.make_node("Gemm", ["features", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = {"flat": np.array([-1, _FEATURES]), "weights": weights, "bias": bias}
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "classifier", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return serialized


def write(folder: Path, answer: int, *, lies: bool = False, corrupt: bool = False) -> None:
    """Write a version's folder as careful publishers do: beside its place, then renamed; one that is there goes first.

    Args:
        folder: The version's.
        answer: Its best class.
        lies: Its golden examples do not agree.
        corrupt: A file is cut, so its checksum is wrong.
    """
    staged = folder.parent / f".staged-{folder.name}"
    stage(staged, answer, lies=lies, corrupt=corrupt)
    put(staged, folder)


def stage(staged: Path, answer: int, *, lies: bool = False, corrupt: bool = False) -> Path:
    """Write a version's files to a new folder, as `write`; return it."""
    staged.mkdir(parents=True)
    for name, content in files(answer, lies=lies).items():
        staged.joinpath(name).write_bytes(content[:-100] if corrupt and name == "model.onnx" else content)
    return staged


def put(staged: Path, folder: Path) -> None:
    """Rename a folder to a version's, in place of what is there."""
    if folder.exists():
        old = folder.parent / f".old-{folder.name}"
        folder.rename(old)
        staged.rename(folder)
        shutil.rmtree(old)
    else:
        staged.rename(folder)
