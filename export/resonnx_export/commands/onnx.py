"""The command `resonnx-export onnx`."""

from pathlib import Path
from typing import Annotated

import typer

from resonnx_export.options import Activation, Expect, Labels, Samples, Target, grouped
from resonnx_export.pictures.recipe import InputChanges
from resonnx_export.pictures.recipes import RecipeChoice, RecipeName


@grouped
def onnx(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A classifier's ONNX file; its external data is beside it.")
    ],
    target: Target,
    changes: InputChanges,
    labels: Labels = None,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(help="Preprocessing in training.  [default: torchvision-v1, at the file's size]"),
    ] = None,
    activation: Annotated[
        Activation | None,
        typer.Option(help="Turns logits into probabilities.  [default: the one at the graph's end, or softmax]"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The output with the classes.  [default: the only one that can be]"),
    ] = None,
    pictures: Samples = None,
    expect: Expect = None,
) -> None:
    """Export a classifier that is an ONNX file: with preprocessing, labels, golden examples and a report."""
    from resonnx_export.answers.recorded import read_answers
    from resonnx_export.class_names.files import read_class_names
    from resonnx_export.classifier import ClassifierSettings, stages
    from resonnx_export.onnx_classifier import export_onnx
    from resonnx_export.pictures.calibration import read_samples
    from resonnx_export.progress import progress_bar
    from resonnx_export.publish.summary import summary_lines

    named = read_class_names(labels) if labels else None
    samples = read_samples(pictures, changes.decoding()) if pictures else ()
    settings = ClassifierSettings(
        RecipeChoice(recipe, changes),
        named.names if named else None,
        allow_reduced=False,
        samples=samples,
        activation=activation,
        notes=named.notes if named else (),
        expect=read_answers(expect) if expect else None,
    )
    with progress_bar(target.name, stages(settings)) as progress:
        exported = export_onnx(file, settings, target, progress, output)
    typer.echo("\n".join(summary_lines(exported)))
