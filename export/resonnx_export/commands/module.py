"""The command `resonnx-export module`: the only one that exports by running the user's code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonnx_export.commands.classifying import NetworkOptions
from resonnx_export.commands.video import video_settings
from resonnx_export.errors import BadInput
from resonnx_export.options import (
    ChosenDecoderPrecision,
    MaxTokens,
    Quantisation,
    Target,
    Vocab,
    Weights,
    grouped,
)
from resonnx_export.pictures.recipe import InputChanges
from resonnx_export.pictures.recipes import RecipeChoice
from resonnx_export.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from resonnx_export.user_code.opened import Code

SetArguments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A keyword argument of the class or function; repeatable."),
]


@grouped
def module(
    code: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="package.module:attribute or path/file.py:attribute (a torch.nn.Module, its class, or a function that "
            "returns one), timm:NAME, torchvision:NAME, transformers:FOLDER, lightning:package.module:Class, or a "
            "TorchScript or .pt2 file.",
        ),
    ],
    target: Target,
    changes: InputChanges,
    quantisation: Quantisation,
    tokens: SpecialTokens,
    options: NetworkOptions,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights for the module.  [default: the code has them]")
    ] = None,
    arguments: SetArguments = None,
    weights: Weights = None,
    vocab: Vocab = None,
    max_tokens: MaxTokens = None,
    decoder_precision: ChosenDecoderPrecision = "fp32",
    frames: Annotated[
        str | None, typer.Option(metavar="RULE", help="Of a video classifier: as of the command video-classifier.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, max=4500, metavar="N", help="Likewise: the most frames of a clip.")
    ] = None,
) -> None:
    """Export a network of any class by running YOUR code, with which the ONNX model is then compared.

    With --vocab it is a captioner: a module with encode(images) and step(token, state, features); with --frames a video
    classifier: one with encode(images) and classify(features, lengths). See docs/adapters.md.
    """
    from resonnx_export import captioner
    from resonnx_export.classifier import stages
    from resonnx_export.module import export_captioner_code, export_code
    from resonnx_export.progress import progress_bar
    from resonnx_export.publish.summary import summary_lines
    from resonnx_export.vocabulary import load_vocabulary

    if frames is None and max_frames is not None:
        raise BadInput("--max-frames is for video classifiers: give --frames RULE, too")
    if frames is not None and vocab is not None:
        raise BadInput("--vocab is for captioners, --frames for video classifiers: give one")
    wanted = wanted_code(code, arguments, [checkpoint] if checkpoint else [], weights)
    assert wanted is not None
    if frames is not None:
        _export_video(wanted, target, changes, quantisation, options, frames, max_frames)
        return
    if vocab is not None:
        _refuse("captioners take no", {"--labels": options.labels, "--activation": options.activation})
    else:
        rescored = None if decoder_precision == "fp32" else decoder_precision
        given = {f"--{name.replace('_', '-')}": value for name, value in vars(tokens).items()}
        _refuse("without --vocab there is no", given | {"--max-tokens": max_tokens, "--decoder-precision": rescored})
    if vocab is not None:
        samples = options.samples(changes)
        of_captions = captioner.CaptionerSettings(
            load_vocabulary(vocab),
            max_tokens=max_tokens,
            allow_reduced=options.allow_reduced,
            storage=options.storage(quantisation, samples),
            samples=samples,
            reference=options.reference(),
            rescore=decoder_precision == "int8-rescored",
            tokens=tokens,
            expect=options.answers(),
        )
        with progress_bar(target.name, captioner.stages(of_captions)) as progress:
            exported = export_captioner_code(
                wanted, RecipeChoice(options.recipe, changes), of_captions, target, progress
            )
        typer.echo("\n".join(summary_lines(exported)))
        return
    settings = options.stored(changes, quantisation)
    with progress_bar(target.name, stages(settings)) as progress:
        exported = export_code(wanted, settings, target, progress)
    typer.echo("\n".join(summary_lines(exported)))


def _export_video(
    code: "Code",
    target: Target,
    changes: InputChanges,
    quantisation: Quantisation,
    options: NetworkOptions,
    frames: str,
    max_frames: int | None,
) -> None:
    from resonnx_export.module import export_video_code
    from resonnx_export.progress import progress_bar
    from resonnx_export.publish.summary import summary_lines
    from resonnx_export.video_classifier.pipeline import MAX_FRAMES, stages

    precision = quantisation.precision
    if precision == "fp16":
        raise BadInput(
            "video classifiers are stored in fp32 or int8: --precision fp16 is for classifiers and captioners"
        )
    settings = video_settings(
        options.labels,
        changes,
        frames,
        max_frames or MAX_FRAMES,
        options.activation or "softmax",
        (),
        options.pictures,
        options.expect,
        precision,
        quantisation.calibration,
        quantisation.min_agreement,
        options.max_accuracy_drop,
    )
    with progress_bar(target.name, stages(settings)) as progress:
        exported = export_video_code(code, RecipeChoice(options.recipe, changes), settings, target, progress)
    typer.echo("\n".join(summary_lines(exported)))


def _refuse(why: str, options: Mapping[str, object]) -> None:
    """Raise BadInput if an option is given that the task does not have."""
    if given := [name for name, value in options.items() if value is not None]:
        raise BadInput(f"{why} {', '.join(given)}: a module with --vocab is a captioner, without a classifier")


def wanted_code(
    target: str | None, arguments: Sequence[str] | None, checkpoint: Sequence[Path], weights: str | None = None
) -> "Code | None":
    """Return what TARGET and its options name, after saying on stderr that code will run; None without TARGET.

    Raises:
        BadInput: --set without a TARGET or not NAME=VALUE, or several checkpoints.
    """
    from resonnx_export.user_code.objects import read_arguments
    from resonnx_export.user_code.opened import Code

    if target is None:
        if arguments:
            raise BadInput("--set is for the code of --module")
        return None
    if len(checkpoint) > 1:
        raise BadInput(f"a module takes one checkpoint; {len(checkpoint)} were given")
    code = Code(target, read_arguments(arguments or ()), checkpoint[0] if checkpoint else None, weights)
    typer.echo(f"resonnx-export: this runs the code of {target}, with your permissions", err=True)
    return code
