"""The command `resonnx-export demo`."""

from pathlib import Path
from typing import Annotated

import typer

from resonnx_export.errors import BadInput
from resonnx_export.options import StoredPrecision


def demo(
    repository: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Export the demonstration models `digits`, `scenes` and `gestures` here."),
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train them anew first (some minutes).")] = False,
    precision: StoredPrecision = "fp32",
    samples: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write sample pictures, clips and truth.json here.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Number of sample pictures.")] = 100,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the choice of samples.")] = 0,
) -> None:
    """Export the demonstration models, or write pictures and clips to try them on."""
    if repository is None and samples is None:
        raise BadInput("give --repository (models) or --samples (pictures), or both")
    from resonnx_export.demo.samples import write_samples
    from resonnx_export.demonstration import export_demo
    from resonnx_export.publish.summary import summary_lines

    if repository is not None:
        for name, exported in export_demo(repository, retrain=retrain, precision=precision):
            if exported is None:
                typer.echo(f"{repository / name}: already exported from these weights")
            else:
                typer.echo("\n".join(summary_lines(exported)))
    if samples is not None:
        typer.echo(f"{count} pictures, truth in {write_samples(samples, count, seed)}")
