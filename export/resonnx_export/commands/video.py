"""The command `resonnx-export video-classifier`, and the options of clips."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from resonnx_export.errors import BadInput
from resonnx_export.options import (
    Activation,
    Assume,
    Expect,
    Labels,
    MaxAccuracyDrop,
    Samples,
    Target,
    grouped,
    read_assume,
)
from resonnx_export.pictures.recipe import InputChanges

if TYPE_CHECKING:
    from resonnx_proto.v1.manifest_pb2 import VideoClassifierSpec

    from resonnx_export.video_classifier.pipeline import VideoSettings

_RULE: Final = re.compile(
    r"all|every:(?P<every>[1-9]\d{0,3})|uniform:(?P<uniform>[1-9]\d{0,3})|fps:(?P<fps>\d{1,4}(?:\.\d+)?)"
)

FramePrecision = Literal["fp32", "int8", "fastest"]
Frames = Annotated[
    str,
    typer.Option(
        "--frames",
        metavar="RULE",
        help="Which frames of a video the network was trained on: all, every:N, uniform:N (N at equal distances) or "
        "fps:RATE (frames a second).",
    ),
]
MaxFrames = Annotated[int, typer.Option(min=1, max=4500, metavar="N", help="The most frames of a clip after sampling.")]


def read_sampling(given: str) -> "VideoClassifierSpec.Sampling":
    """Return the rule of --frames. Raises BadInput if it is none."""
    from resonnx_proto.v1.manifest_pb2 import VideoClassifierSpec

    rules = VideoClassifierSpec.Sampling
    match = _RULE.fullmatch(given)
    if match is None or (match["fps"] is not None and float(match["fps"]) <= 0):
        raise BadInput(f"--frames {given!r} is none of all, every:N, uniform:N and fps:RATE")
    if match["every"]:
        return rules(rule=rules.RULE_EVERY, n=int(match["every"]))
    if match["uniform"]:
        return rules(rule=rules.RULE_UNIFORM, n=int(match["uniform"]))
    if match["fps"]:
        return rules(rule=rules.RULE_TIME, frames_per_second=float(match["fps"]))
    return rules(rule=rules.RULE_ALL)


@grouped
def video_classifier(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="The checkpoint's files in any order: one, or encoder and decoder."),
    ],
    target: Target,
    changes: InputChanges,
    labels: Labels = None,
    frames: Frames = "all",
    max_frames: MaxFrames = 256,
    activation: Annotated[Activation, typer.Option(help="Turns logits into probabilities.")] = "softmax",
    assume: Assume = None,
    pictures: Samples = None,
    expect: Expect = None,
    precision: Annotated[
        FramePrecision,
        typer.Option(
            help="Precision of the convolutions. fastest: int8 if it is within its limits and measured to be faster on "
            "this machine's CPU, otherwise fp32.",
        ),
    ] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For int8 and fastest: typical clips, at least 8, better 64 or more: folders of frames, animated GIF "
            "and WebP files; they may be in folders named as labels.",
        ),
    ] = None,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0, max=100, metavar="PERCENT", help="int8: least share of held-back clips predicted as in fp32, in %."
        ),
    ] = 99.0,
    max_accuracy_drop: MaxAccuracyDrop = 0.5,
) -> None:
    """Export a video classifier: a ResNet over frames and a recurrent network over time, or the latter alone."""
    from resonnx_export.progress import progress_bar
    from resonnx_export.publish.summary import summary_lines
    from resonnx_export.video_classifier.pipeline import export_video, stages

    settings = video_settings(
        labels,
        changes,
        frames,
        max_frames,
        activation,
        assume or (),
        pictures,
        expect,
        precision,
        calibration,
        min_agreement,
        max_accuracy_drop,
    )
    with progress_bar(target.name, stages(settings)) as progress:
        exported = export_video(files, settings, target, progress)
    typer.echo("\n".join(summary_lines(exported)))


def video_settings(
    labels: Path | None,
    changes: InputChanges,
    frames: str,
    max_frames: int,
    activation: Activation,
    assume: Sequence[str],
    pictures: Path | None,
    expect: Path | None,
    precision: FramePrecision,
    calibration: Path | None,
    min_agreement: float,
    max_accuracy_drop: float,
) -> "VideoSettings":
    """Read the files that the options name, and return the settings. Raises BadInput."""
    from resonnx_export.answers.recorded import read_answers
    from resonnx_export.class_names.files import read_class_names
    from resonnx_export.pictures.calibration import read_samples
    from resonnx_export.precision.guard import Limits
    from resonnx_export.video_classifier.pipeline import VideoSettings

    if labels is None:
        raise BadInput("a video classifier's checkpoint does not name its classes: give --labels FILE, one a line")
    if (calibration is None) != (precision == "fp32"):
        raise BadInput("--precision int8 and fastest go with --calibration, a folder of typical clips")
    named = read_class_names(labels)
    return VideoSettings(
        named.names,
        changes,
        read_sampling(frames),
        max_frames,
        activation,
        read_samples(pictures, changes.decoding()) if pictures else (),
        read_assume(assume),
        read_answers(expect) if expect else None,
        named.notes,
        calibration,
        Limits(min_agreement, max_accuracy_drop),
        only_if_faster=precision == "fastest",
    )
