"""`resonnx classify-video`."""

from collections.abc import Generator
from pathlib import Path
from typing import Annotated

import typer

from resonnx._clients.client import Client
from resonnx._commands.connection import Connection, connecting
from resonnx._commands.inputs import STDIN, Clips
from resonnx._commands.options import Json, Model, Timeout
from resonnx._commands.outcomes import print_results
from resonnx._errors import Internal, ResonnxError, from_unreadable
from resonnx._pictures.videos import frame_files
from resonnx._tasks.classify_video import CLASSIFY_VIDEO
from resonnx._video_results import VideoClassification, VideoUpdate


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
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Send a folder's frames one by one, and print the best label when it changes."),
    ] = False,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print each video's labels and their probabilities, best first."""
    if stream and as_json:
        raise typer.BadParameter("--stream prints labels as they come: no --json")
    try:
        clips = Clips(videos)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    def ask(client: Client, _: object) -> Generator[VideoClassification | VideoUpdate | ResonnxError]:
        for name in clips.names:
            try:
                if stream:
                    yield _streamed(client, name, model, top_k, timeout, f"{name}: " if clips.named else "")
                    continue
                yield client.classify_video(clips.read(name) if name == STDIN else name, model, top_k=top_k)
            except (OSError, ValueError) as error:
                yield from_unreadable(error)
            except ResonnxError as error:
                yield error

    print_results(CLASSIFY_VIDEO, ask, clips, connection, timeout, as_json)


def _streamed(client: Client, folder: str, model: str, top_k: int | None, timeout_s: float, prefix: str) -> VideoUpdate:
    """Return the last answer to a folder's frames; print the best label of earlier ones when it changes."""
    label = None
    for update in client.classify_video_stream(frame_files(Path(folder)), model, top_k=top_k, timeout_s=timeout_s):
        if update.is_final:
            return update
        best = update.predictions[0]
        if best.label != label:
            label = best.label
            typer.echo(f"{prefix}frame {update.frame}: {label}  {best.score:.2f}")
    raise Internal("the server ended the stream without its last answer")
