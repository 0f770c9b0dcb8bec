"""`resonnx classify`."""

from collections.abc import Generator, Iterable
from typing import Annotated

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.inputs import Picture
from resonnx._commands.options import Concurrency, Images, Json, Model, Timeout, inputs
from resonnx._commands.outcomes import print_results
from resonnx._errors import ResonnxError
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
    concurrency: Concurrency = 16,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print each picture's labels and their probabilities, best first."""

    def ask(client: Client, pictures: Iterable[Picture]) -> Generator[Classification | ResonnxError]:
        return client.classify_many(pictures, model, concurrency=concurrency, top_k=top_k)

    print_results(CLASSIFY, ask, inputs(images), connection, timeout, as_json)
