"""The command line: `resonnx-export classifier | captioner | demo | inspect | verify`.

Exit codes: 0; 1 the export is not equal to the checkpoint, or int8 too far from it, nothing was written; 2 the input is
at fault. What goes wrong is said in one line on stderr.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonnx_export.errors import BadInput, ExportError, ParityFailed
from resonnx_export.options import (
    Activation,
    AllowReduced,
    Calibration,
    DecoderPrecision,
    ExifChoice,
    ExifOrientation,
    Filter,
    MaxAccuracyDrop,
    Mean,
    MinAgreement,
    Name,
    Overwrite,
    Pictures,
    Precision,
    Recipe,
    Repository,
    ResizeFilter,
    ShortSide,
    ShowVersion,
    Size,
    Std,
    StoredDecoderPrecision,
    StoredPrecision,
    Stretch,
    Version,
    numbers,
)

# Torch takes seconds to import, so --help and a mistyped option do without: each command imports what it runs.
if TYPE_CHECKING:
    from resonnx_export.pictures.recipe import InputChanges
    from resonnx_export.publish.package import Exported

_PARITY_FAILED = 1
_BAD_INPUT = 2
_LONGEST_MESSAGE = 2000

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def export(version: ShowVersion = False) -> None:
    """Export trained PyTorch ResNet classifiers and captioners to ONNX, and check that the outputs are PyTorch's."""


@app.command()
def classifier(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The state_dict: .pth, .pt or .safetensors.")
    ],
    labels: Annotated[
        Path, typer.Option(metavar="FILE", help='One a line, a JSON list, or a JSON object {"0": "name"}.')
    ],
    repository: Repository,
    name: Name,
    version: Version = None,
    overwrite: Overwrite = False,
    recipe: Annotated[
        Recipe | None, typer.Option(help="Preprocessing in training.  [default: as the checkpoint's layout suggests]")
    ] = None,
    size: Size = None,
    resize_short_side: ShortSide = None,
    stretch: Stretch = False,
    resize_filter: ResizeFilter = None,
    exif_orientation: ExifChoice = None,
    mean: Mean = None,
    std: Std = None,
    activation: Annotated[Activation, typer.Option(help="Turns logits into probabilities.")] = Activation.SOFTMAX,
    stride_in_1x1: Annotated[
        bool,
        typer.Option(
            "--stride-in-1x1", help="Strides are in the blocks' first convolution, as in Caffe; not told by the keys."
        ),
    ] = False,
    allow_reduced: AllowReduced = True,
    pictures: Pictures = None,
    precision: StoredPrecision = Precision.FP32,
    calibration: Calibration = None,
    min_agreement: MinAgreement = 99.0,
    max_accuracy_drop: MaxAccuracyDrop = 0.5,
) -> None:
    """Export a ResNet classifier. --size, --mean and the like override --recipe."""
    with _one_line_errors():
        from resonnx_export.classifier import ACTIVATIONS, STAGES, ClassifierSettings, export_classifier
        from resonnx_export.labels.labels import read_labels
        from resonnx_export.pictures.calibration import read_samples
        from resonnx_export.pictures.recipes import RecipeChoice
        from resonnx_export.precision.classifier import choose_storage
        from resonnx_export.precision.guard import Limits
        from resonnx_export.progress import progress
        from resonnx_export.publish.package import Target

        changes = _changes(size, resize_short_side, stretch, resize_filter, mean, std, exif_orientation)
        names = read_labels(labels)
        samples = read_samples(pictures, upright=changes.turns_upright) if pictures else ()
        limits = Limits(min_agreement, max_accuracy_drop)
        storage = choose_storage(precision.value, calibration, limits, samples, names)
        settings = ClassifierSettings(
            RecipeChoice(recipe.value if recipe else None, changes),
            names,
            allow_reduced,
            storage,
            samples,
            activation=ACTIVATIONS[activation.value],
            stride_in_1x1=stride_in_1x1,
        )
        with progress(name, STAGES) as tell:
            exported = export_classifier(checkpoint, settings, Target(repository, name, version, overwrite), tell)
        _print_summary(exported)


@app.command()
def captioner(
    files: Annotated[list[Path], typer.Argument(help="The checkpoint's files, in any order.", metavar="FILE...")],
    vocab: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help='vocab.pkl, WORDMAP_*.json, infos_*.pkl; one word a line, or JSON {"word": id}.'
        ),
    ],
    repository: Repository,
    name: Name,
    version: Version = None,
    overwrite: Overwrite = False,
    size: Size = None,
    resize_short_side: ShortSide = None,
    stretch: Stretch = False,
    resize_filter: ResizeFilter = None,
    exif_orientation: ExifChoice = None,
    mean: Mean = None,
    std: Std = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=1000, metavar="N", help="Greatest length of a caption, in tokens.")
    ] = None,
    caffe_resnet: Annotated[
        bool | None,
        typer.Option("--caffe-resnet/--torchvision-resnet", help="Which ResNet's weights a file of their own are for."),
    ] = None,
    residual: Annotated[
        bool,
        typer.Option(
            "--residual",
            help="Stacked cells (a list of nn.LSTMCell, say) add their input to their output, from the second on; keys "
            "do not tell.",
        ),
    ] = False,
    allow_reduced: AllowReduced = False,
    pictures: Pictures = None,
    precision: StoredPrecision = Precision.FP32,
    decoder_precision: StoredDecoderPrecision = DecoderPrecision.FP32,
    calibration: Calibration = None,
    min_agreement: MinAgreement = 99.0,
) -> None:
    """Export a captioner: a recurrent network on a ResNet. What is not given is as the checkpoint's source has it."""
    with _one_line_errors():
        from resonnx_export.captioner import CaptionerSettings, export_captioner, stages
        from resonnx_export.labels.vocabulary import load_vocabulary
        from resonnx_export.pictures.calibration import read_samples
        from resonnx_export.precision.classifier import choose_storage
        from resonnx_export.precision.guard import Limits
        from resonnx_export.progress import progress
        from resonnx_export.publish.package import Target

        changes = _changes(size, resize_short_side, stretch, resize_filter, mean, std, exif_orientation)
        samples = read_samples(pictures, upright=changes.turns_upright) if pictures else ()
        storage = choose_storage(precision.value, calibration, Limits(min_agreement), samples)
        words = load_vocabulary(vocab)
        settings = CaptionerSettings(
            words,
            changes,
            max_tokens,
            caffe_resnet,
            residual,
            allow_reduced,
            storage,
            samples,
            rescore=decoder_precision is DecoderPrecision.INT8_RESCORED,
        )
        with progress(name, stages(settings)) as tell:
            exported = export_captioner(files, settings, Target(repository, name, version, overwrite), tell)
        _print_summary(exported)


@app.command()
def demo(
    repository: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Export the demonstration models `digits` and `scenes` here.")
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train them anew first (some minutes).")] = False,
    precision: StoredPrecision = Precision.FP32,
    samples: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write sample pictures and truth.json here.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Number of samples.")] = 100,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the choice of samples.")] = 0,
) -> None:
    """Export the demonstration models, or write pictures to try them on. Needs resonnx-export[demo]."""
    with _one_line_errors():
        if repository is None and samples is None:
            raise BadInput("give --repository (models) or --samples (pictures), or both")
        try:
            from resonnx_export.demo.samples import write_samples
            from resonnx_export.demonstration import export_demo
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "sklearn":
                raise
            raise BadInput("the demonstration needs scikit-learn: pip install 'resonnx-export[demo]'") from None

        if repository is not None:
            for name, exported in export_demo(repository, retrain=retrain, precision=precision.value):
                if exported is None:
                    typer.echo(f"{repository / name}: already exported from these weights")
                else:
                    _print_summary(exported)
        if samples is not None:
            typer.echo(f"{count} pictures, truth in {write_samples(samples, count, seed)}")


@app.command()
def inspect(checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint file.")]) -> None:
    """Say what a checkpoint file is, or why it is not understood."""
    with _one_line_errors():
        from resonnx_export.inspection import inspect_file

        for title, value in inspect_file(checkpoint):
            typer.echo(f"{title + ':':14}{value}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A version's folder: MODELS/NAME/1.", metavar="MODEL_DIR")],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The file it was exported from, to compare with PyTorch once more."),
    ] = None,
) -> None:
    """Check a version again: checksums, golden examples on each installed execution provider, and its checkpoint."""
    with _one_line_errors():
        from resonnx_export.verification import verify_version

        for line in verify_version(folder, checkpoint or ()):
            typer.echo(line)


def main() -> None:
    """Run the command line."""
    # Read when torch loads its thread pool. By default waiting threads spin, and on processors shared with anyone
    # each small operation then waits for a time slice: captions took 4 s instead of 0.02 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app(prog_name="resonnx-export")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ExportError as error:
        message, code = str(error), _PARITY_FAILED if isinstance(error, ParityFailed) else _BAD_INPUT
    except OSError as error:
        message, code = str(error), _BAD_INPUT
    else:
        return
    print(f"resonnx-export: {_printable(message)}", file=sys.stderr)
    raise typer.Exit(code)


def _printable(message: str) -> str:
    """Return one line of bounded length: messages quote names from files, which may hold anything."""
    line = "".join(character if character.isprintable() else "�" for character in message)
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."


def _changes(
    size: int | None,
    resize_short_side: int | None,
    stretch: bool,
    resize_filter: Filter | None,
    mean: str | None,
    std: str | None,
    exif_orientation: ExifOrientation | None,
) -> "InputChanges":
    from resonnx_export.pictures.recipe import InputChanges

    return InputChanges(
        size,
        resize_short_side,
        stretch,
        resize_filter,
        numbers(mean, "--mean"),
        numbers(std, "--std"),
        exif_orientation,
    )


def _print_summary(exported: "Exported") -> None:
    from resonnx_export.report.summary import summary_lines

    typer.echo("\n".join(summary_lines(exported)))
