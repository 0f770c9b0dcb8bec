"""Exports in int8 and fp16: what they keep, what the guard refuses, and that the server takes them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from PIL import Image
from resonnx import Client
from resonnx_export import stored, verification
from resonnx_export.agreement import ClassifierJudge, Judgement
from resonnx_export.answers import Answers, Pictures
from resonnx_export.calibration import read_calibration
from resonnx_export.cli import app
from resonnx_export.demo import DIGITS_INPUT_SIZE, LABELS, WEIGHTS, resize, samples
from resonnx_export.demonstration import export_demo
from resonnx_export.errors import BadInput, ParityFailed
from resonnx_export.fp16 import to_fp16
from resonnx_export.guard import Limits, quantise_within
from resonnx_export.int8 import quantiser
from resonnx_export.layouts import Recognised
from resonnx_export.manifest import new_manifest
from resonnx_export.networks import ResNet
from resonnx_export.parity import open_session
from resonnx_export.recipe import check_pictures
from resonnx_export.trace import trace_classifier
from resonnx_export.trunk import find_trunk
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.golden import Golden, judge_logits, parse_golden
from resonnx_server.runtime.manifest import VersionFiles, dump_manifest, read_version, sha256sums
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from ..conftest import StartServer
from .conftest import LABELS as SMALL_LABELS

_STORED = {"int8": pb.PRECISION_INT8, "fp16": pb.PRECISION_FP16}


def silent(stage: str) -> None:
    """Hear nothing."""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demonstration models in int8 and in fp16."""
    folders = {precision: tmp_path_factory.mktemp(precision) for precision in ("int8", "fp16")}
    assert list(export_demo(folders["int8"], retrain=False, precision="int8"))
    assert list(export_demo(folders["fp16"], retrain=False, precision="fp16"))
    return folders


@pytest.fixture(scope="module")
def model(network: ResNet, recipe: pb.ImageInput) -> bytes:
    return trace_classifier(network, recipe)


@pytest.fixture(scope="module")
def manifest(network: ResNet, recipe: pb.ImageInput) -> pb.Manifest:
    spec = pb.ClassifierSpec(labels=SMALL_LABELS, feature_size=network.feature_size)
    return new_manifest(Recognised("torchvision", "small", network, ("float32",)), [], recipe, spec)


def version(repository: Path, name: str) -> VersionFiles:
    return read_version(repository / name / "1")


def digits_right(repository: Path) -> int:
    """How many held-out digits are named rightly, of 360."""
    pictures, labels = zip(*samples.digits(), strict=True)
    images = np.stack([resize(picture, DIGITS_INPUT_SIZE) for picture in pictures])
    assert len(images) == 360
    logits = open_session(version(repository, "digits").files["model.onnx"]).run({"image": images})["logits"]
    return sum(LABELS[i] == label for i, label in zip(logits.argmax(axis=1), labels, strict=True))


def test_digits_stay_as_right_in_int8(repositories: dict[str, Path], demo_repository: Path) -> None:
    lost = digits_right(demo_repository) - digits_right(repositories["int8"])
    assert 100 * lost / 360 <= 0.5


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize(("name", "file"), [("digits", "model.onnx"), ("scenes", "encoder.onnx")])
def test_manifest_tells_the_precision_and_its_cost(
    repositories: dict[str, Path], demo_repository: Path, precision: str, name: str, file: str
) -> None:
    files = version(repositories[precision], name)
    manifest = files.manifest
    assert dict(manifest.stored) == {file: _STORED[precision]}
    bounds = {(bound.file, bound.precision): bound.max_deviation for bound in manifest.precisions}
    assert [key for key in bounds if key[0] == file] == [(file, _STORED[precision])]
    assert 5e-4 <= bounds[file, _STORED[precision]] <= 0.1
    assert len(files.files[file]) < len(version(demo_repository, name).files[file]) / 1.7
    # The proof of the graph in float32 is still there, with what was measured after it.
    proved = [check for check in manifest.parity.checks if "not optimised" in check.name]
    assert proved
    assert all(check.max_abs_difference <= check.bound for check in proved)
    (measured,) = manifest.parity.agreements
    assert (measured.file, measured.precision) == (file, _STORED[precision])
    assert measured.identical == measured.pictures
    assert measured.max_abs_difference <= measured.bound / 2
    assert measured.HasField("right") == ((name, precision) == ("digits", "int8"))


def test_golden_digits_are_pytorchs_and_agree(repositories: dict[str, Path], demo_repository: Path) -> None:
    for repository in repositories.values():
        files = version(repository, "digits")
        golden = parse_golden(files.files["golden.npz"])
        assert golden.logits is not None
        fp32 = open_session(version(demo_repository, "digits").files["model.onnx"]).run({"image": golden.images})
        assert judge_logits(golden.logits, fp32["logits"], 1e-4).passed
        reduced = open_session(files.files["model.onnx"]).run({"image": golden.images})
        assert judge_logits(golden.logits, reduced["logits"], files.manifest.precisions[0].max_deviation / 2).passed


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_server_takes_and_serves(
    repositories: dict[str, Path],
    start_server: StartServer,
    samples: Path,
    truth: dict[str, dict[str, str]],
    precision: str,
) -> None:
    with start_server(repositories[precision], "--strict", "--provider", "cpu") as server:
        assert f"CPUExecutionProvider/{precision}" in server.log.read_text()
        with Client(server.grpc) as client:
            for name, expected in list(truth.items())[:8]:
                file = samples / name
                if expected["model"] == "digits":
                    assert client.classify(file, "digits").predictions[0].label == expected["label"]
                else:
                    assert client.caption(file, "scenes").captions[0].text == expected["caption"]
        assert server.stop() == 0


def test_demo_is_exported_once_a_precision(repositories: dict[str, Path]) -> None:
    again = dict(export_demo(repositories["int8"], retrain=False, precision="int8"))
    assert again == {"digits": None, "scenes": None}


def verify(repository: Path, name: str) -> Result:
    weights = WEIGHTS / f"{name}.safetensors"
    return CliRunner().invoke(app, ["verify", str(repository / name / "1"), "--checkpoint", str(weights)])


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_verify_holds_the_reduced_graph_against_the_checkpoint(repositories: dict[str, Path], precision: str) -> None:
    digits, scenes = (verify(repositories[precision], name) for name in ("digits", "scenes"))
    assert digits.exit_code == scenes.exit_code == 0, digits.output + scenes.output
    said = f"model.onnx in {precision} against PyTorch in float32, 8 golden pictures: every clear top class the same"
    assert said in digits.stdout
    assert f"encoder.onnx in {precision} against PyTorch in float32" in scenes.stdout
    assert "decoder.onnx equal to PyTorch's: 16 checks passed, damaged copy refused" in scenes.stdout


def test_verify_refuses_what_breaks_its_bound(
    repositories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "digits" / "1"
    shutil.copytree(repositories["int8"] / "digits" / "1", folder)
    files = read_version(folder)
    files.manifest.precisions[0].max_deviation = 1e-4
    contents = {**files.files, "manifest.json": dump_manifest(files.manifest)}
    (folder / "manifest.json").write_bytes(contents["manifest.json"])
    (folder / "SHA256SUMS").write_bytes(sha256sums(contents))
    refused = verify(tmp_path / "models", "digits")
    assert refused.exit_code == 1
    assert "model.onnx on CPUExecutionProvider/int8: max|delta|" in refused.stderr
    # Were the providers' answers not judged at all, PyTorch's would still be.
    monkeypatch.setattr(verification, "judge_everywhere", lambda *_: ())
    refused = verify(tmp_path / "models", "digits")
    assert refused.exit_code == 1
    assert "model.onnx in int8 against PyTorch in float32: max|delta|" in refused.stderr


def test_graphs_keep_their_contract(model: bytes, recipe: pb.ImageInput) -> None:
    with quantiser(model, check_pictures(recipe, 8, seed=1)) as tool:
        reduced = {"int8": tool.quantise(), "fp16": to_fp16(model)}
    exact = open_session(model)
    for graph in map(onnx.load_model_from_string, reduced.values()):
        scores = next(node for node in graph.graph.node if node.op_type == "Gemm")
        weights = {weight.name: weight.data_type for weight in graph.graph.initializer}
        assert [weights[name] for name in scores.input[1:]] == [TensorProto.FLOAT, TensorProto.FLOAT]
        assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
        assert not graph.metadata_props
    for content in reduced.values():
        session = open_session(content)
        assert (session.inputs, session.outputs) == (exact.inputs, exact.outputs)


def test_int8_is_int8_where_it_matters(model: bytes, recipe: pb.ImageInput) -> None:
    with quantiser(model, check_pictures(recipe, 8, seed=1)) as tool:
        graph = onnx.load_model_from_string(tool.quantise()).graph
        # Activations are fused, a Relu left over would cost most of the speed; only the feature map's stays.
        assert [node.name for node in graph.node if node.op_type == "Relu"] == [
            name for name in find_trunk(onnx.load_model_from_string(model).graph).tail if "relu" in name
        ]
        types = {weight.name: (weight.data_type, list(weight.dims)) for weight in graph.initializer}
        made = {node.output[0]: node for node in graph.node}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        for node in convolutions:
            weight, scale, _ = made[node.input[1]].input
            assert types[weight][0] == TensorProto.INT8
            assert types[scale][1] == types[weight][1][:1]
            assert types[made[node.input[0]].input[2]][0] == TensorProto.UINT8
        assert tool.blocks == ("conv1", "layer1.0", "layer2.0", "layer3.0")
        partly = onnx.load_model_from_string(tool.quantise(["conv1", "layer2.0"])).graph
        float_weights = [w.name for w in partly.initializer if w.data_type == TensorProto.FLOAT and len(w.dims) == 4]
        assert len(float_weights) == 1 + 3


def test_same_pictures_same_bytes(model: bytes, recipe: pb.ImageInput) -> None:
    graphs = []
    for _ in range(2):
        with quantiser(model, check_pictures(recipe, 8, seed=1)) as tool:
            # The second comes from stored ranges.
            graphs += [tool.quantise(), tool.quantise()]
    assert len(set(graphs)) == 1
    assert to_fp16(model) == to_fp16(model)


def test_trunk_ends_with_the_feature_map(model: bytes) -> None:
    graph = onnx.load_model_from_string(model).graph
    trunk = find_trunk(graph)
    others = [node.op_type for node in graph.node if node.name not in trunk.nodes]
    assert others == ["Transpose", "Cast", "Mul", "Add", "ReduceMean", "Gemm", "Softmax"]
    assert (len(trunk.inputs), len(trunk.outputs)) == (1, 1)


@torch.no_grad()
def with_outlier(network: ResNet, block: str) -> ResNet:
    """Return an equal network in which one of a block's channels has values 10,000 times the others'.

    One scale for all channels then leaves the others next to nothing of eight bits.
    """
    same = ResNet(network.config)
    same.load_state_dict(network.state_dict())
    module = same.get_submodule(block)
    module.bn1.weight[0] *= 1e4
    module.bn1.bias[0] *= 1e4
    module.conv2.weight[:, 0] /= 1e4
    return same.eval().requires_grad_(False)


def test_guard_puts_the_sensitive_block_back(network: ResNet, manifest: pb.Manifest, recipe: pb.ImageInput) -> None:
    pictures = check_pictures(recipe, 64, seed=9)
    uneven = with_outlier(network, "layer2.0")
    model = trace_classifier(uneven, recipe)
    judge = ClassifierJudge(uneven, manifest, Pictures(pictures[32:], "pictures"))
    with quantiser(model, pictures[:32]) as tool:
        unguarded = judge(tool.quantise())
    limits = Limits(min_agreement=90)
    assert limits.broken(unguarded) is not None
    guarded = quantise_within(limits, model, pictures[:32], judge, silent)
    assert guarded.in_float == ("layer2.0",)
    assert limits.broken(guarded.judgement) is None
    assert guarded.judgement.deviation < unguarded.deviation / 3


class Pessimist:
    """A judge that no graph pleases."""

    def __call__(self, model: bytes) -> Judgement:
        return Judgement(pictures=100, identical=98, difference=0.01, scale=1.0, noise=len(model))

    def answers(self, model: bytes) -> Answers:
        raise AssertionError("asked of a model that was refused")

    def golden(self, model: bytes) -> tuple[Golden, float]:
        raise AssertionError("asked of a model that was refused")


def test_guard_refuses_what_it_cannot_mend(model: bytes, recipe: pb.ImageInput) -> None:
    with pytest.raises(ParityFailed, match=r"alone quantised: 98 of 100 .*at least 99 %"):
        quantise_within(Limits(), model, check_pictures(recipe, 8, seed=1), Pessimist(), silent)


@pytest.mark.parametrize(
    ("judgement", "said"),
    [
        (Judgement(100, 99, 0.1, 1.0, 0.1), None),
        (Judgement(1000, 989, 0.1, 1.0, 0.1), "98.9 %"),
        (Judgement(1000, 1000, 0.1, 1.0, 0.1, right=(985, 990)), None),
        (Judgement(1000, 1000, 0.1, 1.0, 0.1, right=(984, 990)), "0.60 points"),
        (Judgement(100, 100, 0.3, 1.0, 0.1), "0.30 of"),
    ],
)
def test_limits(judgement: Judgement, said: str | None) -> None:
    broken = Limits().broken(judgement)
    assert broken is None if said is None else said in (broken or "")


def test_sigmoids_agree_by_yes_and_no(network: ResNet, manifest: pb.Manifest, model: bytes) -> None:
    several = pb.Manifest()
    several.CopyFrom(manifest)
    several.classifier.activation = pb.ClassifierSpec.ACTIVATION_SIGMOID
    pictures = Pictures(check_pictures(manifest.input, 4, seed=2), "pictures")
    assert ClassifierJudge(network, several, pictures)(model).identical == 4
    shifted = ResNet(network.config)
    shifted.load_state_dict(network.state_dict())
    shifted.fc.bias.data += 100
    moved = ClassifierJudge(shifted.eval().requires_grad_(False), several, pictures)(model)
    assert moved.identical == 0


# The commands.


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 16 pictures, in folders named as labels."""
    rng = np.random.default_rng(5)
    for i in range(16):
        folder = tmp_path / "pictures" / SMALL_LABELS[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{'png' if i % 2 else 'JPG'}")
    return tmp_path / "pictures"


Export = Callable[..., Result]


@pytest.fixture
def export(classifier_file: Path, labels_file: Path, tmp_path: Path) -> Export:
    """Run `resonnx-export classifier` with more options, to tmp_path / models."""

    def run(*options: object) -> Result:
        files = [classifier_file, "--labels", labels_file, "--repository", tmp_path / "models", "--name", "m"]
        return CliRunner().invoke(app, ["classifier", *map(str, files), "--size", "32", *map(str, options)])

    return run


def test_command_exports_int8(export: Export, pictures: Path, tmp_path: Path) -> None:
    loose = ("--min-agreement", 50, "--max-accuracy-drop", 100)
    result = export("--precision", "int8", "--calibration", pictures, *loose)
    assert result.exit_code == 0, result.output
    assert "of 8 held-back pictures answered as in fp32" in result.stdout
    assert "int8 accuracy:" in result.stdout
    assert dict(version(tmp_path / "models", "m").manifest.stored) == {"model.onnx": pb.PRECISION_INT8}


def test_command_exports_captioner_in_int8(
    captioner_file: Path, words_file: Path, pictures: Path, tmp_path: Path
) -> None:
    options = ["--vocab", words_file, "--repository", tmp_path / "models", "--name", "c", "--size", 32]
    options += ["--max-tokens", 9, "--precision", "int8", "--calibration", pictures, "--min-agreement", 10]
    result = CliRunner().invoke(app, ["captioner", str(captioner_file), *map(str, options)])
    assert result.exit_code == 0, result.output
    manifest = version(tmp_path / "models", "c").manifest
    assert dict(manifest.stored) == {"encoder.onnx": pb.PRECISION_INT8}
    assert [(bound.file, bound.precision) for bound in manifest.precisions] == [
        ("decoder.onnx", pb.PRECISION_FP32),
        ("encoder.onnx", pb.PRECISION_INT8),
    ]


def test_refused_int8_writes_nothing(
    export: Export, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "ClassifierJudge", lambda *_: Pessimist())
    result = export("--precision", "int8", "--calibration", pictures)
    assert result.exit_code == 1
    assert "98 of 100 held-back pictures" in result.stderr
    assert not (tmp_path / "models").exists()


def test_float16_that_overflows_is_refused(network: ResNet, labels_file: Path, tmp_path: Path) -> None:
    loud = network.state_dict() | {"bn1.weight": network.bn1.weight * 1e6}
    save_file(loud, tmp_path / "loud.safetensors")
    files = [tmp_path / "loud.safetensors", "--labels", labels_file, "--repository", tmp_path / "models", "--name", "m"]
    result = CliRunner().invoke(app, ["classifier", *map(str, files), "--size", "32", "--precision", "fp16"])
    assert result.exit_code == 1
    assert "model.onnx in fp16 lies inf of max|reference|" in result.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "int8"), "needs --calibration"),
        (("--calibration", "."), "goes with --precision int8, not fp32"),
        (("--precision", "fp16", "--calibration", "."), "goes with --precision int8, not fp16"),
        (("--precision", "int8", "--calibration", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_options_that_do_not_fit(export: Export, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    result = export(*options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "models").exists()


# The calibration folder.


def test_half_calibrates_and_half_judges(pictures: Path, recipe: pb.ImageInput) -> None:
    calibration = read_calibration(pictures, recipe, SMALL_LABELS)
    assert calibration.fit.shape == calibration.held_back.shape == (8, 32, 32, 3)
    assert calibration.truths is not None
    assert set(calibration.truths) <= {0, 1, 2, 3}
    seen = {picture.tobytes() for picture in calibration.fit}
    assert not seen & {picture.tobytes() for picture in calibration.held_back}


def test_folders_that_are_no_labels_are_not_asked(pictures: Path, recipe: pb.ImageInput) -> None:
    assert read_calibration(pictures, recipe).truths is None
    assert read_calibration(pictures, recipe, ["cat", "dog"]).truths is None


def test_one_folder_that_is_no_label_is_named(pictures: Path, recipe: pb.ImageInput) -> None:
    (pictures / SMALL_LABELS[0]).rename(pictures / "clas 0")
    with pytest.raises(BadInput, match="clas 0 has pictures and is not named as a label"):
        read_calibration(pictures, recipe, SMALL_LABELS)


def test_unreadable_picture_is_named(pictures: Path, recipe: pb.ImageInput) -> None:
    broken = pictures / SMALL_LABELS[1] / "broken.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(BadInput, match=r"broken\.png: 13 bytes that are no JPEG, PNG or WebP file"):
        read_calibration(pictures, recipe, SMALL_LABELS)
    broken.write_bytes((pictures / SMALL_LABELS[1] / "1.png").read_bytes()[:500])
    with pytest.raises(BadInput, match=r"broken\.png: the picture file is damaged"):
        read_calibration(pictures, recipe, SMALL_LABELS)


def test_too_few_pictures(tmp_path: Path, recipe: pb.ImageInput) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(BadInput, match="has 0 pictures"):
        read_calibration(tmp_path, recipe)
