"""The command `resonnx-export onnx`."""

from pathlib import Path
from typing import Annotated

import typer

from resonnx_export.commands.classifying import ClassifierOptions
from resonnx_export.options import Target, grouped
from resonnx_export.pictures.recipe import InputChanges


@grouped
def onnx(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A classifier's ONNX file; its external data is beside it.")
    ],
    target: Target,
    changes: InputChanges,
    options: ClassifierOptions,
    output: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The output with the classes.  [default: the only one that can be]"),
    ] = None,
) -> None:
    """Export a classifier that is an ONNX file: with preprocessing, labels, golden examples and a report."""
    from resonnx_export.classifier import stages
    from resonnx_export.onnx_classifier import export_onnx
    from resonnx_export.progress import progress_bar
    from resonnx_export.publish.summary import summary_lines

    settings = options.settings(changes)
    with progress_bar(target.name, stages(settings)) as progress:
        exported = export_onnx(file, settings, target, progress, output)
    typer.echo("\n".join(summary_lines(exported)))
