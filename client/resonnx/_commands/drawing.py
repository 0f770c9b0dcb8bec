"""Results that are drawn over their picture, in a file."""

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TypeVar

from resonnx._clients.client import Client
from resonnx._commands.inputs import Picture
from resonnx._errors import InvalidArgument, ResonnxError, from_unreadable
from resonnx._pictures.sheet import NothingToDraw
from resonnx._results import CaptionResult, Classification, ModelInfo

R = TypeVar("R", CaptionResult, Classification)


def drawn(
    client: Client,
    pictures: Iterable[Picture],
    ask: Callable[[bytes], R],
    draw: Callable[[bytes, R, ModelInfo, Path], None],
    file: Path,
) -> Generator[R | ResonnxError]:
    """Yield the result of each picture, or its error, after drawing it.

    Args:
        client: Knows the model.
        pictures: The pictures.
        ask: Returns the result of a picture file's contents.
        draw: Draws a result over the contents, in `file`.
        file: The file to write.
    """
    for picture in pictures:
        try:
            content = picture.read()
            result = ask(content)
            model = client.model(result.model, result.version)
            try:
                draw(content, result, model, file)
            except (NothingToDraw, OSError, ValueError) as error:
                raise InvalidArgument(f"{file}: {error}") from None
        except OSError as error:
            yield from_unreadable(error)
        except ResonnxError as error:
            yield error
        else:
            yield result
