"""Explains why a version does not give the user's answers: by the search of another reading, or the way to it."""

import copy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.answers.agreement import explanation
from resonnx_export.answers.pictures import pixels_of, typed_size
from resonnx_export.answers.recorded import Answers
from resonnx_export.answers.search import search
from resonnx_export.answers.subject import Subject, captioner_subject, classifier_subject, video_subject
from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.layouts.recognised import Network
from resonnx_export.networks.resnet import ClassifierNetwork
from resonnx_export.networks.video import VideoNetwork
from resonnx_export.onnx_files.recognised import LAYOUT as ONNX
from resonnx_export.pictures.recipe import Size, channel_order, parts, pixel_scale
from resonnx_export.progress import silent
from resonnx_export.tasks import task_of
from resonnx_export.wording import precision_name


def searched_explanation(network: Network, manifest: pb.Manifest, checkpoint: Sequence[Path], answers: Answers) -> str:
    """Search the reading of a version's checkpoint that gives the answers, and return it in words.

    Args:
        network: The network that the version was exported from.
        manifest: The version's.
        checkpoint: The files of the network if it is our reading of them; none if it is the user's code.
        answers: What the graphs do not give.
    """
    subject = _subject(network, manifest, checkpoint)
    outputs = subject.predict(pixels_of(answers, manifest.input), manifest.input)
    judged = subject.judge(answers, outputs)
    if judged.passed:
        names = ", ".join(sorted({precision_name(precision) for precision in manifest.stored.values()}))
        return f"the network in float32 does ({judged.detail})" + (f": export without {names}" if names else "")
    return explanation(subject, answers, search(subject, answers, silent))


def _subject(network: Network, manifest: pb.Manifest, checkpoint: Sequence[Path]) -> Subject:
    """Return the network for the search, built again by the manifest with other values."""
    is_reading = manifest.verified_against != pb.REFERENCE_USER_CODE and manifest.source.layout != ONNX

    def built(values: Mapping[str, str]) -> Any:
        changed, _ = task_of(manifest).recognise(_with_values(manifest, values), checkpoint)
        return (changed, manifest.captioner) if manifest.HasField("captioner") else changed

    rebuild = built if checkpoint and is_reading else None
    assumptions = [Assumption.of(each) for each in manifest.assumptions]
    if isinstance(network, ClassifierNetwork):
        return classifier_subject(network, manifest.input, assumptions, rebuild)
    if isinstance(network, VideoNetwork):
        return video_subject(network, manifest.input, assumptions, rebuild)
    return captioner_subject(network, manifest.input, manifest.captioner, assumptions, rebuild)


def _with_values(manifest: pb.Manifest, values: Mapping[str, str]) -> pb.Manifest:
    changed = copy.deepcopy(manifest)
    for assumption in changed.assumptions:
        if assumption.name in values:
            assumption.value = values[assumption.name]
            # As if it had been stated so, also where another option is its usual one.
            assumption.option = "--assume NAME=VALUE"
    return changed


def next_commands(folder: Path, manifest: pb.Manifest, answers: Answers) -> str:
    """Return what was assumed, and the commands that search the assumption that differs, where no file is at hand."""
    files = shlex.join(manifest.source.file_names) or "FILE"
    code = manifest.verified_against == pb.REFERENCE_USER_CODE
    given = " ".join(f"--checkpoint {shlex.quote(name)}" for name in manifest.source.file_names or ["FILE"])
    verify = f"resonnx-export verify {shlex.quote(str(folder))} --expect {shlex.quote(answers.name)}"
    assumed = ", ".join(f"{each.name} {each.value}" for each in manifest.assumptions)
    lines = [f"what was assumed or given: {assumed}"] if assumed else []
    lines.append(f"to search what differs: {verify} {'--module TARGET ' if code else ''}{given}")
    command = "module TARGET" if code else f"{_command(manifest)} {files}"
    into = f"--repository {shlex.quote(str(folder.parent.parent))} --name {shlex.quote(folder.parent.name)}"
    names = "--vocab FILE" if manifest.HasField("captioner") else "--labels FILE"
    options = " ".join(
        each.option.replace("VALUE", shlex.quote(each.value))
        for each in manifest.assumptions
        if each.confirmed and "VALUE" in each.option
    )
    pictures = _picture_options(manifest.input) if manifest.HasField("input") else ""
    export = " ".join(filter(None, ("resonnx-export", command, names, into, pictures, options)))
    lines.append(f"or export again: {export} --expect {shlex.quote(answers.name)}")
    return "; ".join(lines)


def _picture_options(recipe: pb.ImageInput) -> str:
    """Return the options that state a version's preprocessing."""
    crops = recipe.resize == pb.ImageInput.RESIZE_SHORT_SIDE_CROP
    described = parts(recipe)
    turned = described["EXIF orientation"].endswith("applied")
    return " ".join(
        (
            f"--size {typed_size(Size(recipe.height, recipe.width))}",
            f"--resize-short-side {recipe.resize_short_side}" if crops else "--stretch",
            f"--filter {described['filter']} --exif-orientation {'apply' if turned else 'ignore'}",
            f"--channel-order {channel_order(recipe)} --scale {pixel_scale(recipe)}",
            f"--{described['mean']} --{described['std']}",
        )
    )


def _command(manifest: pb.Manifest) -> str:
    if manifest.source.layout == ONNX:
        return "onnx"
    return task_of(manifest).model.replace("_", "-")
