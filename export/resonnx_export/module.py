"""Exports networks of any class, in memory or made by the user's code: `resonnx-export module`."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from resonnx_export.captioner import CaptionerSettings
from resonnx_export.captioner import export_recognised as export_recognised_captioner
from resonnx_export.classifier import ClassifierSettings, export_recognised, with_recorded
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import CaptionSource
from resonnx_export.layouts.captioners.draft import caption_spec
from resonnx_export.layouts.recognised import RecognisedCheckpoint
from resonnx_export.layouts.video import VideoSource
from resonnx_export.options import Activation, Target
from resonnx_export.pictures.recipe import InputChanges, Size
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.progress import Progress, silent
from resonnx_export.publish import package
from resonnx_export.publish.package import Exported
from resonnx_export.user_code.captioner import UserCaptioner, as_caption_network, is_captioner
from resonnx_export.user_code.network import as_network, fitting_example, prepared
from resonnx_export.user_code.opened import Code, Opened, open_code
from resonnx_export.user_code.video import as_video_network, is_video
from resonnx_export.video_classifier.pipeline import VideoSettings
from resonnx_export.video_classifier.pipeline import export_recognised as export_recognised_video
from resonnx_export.vocabulary import Vocabulary

# As sgrvinod's tutorial; the end token ends most captions before.
_MAX_TOKENS: Final = 50


def export_code(code: Code, settings: ClassifierSettings, target: Target, progress: Progress) -> Exported:
    """Run the user's code, load the checkpoint into it, and export the module to a new version in the repository.

    Args:
        code: The code, its arguments and the checkpoint.
        settings: What it leaves open is taken from the library's configuration.
        target: Where to write.
        progress: Called as each stage begins.

    Raises:
        BadInput: The code raises, the checkpoint does not fit, or the settings are wrong; nothing was written.
        ParityFailed: The export differs from the module; nothing was written.
    """
    package.plan(target)
    progress(f"running {code.target}")
    opened = open_code(code, len(settings.labels) if settings.labels else None)
    if is_video(opened.module):
        raise BadInput(f"{opened.architecture} is a video classifier's adapter: give --frames RULE, e.g. --frames all")
    if is_captioner(opened.module):
        raise BadInput(
            f"{opened.architecture} is a captioner's adapter: give the words of its vocabulary with --vocab FILE"
        )
    settings = with_recorded(settings, opened.recorded)
    choice = settings.input
    if isinstance(choice, RecipeChoice):
        if opened.size is not None and choice.changes.size is None:
            choice = replace(choice, changes=replace(choice.changes, size=Size(*opened.size)))
            settings = replace(settings, input=choice)
        recipe = choice.for_layout(opened.layout).recipe
    else:
        recipe = choice
    classes = len(settings.labels) if settings.labels else None
    recognised = recognise_module(opened, recipe, classes, settings.activation or "softmax")
    return _export(recognised, opened, settings, target, progress)


def export_captioner_code(
    code: Code, choice: RecipeChoice, settings: CaptionerSettings, target: Target, progress: Progress
) -> Exported:
    """Run the user's code, load the checkpoint into it, and export the captioner's adapter to a new version.

    Args:
        code: The code, its arguments and the checkpoint.
        choice: The recipe of pictures.
        settings: With the vocabulary; those of `input` and of the checkpoint's reading are not used.
        target: Where to write.
        progress: Called as each stage begins.

    Raises:
        BadInput: The code raises, or encode or step return other things than as_caption_network says; nothing was
            written.
        ParityFailed: The export differs from the adapter; nothing was written.
    """
    package.plan(target)
    progress(f"running {code.target}")
    return _export_adapter(open_code(code, None), choice, settings, target, progress)


def export_captioner(
    adapter: nn.Module,
    vocabulary: Sequence[str],
    target: Target,
    settings: CaptionerSettings | None = None,
    progress: Progress = silent,
) -> Exported:
    """Export a captioner in memory to a new version in the model repository; the adapter is not changed.

    Args:
        adapter: A module with `encode` and `step`, as user_code/captioner.py has them.
        vocabulary: The word of each token id.
        target: Where to write.
        settings: Input recipe, greatest length, special tokens and more; by default torchvision's first recipe.
        progress: Called as each stage begins.

    Raises:
        BadInput, ParityFailed: As export_captioner_code; nothing was written.
    """
    settings = replace(settings or CaptionerSettings(), vocabulary=Vocabulary(tuple(vocabulary)))
    opened = Opened(prepared(copy.deepcopy(adapter)), "module", type(adapter).__name__, _dtypes(adapter))
    return _export_adapter(opened, RecipeChoice(changes=settings.input), settings, target, progress)


def export_video_code(
    code: Code, choice: RecipeChoice, settings: VideoSettings, target: Target, progress: Progress
) -> Exported:
    """Run the user's code, load the checkpoint into it, and export the video classifier's adapter to a new version.

    Args:
        code: The code, its arguments and the checkpoint.
        choice: The recipe of frames.
        settings: Those of `input` and of the checkpoint's reading are not used.
        target: Where to write.
        progress: Called as each stage begins.

    Raises:
        BadInput: The code raises, or encode, classify or step return other things than as_video_network says; nothing
            was written.
        ParityFailed: The export differs from the adapter; nothing was written.
    """
    package.plan(target)
    progress(f"running {code.target}")
    opened = open_code(code, None)
    recipe, note, assumptions = choice.for_layout(opened.layout)
    network = as_video_network(opened.module, recipe.height, recipe.width)
    reads_frames = network.in_channels > 0
    recognised = RecognisedCheckpoint(
        opened.layout,
        opened.architecture,
        network,
        opened.dtypes,
        (note, *opened.notes) if reads_frames else opened.notes,
        opened.assumptions + (assumptions if reads_frames else ()),
        pb.REFERENCE_USER_CODE,
    )
    with _tracing(opened):
        source = VideoSource(recognised, recipe if reads_frames else None, opened.files)
        return export_recognised_video(source, settings, target, progress)


def recognise_adapter(opened: Opened, recipe: pb.ImageInput, vocabulary: Sequence[str]) -> UserCaptioner:
    """Return a captioner's adapter as a network of the exporter. Raises BadInput as as_caption_network."""
    return as_caption_network(opened.module, len(vocabulary), recipe.height, recipe.width)


def _export_adapter(
    opened: Opened, choice: RecipeChoice, settings: CaptionerSettings, target: Target, progress: Progress
) -> Exported:
    assert settings.vocabulary is not None
    recipe, note, assumptions = choice.for_layout(opened.layout)
    words = settings.vocabulary
    network = recognise_adapter(opened, recipe, words.words)
    spec = caption_spec(words, settings.tokens, max_tokens=_MAX_TOKENS, feeds_start=not network.says_first_word)
    if settings.max_tokens is None:
        note += f"; captions: at most {_MAX_TOKENS} tokens (--max-tokens)"
    recognised = RecognisedCheckpoint(
        opened.layout,
        opened.architecture,
        network,
        opened.dtypes,
        (note, *opened.notes),
        opened.assumptions + assumptions,
        pb.REFERENCE_USER_CODE,
    )
    with _tracing(opened):
        source = CaptionSource(recognised, spec, recipe, opened.files)
        return export_recognised_captioner(source, settings, target, progress)


def recognise_module(
    opened: Opened, recipe: pb.ImageInput, classes: int | None, activation: Activation
) -> RecognisedCheckpoint:
    """Return a user's module as a network of the exporter.

    Raises:
        BadInput: The module raises on pictures of the recipe's size, or returns no logits, or probabilities that the
            activation would turn into others.
    """
    example = fitting_example(opened.module, recipe.height, recipe.width)
    network = as_network(opened.module, example, classes, activation)
    return RecognisedCheckpoint(
        opened.layout,
        opened.architecture,
        network,
        opened.dtypes,
        notes=opened.notes,
        assumptions=opened.assumptions,
        reference=pb.REFERENCE_USER_CODE,
    )


def export_module(
    module: nn.Module,
    example: Tensor,
    labels: Sequence[str],
    target: Target,
    settings: ClassifierSettings | None = None,
    progress: Progress = silent,
) -> Exported:
    """Export a classifier in memory to a new version in the model repository; the module is not changed.

    Args:
        module: Maps normalised float pictures [N,C,H,W] to logits [N,K], or an object or mapping with `logits`.
        example: Two or more such pictures.
        labels: K of them, in order.
        target: Where to write.
        settings: Input recipe and more; by default torchvision's first recipe at the example's size.
        progress: Called as each stage begins.

    Raises:
        BadInput: The module returns no logits or cannot be traced, or the settings are wrong; nothing was written.
        ParityFailed: The export differs from the module; nothing was written.
    """
    if example.ndim != 4 or example.shape[0] < 2:
        raise BadInput(f"the example is {list(example.shape)}; two or more pictures [N,C,H,W] are needed")
    if settings is None:
        settings = ClassifierSettings(RecipeChoice(changes=InputChanges(size=Size(*example.shape[2:]))), tuple(labels))
    opened = Opened(prepared(copy.deepcopy(module)), "module", type(module).__name__, _dtypes(module))
    network = as_network(opened.module, example.cpu().float(), len(labels), settings.activation or "softmax")
    recognised = RecognisedCheckpoint(
        opened.layout, opened.architecture, network, opened.dtypes, reference=pb.REFERENCE_USER_CODE
    )
    return _export(recognised, opened, replace(settings, labels=tuple(labels)), target, progress)


def _export(
    recognised: RecognisedCheckpoint, opened: Opened, settings: ClassifierSettings, target: Target, progress: Progress
) -> Exported:
    with _tracing(opened):
        return export_recognised(recognised, opened.files, settings, target, progress)


@contextmanager
def _tracing(opened: Opened) -> Iterator[None]:
    """Turn errors of torch's exporter into BadInput."""
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        reason = error.__cause__ or error
        lines = [line.strip() for line in str(reason).splitlines() if line.strip()] or [type(reason).__name__]
        raise BadInput(f"{opened.architecture} cannot be traced: {lines[0]}") from error


def _dtypes(module: nn.Module) -> tuple[str, ...]:
    return tuple(sorted({str(value.dtype).removeprefix("torch.") for value in module.parameters()}))
