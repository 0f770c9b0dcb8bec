"""manifest.json: numbers that a judgement uses must have sense, or anything would be served as verified."""

import math
from collections.abc import Callable

import pytest
from google.protobuf import json_format
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.manifest import dump_manifest, parse_manifest, verified_against

PRECISIONS = [value for name, value in pb.Precision.items() if name != "PRECISION_UNSPECIFIED"]


def _manifest(task: pb.Task) -> pb.Manifest:
    image = pb.ImageInput(width=8, height=8, resize=pb.ImageInput.RESIZE_STRETCH, filter=pb.ImageInput.FILTER_BOX)
    manifest = pb.Manifest(schema_version=1, task=task, input=image)
    files = ["model.onnx"]
    if task == pb.TASK_CLASSIFIER:
        manifest.classifier.labels.extend(["a", "b"])
    else:
        manifest.captioner.CopyFrom(pb.CaptionerSpec(vocabulary=["<end>", "a"], end_id=0, max_tokens=5))
        files = ["encoder.onnx", "decoder.onnx"]
    for file in files:
        manifest.precisions.add(file=file, precision=pb.PRECISION_FP32, max_deviation=1e-3)
        manifest.precisions.add(file=file, precision=pb.PRECISION_FP16, max_deviation=0.05)
    compared = {"max_abs_difference": 1e-4, "max_abs_reference": 12.0, "bound": 1e-3}
    manifest.parity.checks.add(**compared)
    manifest.parity.agreements.add(**compared)
    return manifest


def _refusal(change: Callable[[pb.Manifest], object], task: pb.Task = pb.TASK_CLASSIFIER) -> str:
    manifest = _manifest(task)
    assert parse_manifest(dump_manifest(manifest)) == manifest
    change(manifest)
    with pytest.raises(ModelRefused) as refused:
        dump_manifest(manifest)
    # What a server reads is held to the same.
    with pytest.raises(ModelRefused) as read:
        parse_manifest(json_format.MessageToJson(manifest).encode())
    assert read.value.message == refused.value.message
    return refused.value.message


@pytest.mark.parametrize("value", [0.0, -1e-3, -math.inf, math.inf, math.nan, 1e300, 0.500001])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("task", [pb.TASK_CLASSIFIER, pb.TASK_CAPTIONER])
def test_bounds_without_sense(task: pb.Task, precision: pb.Precision, value: float) -> None:
    def change(manifest: pb.Manifest) -> None:
        file = manifest.precisions[-1].file
        kept = [bound for bound in manifest.precisions if (bound.file, bound.precision) != (file, precision)]
        del manifest.precisions[:]
        manifest.precisions.extend([*kept, pb.PrecisionBound(file=file, precision=precision, max_deviation=value)])

    assert f"precisions.max_deviation {value:g} of" in _refusal(change, task)


def test_single_precision_is_held_to_less() -> None:
    def bound(value: float) -> Callable[[pb.Manifest], None]:
        return lambda manifest: setattr(manifest.precisions[0], "max_deviation", value)

    assert "0.02 of model.onnx in PRECISION_FP32 is not above 0 and at most 0.01" in _refusal(bound(0.02))
    manifest = _manifest(pb.TASK_CLASSIFIER)
    manifest.precisions[0].max_deviation, manifest.precisions[1].max_deviation = 0.01, 0.5
    dump_manifest(manifest)


def test_a_second_bound_does_not_take_the_firsts_place() -> None:
    def change(manifest: pb.Manifest) -> None:
        manifest.precisions.add(file="model.onnx", precision=pb.PRECISION_FP16, max_deviation=0.5)

    assert "precisions has two bounds for model.onnx in PRECISION_FP16" in _refusal(change)


@pytest.mark.parametrize("field", ["resize", "filter", "exif_orientation"])
def test_a_picture_option_that_is_none(field: str) -> None:
    assert f"input.{field} 99 is not known" in _refusal(lambda manifest: setattr(manifest.input, field, 99))


@pytest.mark.parametrize("precision", [0, 99])
def test_a_precision_that_is_none(precision: int) -> None:
    assert f"precisions.precision {precision} is not known" in _refusal(
        lambda manifest: setattr(manifest.precisions[1], "precision", precision)
    )
    assert f"stored[model.onnx] {precision} is not known" in _refusal(
        lambda manifest: manifest.stored.update({"model.onnx": precision})  # type: ignore[dict-item]
    )


def test_bounds_of_files_that_are_not_this_tasks() -> None:
    assert "precisions.file 'encoder.onnx' is none of model.onnx" in _refusal(
        lambda manifest: setattr(manifest.precisions[1], "file", "encoder.onnx")
    )
    for task, file in ((pb.TASK_CLASSIFIER, "model.onnx"), (pb.TASK_CAPTIONER, "encoder.onnx")):
        assert f"precisions allows none for {file}" in _refusal(
            lambda manifest: manifest.ClearField("precisions"), task
        )


def test_a_file_is_computed_as_it_is_stored() -> None:
    assert "precisions allows others for model.onnx than it is stored in" in _refusal(
        lambda manifest: manifest.stored.update({"model.onnx": pb.PRECISION_FP16})
    )
    manifest = _manifest(pb.TASK_CLASSIFIER)
    manifest.stored["model.onnx"] = pb.PRECISION_FP16
    del manifest.precisions[0]
    dump_manifest(manifest)


@pytest.mark.parametrize("kind", ["checks", "agreements"])
@pytest.mark.parametrize("field", ["max_abs_difference", "max_abs_reference", "bound"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_proof_without_sense(kind: str, field: str, value: float) -> None:
    said = _refusal(lambda manifest: setattr(getattr(manifest.parity, kind)[0], field, value))
    assert f"parity.{kind}[0].{field} {value:g} is not a number of 0 or more" in said


def test_a_proof_that_failed() -> None:
    just = _manifest(pb.TASK_CLASSIFIER)
    just.parity.checks[0].max_abs_difference = just.parity.checks[0].bound
    dump_manifest(just)
    said = _refusal(lambda manifest: setattr(manifest.parity.checks[0], "max_abs_difference", 2e-3))
    assert "parity.checks[0].max_abs_difference 0.002 exceeds its bound 0.001" in said


def test_a_reference_that_is_none() -> None:
    assert "verified_against 9 is not known" in _refusal(lambda manifest: setattr(manifest, "verified_against", 9))


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        (pb.REFERENCE_UNSPECIFIED, "our_reading"),
        (pb.REFERENCE_OUR_READING, "our_reading"),
        (pb.REFERENCE_USER_ANSWERS, "user_answers"),
        (pb.REFERENCE_USER_CODE, "user_code"),
    ],
)
def test_references_have_names_and_older_manifests_ours(reference: pb.Reference, name: str) -> None:
    assert verified_against(pb.Manifest(verified_against=reference)) == name
