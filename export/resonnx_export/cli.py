"""The command line: `resonnx-export classifier | captioner | demo | inspect`.

Exit codes: 0; 1 the export is not equal to the checkpoint, nothing was written; 2 the input is at fault. What goes
wrong is said in one line on stderr.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonnx_export.errors import BadInput, ExportError, ParityFailed

# Torch takes seconds to import, so --help and a mistyped option do without: each command imports what it runs.
if TYPE_CHECKING:
    from resonnx_export.package import Exported

_PARITY_FAILED = 1
_BAD_INPUT = 2

app = typer.Typer(
    help="Export trained PyTorch ResNet classifiers and captioners to ONNX, and prove the copies equal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class _Filter(StrEnum):
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"
    NEAREST = "nearest"
    BOX = "box"


_Repository = Annotated[Path, typer.Option(help="The model repository; made if it does not exist.")]
_Name = Annotated[str, typer.Option(help="The model's name in the repository.")]
_Version = Annotated[int | None, typer.Option(min=1, help="The next free number if not given.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the version if it exists.")]
_Size = Annotated[int, typer.Option(min=1, help="Side of the input picture, in pixels.")]
_ResizeFilter = Annotated[_Filter, typer.Option("--filter", help="Pillow's filter for resizing.")]
_Mean = Annotated[str, typer.Option(help="What the training took off pixels scaled to 0..1, for R,G,B.")]
_Std = Annotated[str, typer.Option(help="What it divided them by, for R,G,B.")]
_AllowReduced = Annotated[
    bool, typer.Option("--allow-reduced/--no-allow-reduced", help="Let providers compute in bf16, fp16 and TF32.")
]
_IMAGENET_MEAN = "0.485,0.456,0.406"
_IMAGENET_STD = "0.229,0.224,0.225"


@app.command()
def classifier(
    checkpoint: Annotated[Path, typer.Argument(help="The state_dict: .pth, .pt or .safetensors.")],
    labels: Annotated[Path, typer.Option(help='One a line, a JSON list, or a JSON object {"0": "name"}.')],
    repository: _Repository,
    name: _Name,
    version: _Version = None,
    overwrite: _Overwrite = False,
    size: _Size = 224,
    resize_short_side: Annotated[
        int | None, typer.Option(help="Resize the short side to this, then crop the centre.  [default: size * 256/224]")
    ] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="Resize both sides to the input instead.")] = False,
    resize_filter: _ResizeFilter = _Filter.BILINEAR,
    mean: _Mean = _IMAGENET_MEAN,
    std: _Std = _IMAGENET_STD,
    allow_reduced: _AllowReduced = True,
) -> None:
    """Export a ResNet classifier. The defaults are those of torchvision's first weights (V1)."""
    with _one_line_errors():
        if stretch and resize_short_side is not None:
            raise BadInput("--stretch and --resize-short-side exclude each other")
        from resonnx_export.classifier import STAGES, ClassifierSettings, export_classifier
        from resonnx_export.names import read_labels
        from resonnx_export.package import Target
        from resonnx_export.progress import progress
        from resonnx_export.recipe import image_input

        short_side = None if stretch else resize_short_side or size * 256 // 224
        recipe = image_input(
            size,
            resize_short_side=short_side,
            resize_filter=resize_filter,
            mean=_numbers(mean, "--mean"),
            std=_numbers(std, "--std"),
        )
        settings = ClassifierSettings(recipe, read_labels(labels), allow_reduced)
        with progress(name, STAGES) as tell:
            exported = export_classifier(checkpoint, settings, Target(repository, name, version, overwrite), tell)
        _print_summary(exported)


@app.command()
def captioner(
    files: Annotated[list[Path], typer.Argument(help="The checkpoint file.", metavar="FILE...")],
    vocab: Annotated[Path, typer.Option(help='One word a line, a JSON list, or a JSON object {"word": id}.')],
    repository: _Repository,
    name: _Name,
    version: _Version = None,
    overwrite: _Overwrite = False,
    size: _Size = 256,
    resize_short_side: Annotated[
        int | None, typer.Option(help="Resize the short side to this, then crop the centre; stretch if not given.")
    ] = None,
    resize_filter: _ResizeFilter = _Filter.BILINEAR,
    mean: _Mean = _IMAGENET_MEAN,
    std: _Std = _IMAGENET_STD,
    max_tokens: Annotated[int, typer.Option(min=1, max=1000, help="A caption's greatest length.")] = 50,
    allow_reduced: _AllowReduced = False,
) -> None:
    """Export a ResNet+LSTM captioner."""
    with _one_line_errors():
        if len(files) != 1:
            raise BadInput(f"a captioner of a known layout is one file; {len(files)} were given")
        from resonnx_export.captioner import STAGES, CaptionerSettings, export_captioner
        from resonnx_export.names import read_vocabulary
        from resonnx_export.package import Target
        from resonnx_export.progress import progress
        from resonnx_export.recipe import image_input

        recipe = image_input(
            size,
            resize_short_side=resize_short_side,
            resize_filter=resize_filter,
            mean=_numbers(mean, "--mean"),
            std=_numbers(std, "--std"),
        )
        settings = CaptionerSettings(recipe, read_vocabulary(vocab), max_tokens, allow_reduced)
        with progress(name, STAGES) as tell:
            exported = export_captioner(files[0], settings, Target(repository, name, version, overwrite), tell)
        _print_summary(exported)


@app.command()
def demo(
    repository: Annotated[
        Path | None, typer.Option(help="Export the demonstration models `digits` and `scenes` here.")
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train them anew first (some minutes).")] = False,
    samples: Annotated[Path | None, typer.Option(help="Write sample pictures and truth.json here.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Which samples.")] = 0,
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
            for name, exported in export_demo(repository, retrain=retrain):
                if exported is None:
                    typer.echo(f"{repository / name}: already exported from these weights")
                else:
                    _print_summary(exported)
        if samples is not None:
            typer.echo(f"{count} pictures, truth in {write_samples(samples, count, seed)}")


@app.command()
def inspect(checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file.")]) -> None:
    """Say what a checkpoint file is, or why it is not understood."""
    with _one_line_errors():
        from resonnx_export.checkpoint import load_checkpoint
        from resonnx_export.layouts import recognise
        from resonnx_export.networks import ResNet

        loaded = load_checkpoint(checkpoint)
        recognised = recognise(loaded.state_dict)
        network = recognised.network
        if isinstance(network, ResNet):
            answers = f"{network.config.num_classes} classes" if network.config.num_classes else "none (a trunk)"
        else:
            answers = f"captions of {network.config.vocabulary_size} words"
        for title, value in {
            "layout": recognised.layout,
            "architecture": recognised.architecture,
            "answers": answers,
            "parameters": f"{recognised.parameters:,}",
            "dtype": ", ".join(recognised.dtypes),
            "sha256": loaded.sha256,
        }.items():
            typer.echo(f"{title + ':':14}{value}")


def main() -> None:
    """Run the command line."""
    # Read when torch loads its thread pool. By default waiting threads spin, and on processors shared with anyone
    # each small operation then waits for a time slice: captions took 4 s instead of 0.02 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()


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
    print(f"resonnx-export: {message}", file=sys.stderr)
    raise typer.Exit(code)


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise BadInput(f"{option} {text!r} is not three numbers with commas between") from None


def _print_summary(exported: "Exported") -> None:
    from resonnx_export.summary import summary_lines

    typer.echo("\n".join(summary_lines(exported)))
