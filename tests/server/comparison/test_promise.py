"""What a comparison promises, with an exported model: a class that is too strong is found, an equal version passes."""

import re
import shutil
import time
from pathlib import Path

import grpc
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc, vision_pb2, vision_pb2_grpc
from resonnx_server.runtime.model_files.golden_examples import Golden, dump_golden, parse_golden
from resonnx_server.runtime.model_files.manifest import parse_manifest, sha256sums

_GUIDE = Path(__file__).parents[3] / "docs/operations.md"
_ANSWERS = 2000


def advised() -> str:
    """Return the rule that the documents advise for a version with the same weights."""
    found = re.search(r"\| the same weights:[^|]*\| `([^`]+)` \|", _GUIDE.read_text())
    assert found is not None
    return found[1]


def strengthen(version: Path, label: str) -> None:
    """Multiply the weights of one class by 1.5, as a sound export of such a network would have them."""
    index = [*parse_manifest((version / "manifest.json").read_bytes()).classifier.labels].index(label)
    model = onnx.load(version / "model.onnx")
    (head,) = [node for node in model.graph.node if "logits" in node.output]
    weights = {each.name: each for each in model.graph.initializer}
    found = next(weights[name] for name in head.input if name in weights and len(weights[name].dims) == 2)
    array = numpy_helper.to_array(found).copy()
    is_transposed = any(each.name == "transB" and each.i for each in head.attribute)
    (array if is_transposed else array.T)[index] *= 1.5
    found.CopyFrom(numpy_helper.from_array(array, found.name))
    content = model.SerializeToString()
    golden = parse_golden((version / "golden.npz").read_bytes())
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"image": golden.images})[0]
    files = {path.name: path.read_bytes() for path in version.iterdir() if path.name != "SHA256SUMS"}
    changed = Golden(images=golden.images, logits=logits, encoded=golden.encoded)
    files |= {"model.onnx": content, "golden.npz": dump_golden(changed)}
    files["SHA256SUMS"] = sha256sums(files)
    for name, data in files.items():
        (version / name).write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("is_strong", [True, False], ids=["one class 1.5 times as strong", "identical"])
def test_a_demo_model_is_decided_within_2000_answers(
    start_server,
    demo_repository: Path,
    samples: Path,
    truth: dict[str, dict[str, str]],
    tmp_path: Path,
    is_strong: bool,
) -> None:
    shutil.copytree(demo_repository / "digits", tmp_path / "digits")
    names = [name for name, its in truth.items() if its["model"] == "digits"]
    pictures = [np.asarray(Image.open(samples / name).convert("RGB")) for name in names]
    random = np.random.default_rng(0)
    with start_server(tmp_path, "--admin-port", "0") as server, grpc.insecure_channel(server.grpc) as channel:
        vision = vision_pb2_grpc.VisionStub(channel)
        with grpc.insecure_channel(server.admin) as admin_channel:
            admin = repository_pb2_grpc.RepositoryStub(admin_channel)
            shutil.copytree(tmp_path / "digits/1", tmp_path / "digits/2")
            if is_strong:
                # One of the classes that are asked for.
                strengthen(tmp_path / "digits/2", truth[names[0]]["label"])
            shadow = {"model": "digits", "version": 2, "mode": pb.COMPARISON_MODE_SHADOW, "share": 1}
            admin.StartComparison(pb.StartComparisonRequest(**shadow, promote_if=advised()), timeout=60)
            ends = time.monotonic() + 240
            state = pb.COMPARISON_STATE_RUNNING
            while state == pb.COMPARISON_STATE_RUNNING:
                assert time.monotonic() < ends
                for _ in range(50):
                    picture = pictures[random.integers(len(pictures))].astype(np.int16)
                    noisy = np.clip(picture + random.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)
                    raw = {"rgb": noisy.tobytes(), "width": noisy.shape[1], "height": noisy.shape[0]}
                    vision.Classify(vision_pb2.ClassifyRequest(model="digits", image={"raw": raw}), timeout=20)
                (told,) = admin.Status(pb.StatusRequest(model="digits"), timeout=20).comparisons
                state = told.state
    expected = pb.COMPARISON_STATE_ROLLED_BACK if is_strong else pb.COMPARISON_STATE_PROMOTED
    assert state == expected, told
    assert told.answers <= _ANSWERS + 16
    assert told.dropped < told.answers
