"""The attention of a captioner's exported graphs, word by word."""

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
from resonnx_export.proof.predictions import CaptionerPredictions
from resonnx_export.report.hardest import Compared, compare_picture
from resonnx_export.report.pictures import overlay_uri

MOST_PICTURES: Final = 3


@dataclass(frozen=True)
class AttendedWord:
    """One word, the attention before it as a data: URI to lay over the input, and its maximum in words."""

    word: str
    overlay: str
    maximum: str


@dataclass(frozen=True)
class Attended:
    """A picture with both captions, and the attention of each word of ONNX Runtime's."""

    compared: Compared
    words: tuple[AttendedWord, ...]


def attended_pictures(
    predictions: CaptionerPredictions, files: Mapping[str, bytes], manifest: pb.Manifest
) -> list[Attended]:
    """Caption some of the pictures again with attention, typical ones first; the manifest has an attention grid."""
    graphs = CaptionerGraphs(open_session(files[ENCODER_FILE]), open_session(files[DECODER_FILE]), manifest)
    pixels = predictions.pictures.pixels
    different = {pixels[row].tobytes(): row for row in reversed(predictions.pictures.typical or range(len(pixels)))}
    return [
        Attended(
            compare_picture(predictions, manifest, row),
            tuple(_attended(token, manifest.captioner) for token in _write(graphs, pixels[row : row + 1], manifest)),
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


def _attended(token: Token, spec: pb.CaptionerSpec) -> AttendedWord:
    assert token.attention is not None
    attention: npt.NDArray[np.float32] = token.attention.reshape(spec.attention_rows, spec.attention_columns)
    rows, columns = attention.shape
    row, column = divmod(int(attention.argmax()), columns)
    share = 100 * attention.max()
    maximum = f"most, {share:.0f} %, in row {row + 1} of {rows}, column {column + 1} of {columns}"
    return AttendedWord(spec.vocabulary[token.id], overlay_uri(attention), maximum)
