"""`resonnx classify-video`."""

from collections.abc import Generator
from typing import Annotated

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.inputs import STDIN, Clips
from resonnx._commands.options import Json, Model, Timeout
from resonnx._commands.outcomes import print_results
from resonnx._errors import ResonnxError, from_unreadable
from resonnx._tasks.classify_video import CLASSIFY_VIDEO
from resonnx._video_results import VideoClassification


@connecting
def classify_video(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO",
            help="Clips' files, folders of frames (ordered by the numbers in their names), or - for standard input.",
        ),
    ],
    model: Model,
    connection: Connection,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, max=2**32 - 1, metavar="K", help="Labels per video (default: 5, or all if fewer)."),
    ] = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print each video's labels and their probabilities, best first."""
    try:
        clips = Clips(videos)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    def ask(client: Client, _: object) -> Generator[VideoClassification | ResonnxError]:
        for name in clips.names:
            try:
                yield client.classify_video(clips.read(name) if name == STDIN else name, model, top_k=top_k)
            except (OSError, ValueError) as error:
                yield from_unreadable(error)
            except ResonnxError as error:
                yield error

    print_results(CLASSIFY_VIDEO, ask, clips, connection, timeout, as_json)
