"""`resonnx classify`."""

from typing import Annotated

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.options import Images, Json, Model, Timeout, inputs
from resonnx._commands.outcomes import print_results
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
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print each picture's labels and their probabilities, best first."""

    def call(client: Client, picture: bytes) -> Classification:
        return client.classify(picture, model, top_k=top_k)

    print_results(CLASSIFY, call, inputs(images), connection, timeout, as_json)
