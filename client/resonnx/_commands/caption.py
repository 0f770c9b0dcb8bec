"""`resonnx caption`."""

from collections.abc import Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from resonnx._caption_options import CaptionOptions
from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.drawing import drawn
from resonnx._commands.inputs import Picture
from resonnx._commands.options import Concurrency, Images, Json, Model, Timeout, inputs
from resonnx._commands.outcomes import print_each, print_results
from resonnx._errors import Internal, ResonnxError
from resonnx._pictures.attention import draw_attention
from resonnx._results import CaptionResult
from resonnx._tasks.caption import CAPTION


@connecting
def caption(
    images: Images,
    model: Model,
    connection: Connection,
    stream: Annotated[bool, typer.Option("--stream", help="Print words as they are decoded.")] = False,
    beam_width: Annotated[
        int | None, typer.Option(min=1, max=10, metavar="WIDTH", help="Beam width; 1 is greedy search.")
    ] = None,
    captions: Annotated[
        int, typer.Option(min=1, max=10, metavar="N", help="Captions per picture, best first; at most --beam-width.")
    ] = 1,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=2**32 - 1, metavar="N", help="Maximum length in tokens, with the end token."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature; 0 takes the most probable words.")
    ] = 0.0,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="Seed of the sampling: the same seed gives the same words.")
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="Write an image of the attention for each word."),
    ] = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print a caption for each picture."""
    if stream and (as_json or captions > 1):
        raise typer.BadParameter("--stream prints one caption's words: no --json, no --captions")
    pictures = inputs(images)
    if attention is not None and (stream or len(pictures.names) != 1):
        raise typer.BadParameter("--attention draws one picture's words, and not with --stream")
    options = CaptionOptions(num_captions=captions, temperature=temperature, attention=attention is not None)
    if beam_width is not None:
        options["beam_width"] = beam_width
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed

    def ask(client: Client, pictures: Iterable[Picture]) -> Generator[CaptionResult | ResonnxError]:
        if attention is not None:
            return drawn(
                client, pictures, lambda content: client.caption(content, model, **options), draw_attention, attention
            )
        return client.caption_many(pictures, model, concurrency=concurrency, **options)

    if stream:
        print_each(partial(_print_words, model, options), pictures, connection, timeout)
    else:
        print_results(CAPTION, ask, pictures, connection, timeout, as_json)


def _print_words(model: str, options: CaptionOptions, prefix: str, client: Client, picture: bytes) -> None:
    """Print a caption's words as they come, on one line."""
    line_begun = False
    try:
        for event in client.stream_caption(picture, model, **options):
            if isinstance(event, CaptionResult):
                typer.echo("" if line_begun else prefix, nl=False)
                line_begun = True
                return
            typer.echo(f"{' ' if line_begun else prefix}{event.text}", nl=False)
            line_begun = True
        raise Internal("the server ended the stream without a final caption")
    finally:
        if line_begun:
            typer.echo()
