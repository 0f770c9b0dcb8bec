"""The command line: `resonnx-export classifier | module | onnx | captioner | video-classifier | demo` and others.

Exit codes: 0; 1 the export differs from the checkpoint, or int8 exceeds its limits, and nothing was written; 2 bad
input. Errors are one line on stderr.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonnx_export.commands.classifying import NetworkOptions
from resonnx_export.commands.demo import demo
from resonnx_export.commands.group import Commands, RunsModels
from resonnx_export.commands.module import SetArguments, module, wanted_code
from resonnx_export.commands.onnx import onnx
from resonnx_export.commands.sign import new_key, sign
from resonnx_export.commands.video import video_classifier
from resonnx_export.errors import BadInput
from resonnx_export.options import (
    AllowReduced,
    Assume,
    ChosenDecoderPrecision,
    Expect,
    MaxTokens,
    Quantisation,
    Samples,
    ShowVersion,
    StrideIn1x1,
    Target,
    Vocab,
    Weights,
    grouped,
    read_assume,
)
from resonnx_export.pictures.recipe import InputChanges
from resonnx_export.special_tokens import SpecialTokens
from resonnx_export.wording import printable

# Torch takes seconds to import, so each command has its own imports: --help and wrong options do without torch.
if TYPE_CHECKING:
    from resonnx_export.publish.package import Exported

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def export(version: ShowVersion = False) -> None:
    """Export PyTorch classifiers, captioners and video classifiers with ResNets to ONNX, and check their outputs."""


@app.command(cls=RunsModels)
@grouped
def classifier(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="The state_dict: .pth, .pt or .safetensors; or a folder of Hugging Face or timm."
        ),
    ],
    target: Target,
    changes: InputChanges,
    quantisation: Quantisation,
    options: NetworkOptions,
    stride_in_1x1: StrideIn1x1 = False,
    assume: Assume = None,
    weights: Weights = None,
) -> None:
    """Export a ResNet classifier. --size, --mean and the like override --recipe."""
    from resonnx_export.classifier import export_classifier, stages
    from resonnx_export.progress import progress_bar

    assumed = read_assume(assume or ())
    settings = options.stored(changes, quantisation)
    settings = replace(settings, stride_in_1x1=stride_in_1x1, weights=weights, assume=assumed)
    with progress_bar(target.name, stages(settings)) as progress:
        exported = export_classifier(checkpoint, settings, target, progress)
    _print_summary(exported)


app.command(cls=RunsModels)(module)
app.command(cls=RunsModels)(onnx)


@app.command(cls=RunsModels)
@grouped
def captioner(
    files: Annotated[list[Path], typer.Argument(help="The checkpoint's files, in any order.", metavar="FILE...")],
    target: Target,
    changes: InputChanges,
    quantisation: Quantisation,
    tokens: SpecialTokens,
    vocab: Vocab = None,
    max_tokens: MaxTokens = None,
    caffe_resnet: Annotated[
        bool | None,
        typer.Option("--caffe-resnet/--torchvision-resnet", help="The ResNet variant of weights in a separate file."),
    ] = None,
    residual: Annotated[
        bool,
        typer.Option(
            "--residual",
            help="Stacked cells (such as a list of nn.LSTMCell) have skip connections from the second on; a checkpoint "
            "does not record them.",
        ),
    ] = False,
    assume: Assume = None,
    allow_reduced: AllowReduced = False,
    pictures: Samples = None,
    expect: Expect = None,
    decoder_precision: ChosenDecoderPrecision = "fp32",
) -> None:
    """Export a captioner: a recurrent network on a ResNet. Options default to the checkpoint's source."""
    from resonnx_export.answers.recorded import read_answers
    from resonnx_export.captioner import CaptionerSettings, export_captioner, stages
    from resonnx_export.pictures.calibration import read_reference, read_samples
    from resonnx_export.precision.guard import Limits
    from resonnx_export.precision.trunk import choose_storage
    from resonnx_export.progress import progress_bar
    from resonnx_export.vocabulary import load_vocabulary

    samples = read_samples(pictures, changes.decoding()) if pictures else ()
    storage = choose_storage(quantisation, Limits(quantisation.min_agreement), samples)
    settings = CaptionerSettings(
        None if vocab is None else load_vocabulary(vocab),
        changes,
        max_tokens,
        caffe_resnet,
        residual,
        allow_reduced,
        storage,
        samples,
        rescore=decoder_precision == "int8-rescored",
        tokens=tokens,
        assume=read_assume(assume or ()),
        expect=read_answers(expect) if expect else None,
        reference=read_reference(pictures) if pictures else None,
    )
    with progress_bar(target.name, stages(settings)) as progress:
        exported = export_captioner(files, settings, target, progress)
    _print_summary(exported)


app.command(cls=RunsModels)(video_classifier)
app.command(cls=RunsModels)(demo)


@app.command()
def inspect(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint file.")],
    weights: Weights = None,
) -> None:
    """Describe a checkpoint file, or say why it cannot be exported."""
    from resonnx_export.inspection import inspect_file

    for title, value in inspect_file(checkpoint, weights):
        typer.echo(printable(f"{title + ':':14}{value}"))


@app.command(cls=RunsModels)
def verify(
    folder: Annotated[Path, typer.Argument(help="A version's folder: MODELS/NAME/1.", metavar="MODEL_DIR")],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The file it was exported from, to compare with PyTorch once more."),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="The code it was exported from, as for `module`; this runs YOUR code."),
    ] = None,
    arguments: SetArguments = None,
    expect: Expect = None,
) -> None:
    """Check a version again: checksums, golden examples on each installed execution provider, and its checkpoint."""
    from resonnx_export.answers.recorded import read_answers
    from resonnx_export.verification import verify_version

    code = wanted_code(module, arguments, checkpoint or ())
    for line in verify_version(folder, checkpoint or (), code, read_answers(expect) if expect else None):
        typer.echo(printable(line))


@app.command()
def record(
    snippet: Annotated[
        bool, typer.Option("--snippet", help="Print a program for environments without this package.")
    ] = False,
) -> None:
    """Record answers of your own model for --expect: see resonnx_export.record, a function for Python."""
    from resonnx_export.answers.snippet import SNIPPET

    if not snippet:
        raise BadInput(
            'answers are recorded where your model runs: call resonnx_export.record(model, pictures, "answers.npz") in '
            "Python, or use the program that `resonnx-export record --snippet` prints"
        )
    typer.echo(SNIPPET, nl=False)


app.command()(sign)
app.command()(new_key)


def _print_summary(exported: "Exported") -> None:
    from resonnx_export.publish.summary import summary_lines

    typer.echo("\n".join(summary_lines(exported)))


def main() -> None:
    """Run the command line."""
    # Read when torch loads its thread pool. By default waiting threads spin, and on shared processors each small
    # operation then waits for a time slice: captions took 4 s instead of 0.02 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app(prog_name="resonnx-export")
