"""Where a captioner looks as it writes: the exported graphs' attention, word by word."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.decoding.greedy import Greedy
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.proof.parity import open_session
from resonnx_export.proof.predictions import CaptionerAnswers
from resonnx_export.report.pictures import overlay_uri
from resonnx_export.report.worst import Compared, compare_picture

MOST_PICTURES: Final = 3


@dataclass(frozen=True)
class Glance:
    """One word and where the decoder looked for it.

    Attributes:
        word: As the vocabulary has it.
        overlay: The attention as a picture to lay over the input, a data: URI.
        place: Where most of it lies, in words.
    """

    word: str
    overlay: str
    place: str


@dataclass(frozen=True)
class Attended:
    """A picture with both captions, and a glance for each word of the graphs'."""

    compared: Compared
    glances: tuple[Glance, ...]


def attended_pictures(answers: CaptionerAnswers, files: Mapping[str, bytes], manifest: pb.Manifest) -> list[Attended]:
    """Let the graphs caption a few of the pictures again, those first that the model is meant for.

    Args:
        answers: Whose pictures.
        files: The ONNX files by name.
        manifest: With an attention grid.
    """
    graphs = CaptionerGraphs(open_session(files[ENCODER_FILE]), open_session(files[DECODER_FILE]), manifest)
    pixels = answers.pictures.pixels
    different = {pixels[row].tobytes(): row for row in reversed(answers.pictures.typical or range(len(pixels)))}
    return [
        Attended(
            compare_picture(answers, manifest, row),
            tuple(_glance(token, manifest.captioner) for token in _write(graphs, pixels[row : row + 1], manifest)),
        )
        for row in sorted(different.values())[:MOST_PICTURES]
    ]


def _write(graphs: CaptionerGraphs, picture: Pixels, manifest: pb.Manifest) -> list[Token]:
    """Return the words of the greedy caption of uint8 [1,H,W,3], with their attention."""
    search = Greedy(manifest.captioner, DecodeOptions(manifest.captioner.max_tokens, attention=True))
    state, features, _ = graphs.encode(picture)
    while not search.finished:
        step = graphs.step(np.array(search.tokens, np.int64), state, features, attention=True)
        state = step.state
        search.advance(StepOutput.of_step(step), (0,))
    return search.ranked()[0][0].shown()


def _glance(token: Token, spec: pb.CaptionerSpec) -> Glance:
    assert token.attention is not None
    attention = token.attention.reshape(spec.attention_rows, spec.attention_columns)
    return Glance(spec.vocabulary[token.id], overlay_uri(attention), _place(attention))


def _place(attention: npt.NDArray[np.float32]) -> str:
    rows, columns = attention.shape
    row, column = divmod(int(attention.argmax()), columns)
    return f"most, {100 * attention.max():.0f} %, in row {row + 1} of {rows}, column {column + 1} of {columns}"
