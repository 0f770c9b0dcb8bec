"""`--expect` of a model in reduced precision: both graphs are compared, each by its own stated rule."""

import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resonnx_export.answers.recorded import Answers, read_answers
from resonnx_export.assumptions.telling import ANSWERED, headline
from resonnx_export.errors import ParityFailed
from resonnx_export.precision.bounds import quantised_bound, record
from resonnx_export.precision.fp16 import to_fp16
from resonnx_export.tasks.answers import compare_reduced, reduced_rule
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.model_files.manifest import CLASSIFIER_FILE, read_version

from .conftest import RecordAnswers, export, run


@pytest.fixture
def reduced(manifest: pb.Manifest) -> pb.Manifest:
    """The manifest of a file in float16 with a bound of 0.02, proved by answers."""
    manifest = copy.deepcopy(manifest)
    record(manifest, quantised_bound(CLASSIFIER_FILE, pb.PRECISION_FP16, 0.01))
    manifest.verified_against = pb.REFERENCE_USER_ANSWERS
    return manifest


@pytest.fixture
def answers(record_answers: RecordAnswers) -> Answers:
    return read_answers(record_answers())


def test_the_reduced_graph_is_compared_by_its_own_bound(model: bytes, reduced: pb.Manifest, answers: Answers) -> None:
    line = compare_reduced({CLASSIFIER_FILE: to_fp16(model)}, reduced, answers)
    rule = (
        "model.onnx is in fp16 and held to its own bound: logits within 0.02 of max|answer|, and the same top class "
        "where the margin is wider"
    )
    assert line.startswith("your answers, fp16: max|difference| ")
    assert line.endswith(rule)
    (agreement,) = reduced.parity.agreements
    assert (agreement.asked, agreement.pictures, agreement.identical) == (ANSWERED, 6, 6)
    assert 0 < agreement.max_abs_difference <= agreement.bound
    assert agreement.bound == pytest.approx(0.02 * agreement.max_abs_reference)
    assert headline(reduced) == "equal to your answers in float32, 6 of 6 the same in fp16"


def test_a_reduced_graph_beyond_its_bound_is_refused(model: bytes, reduced: pb.Manifest, answers: Answers) -> None:
    assert answers.logits is not None
    answers.logits[0] += 0.03 * np.abs(answers.logits).max()
    with pytest.raises(ParityFailed) as refused:
        compare_reduced({CLASSIFIER_FILE: to_fp16(model)}, reduced, answers)
    assert "bound 0.02" in str(refused.value)
    assert reduced_rule(reduced) in str(refused.value)
    assert "--precision fp32" in str(refused.value)
    assert not reduced.parity.agreements


def test_files_in_float32_have_no_rule_of_their_own(manifest: pb.Manifest) -> None:
    assert reduced_rule(manifest) == ""


@pytest.mark.slow
def test_an_export_in_int8(
    classifier_file: Path, record_answers: RecordAnswers, pixels: np.ndarray, tmp_path: Path
) -> None:
    (folder := tmp_path / "calibration").mkdir()
    for number in range(32):
        picture = np.random.default_rng(number).integers(0, 256, pixels.shape[1:], np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    options = ("--precision", "int8", "--calibration", folder, "--stretch", "--min-agreement", 0)
    result = export(classifier_file, record_answers(), tmp_path / "models", *options)
    assert result.exit_code == 0, result.output
    assert "equal to your answers (6 pictures) in float32, " in result.stdout
    assert "model.onnx is in int8 and held to its own bound: logits within" in result.stdout
    version = read_version(version_folder := tmp_path / "models/m/1")
    assert version.manifest.verified_against == pb.REFERENCE_USER_ANSWERS
    assert [each.asked for each in version.manifest.parity.agreements] == ["held-back pictures", ANSWERED]
    assert version.files["report.html"].count(b"All layers are in int8") <= 1
    assert ANSWERED.encode() in version.files["report.html"]
    verified = run("verify", version_folder, "--expect", record_answers(), "--checkpoint", classifier_file)
    assert verified.exit_code == 0, verified.output
    assert reduced_rule(version.manifest) in verified.stdout
