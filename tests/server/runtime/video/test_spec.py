"""What is wrong with a video classifier's part of a manifest, field by field."""

from collections.abc import Callable

import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.manifest import dump_manifest, onnx_files, parse_manifest

Spec = pb.VideoClassifierSpec
Sampling = Spec.Sampling


def manifest_of(*, given: bool = False, stepwise: bool = True) -> pb.Manifest:
    spec = Spec(labels=["a", "b"], feature_size=8, max_frames=64, sampling=Sampling(rule=Sampling.RULE_ALL))
    if stepwise:
        spec.states.add(name="state_0", shape=[4])
    manifest = pb.Manifest(schema_version=1, task=pb.TASK_VIDEO_CLASSIFIER, video_classifier=spec)
    if not given:
        manifest.input.CopyFrom(
            pb.ImageInput(
                width=32, height=32, resize=pb.ImageInput.RESIZE_STRETCH, filter=pb.ImageInput.FILTER_BILINEAR
            )
        )
    manifest.precisions.extend(
        pb.PrecisionBound(file=file, precision=pb.PRECISION_FP32, max_deviation=1e-3) for file in onnx_files(manifest)
    )
    return manifest


@pytest.mark.parametrize(
    ("given", "stepwise", "files"),
    [
        (False, True, ("encoder.onnx", "sequence.onnx", "step.onnx")),
        (False, False, ("encoder.onnx", "sequence.onnx")),
        (True, False, ("sequence.onnx",)),
    ],
)
def test_files_are_those_that_the_manifest_describes(given: bool, stepwise: bool, files: tuple[str, ...]) -> None:
    manifest = manifest_of(given=given, stepwise=stepwise)
    assert onnx_files(parse_manifest(dump_manifest(manifest))) == files


FAULTS: dict[str, Callable[[Spec], object]] = {
    "labels is empty": lambda spec: spec.ClearField("labels"),
    "activation 9 is not known": lambda spec: setattr(spec, "activation", 9),
    "feature_size 0 is not within": lambda spec: setattr(spec, "feature_size", 0),
    "max_frames 0 is not within 1..4500": lambda spec: setattr(spec, "max_frames", 0),
    "max_frames 4501 is not within": lambda spec: setattr(spec, "max_frames", 4501),
    "sampling.rule 0 is not known": lambda spec: spec.ClearField("sampling"),
    "sampling.n 0 is not within": lambda spec: spec.sampling.MergeFrom(Sampling(rule=Sampling.RULE_EVERY)),
    "sampling.frames_per_second 0 is not above 0": lambda spec: spec.sampling.MergeFrom(
        Sampling(rule=Sampling.RULE_TIME)
    ),
    "states has a name twice": lambda spec: spec.states.add(name="state_0", shape=[4]),
    r"states\[1\].name 'hidden' is not": lambda spec: spec.states.add(name="hidden", shape=[4]),
    r"states\[1\].shape \[0\] is not": lambda spec: spec.states.add(name="state_1", shape=[0]),
    "states has 257 entries": lambda spec: spec.states.extend(Spec.State(name=f"state_{i}") for i in range(1, 257)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_the_field(fault: str) -> None:
    manifest = manifest_of()
    FAULTS[fault](manifest.video_classifier)
    with pytest.raises(ModelRefused, match=f"manifest.json: video_classifier.{fault}"):
        dump_manifest(manifest)
