"""`resonnx-export onnx`: a bare file becomes a model with manifest, golden examples and report, and is served."""

import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import resonnx
from PIL import Image
from resonnx_export.cli import app
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import read_version
from typer.testing import CliRunner, Result

from ...server.public_networks import CLASSES, public_network

MEAN, STD = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.25])
OPTIONS = ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.25", "--stretch")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """AlexNet's shape with a softmax at its end, for one picture, with external data."""
    network = public_network("alexnet", 13, 1)
    onnx.save_model(
        network, tmp_path / "alex.onnx", save_as_external_data=True, location="alex.onnx.data", size_threshold=0
    )
    (tmp_path / "labels.txt").write_text("\n".join(f"class {number}" for number in range(CLASSES)))
    return tmp_path / "alex.onnx"


def _export(file: Path, *options: object) -> Result:
    folder = file.parent
    common = ["--labels", folder / "labels.txt", "--repository", folder / "models", "--name", "alex"]
    return CliRunner().invoke(app, ["onnx", str(file), *map(str, common), *map(str, options)])


def _answers(file: Path, images: np.ndarray, *, bgr: bool = False) -> np.ndarray:
    """Return the logits of the file, the input of its softmax."""
    model = onnx.load(file)
    logits = next(node.input[0] for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(onnx.ValueInfoProto(name=logits))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = images[..., ::-1] if bgr else images
    given = ((given / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    return np.concatenate([session.run([logits], {"data": picture[None]})[0] for picture in given])


def _pictures(count: int = 8) -> np.ndarray:
    return np.random.default_rng(8).integers(0, 256, (count, 63, 63, 3), np.uint8)


def test_a_bare_file_becomes_a_model_that_serves(file: Path, start_server) -> None:
    done = _export(file, *OPTIONS)
    assert done.exit_code == 0, done.output
    assert (
        "equal to the ONNX file in ONNX Runtime, after our reading of its preprocessing; 3 assumptions" in done.stdout
    )
    assert "the file ends with its own softmax" in done.stdout
    version = file.parent / "models/alex/1"
    manifest = read_version(version).manifest
    assert manifest.verified_against == pb.REFERENCE_OUR_READING
    assert (manifest.input.height, manifest.input.width) == (63, 63)
    assert list(manifest.source.file_names) == ["alex.onnx", "alex.onnx.data"]
    assert {each.name for each in manifest.assumptions if not each.confirmed} == {"resizing", "channel-order", "scale"}
    assert [bound.precision for bound in manifest.precisions] == [pb.PRECISION_FP32]
    assert "compared with the ONNX file" in (version / "report.html").read_text()

    verified = CliRunner().invoke(app, ["verify", str(version), "--checkpoint", str(file)])
    assert verified.exit_code == 0, verified.output
    assert "equal to the ONNX file's: 30 checks passed" in verified.stdout
    other = file.with_name("other.onnx")
    onnx.save(public_network("alexnet", 14, 1), other)
    wrong = CliRunner().invoke(app, ["verify", str(version), "--checkpoint", str(other)])
    assert (wrong.exit_code, "exported from other files" in wrong.stderr) == (2, True)

    images = _pictures(3)
    with start_server(file.parent / "models") as server, resonnx.Client(server.grpc) as client:
        for image, logits in zip(images, _answers(file, images), strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            found = client.classify(buffer.getvalue(), "alex", top_k=CLASSES).predictions
            exponents = np.exp(logits - logits.max())
            scores = {f"class {number}": score for number, score in enumerate(exponents / exponents.sum())}
            assert {each.label: each.score for each in found} == pytest.approx(scores, abs=1e-4)


def test_answers_that_agree_are_the_reference(file: Path, tmp_path: Path) -> None:
    images = _pictures()
    np.savez(tmp_path / "answers.npz", pixels=images, logits=_answers(file, images))
    done = _export(file, *OPTIONS, "--expect", tmp_path / "answers.npz")
    assert done.exit_code == 0, done.output
    assert "equal to your answers (8 pictures)" in done.stdout
    assert read_version(tmp_path / "models/alex/1").manifest.verified_against == pb.REFERENCE_USER_ANSWERS


def test_answers_that_disagree_name_the_option(file: Path, tmp_path: Path) -> None:
    images = _pictures()
    np.savez(tmp_path / "answers.npz", pixels=images, logits=_answers(file, images, bgr=True))
    done = _export(file, *OPTIONS, "--expect", tmp_path / "answers.npz")
    assert done.exit_code != 0
    assert "--channel-order bgr" in done.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--activation", "sigmoid"), "--activation sigmoid: the file ends with its own softmax"),
        (("--size", "64"), "the graph takes pictures of 63x63, not of 64x64: leave --size out"),
        (("--output", "data"), "--output data: the graph's outputs are 'prob' [1, 6]"),
    ],
)
def test_options_that_contradict_the_file(file: Path, options: tuple[str, str], reason: str) -> None:
    done = _export(file, *options)
    assert done.exit_code == 2, done.output
    assert reason in done.stderr.splitlines()[-1]
    assert not (file.parent / "models").exists()


def test_external_data_elsewhere_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "alex.onnx.data").rename(tmp_path / "elsewhere")
    assert "its external data 'alex.onnx.data' is missing: put that file beside it" in _export(file).stderr
    (tmp_path / "alex.onnx.data").symlink_to("elsewhere")
    assert "its external data 'alex.onnx.data' is a link, or below one" in _export(file).stderr


def test_labels_are_needed_and_counted(file: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    assert "--labels gives 2 labels for 6 classes" in _export(file).stderr


def test_probabilities_of_an_unknown_end_ask_for_the_activation(tmp_path: Path) -> None:
    network = public_network("alexnet", 13, 1)
    # As some exporters write a softmax.
    softmax = next(node for node in network.graph.node if node.op_type == "Softmax")
    nodes = [
        onnx.helper.make_node("Exp", [softmax.input[0]], ["exponents"]),
        onnx.helper.make_node("ReduceSum", ["exponents", "classes"], ["sum"]),
        onnx.helper.make_node("Div", ["exponents", "sum"], [softmax.output[0]]),
    ]
    place = list(network.graph.node).index(softmax)
    network.graph.node.remove(softmax)
    for node in reversed(nodes):
        network.graph.node.insert(place, node)
    network.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "classes"))
    onnx.save(network, tmp_path / "alex.onnx")
    (tmp_path / "labels.txt").write_text("\n".join("abcdef"))
    assert "give --activation none" in _export(tmp_path / "alex.onnx").stderr
