"""`resonnx classify`."""

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Annotated

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.drawing import drawn
from resonnx._commands.inputs import Picture
from resonnx._commands.options import Concurrency, Images, Json, Model, Timeout, inputs
from resonnx._commands.outcomes import print_results
from resonnx._errors import ResonnxError
from resonnx._pictures.heatmaps import draw_heatmaps
from resonnx._results import Classification
from resonnx._tasks.classify import CLASSIFY


@connecting
def classify(
    images: Images,
    model: Model,
    connection: Connection,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, max=2**32 - 1, metavar="K", help="Labels per picture (default: 5, or all if fewer)."),
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, metavar="FILE", help="Write an image of what speaks for each label (red) and against it."
        ),
    ] = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print each picture's labels and their probabilities, best first."""
    pictures = inputs(images)
    if heatmap is not None and len(pictures.names) != 1:
        raise typer.BadParameter("--heatmap draws one picture's labels")

    def ask(client: Client, pictures: Iterable[Picture]) -> Generator[Classification | ResonnxError]:
        if heatmap is not None:
            return drawn(
                client,
                pictures,
                lambda content: client.classify(content, model, top_k=top_k, heatmap=True),
                draw_heatmaps,
                heatmap,
            )
        return client.classify_many(pictures, model, concurrency=concurrency, top_k=top_k)

    print_results(CLASSIFY, ask, pictures, connection, timeout, as_json)
