"""Requested outputs: what they are in an answer, and their raw contents, in pieces (see protocol/pieces.py)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Final

import numpy as np

from resonnx_server.errors import InvalidInput
from resonnx_server.inference.class_names import class_names
from resonnx_server.inference.registry import Model
from resonnx_server.inference.tensors import Tensors
from resonnx_server.memory.regions import Place
from resonnx_server.protocol.oip import describe
from resonnx_server.protocol.oip.ranking import best_classes, ranked_shape
from resonnx_server.protocol.oip.shared_memory import SIZE
from resonnx_server.protocol.pieces import Work
from resonnx_server.runtime.session import Array

# Limits of content that is made on the event loop, in a fraction of a millisecond.
SMALL_BYTES: Final = 1 << 18
_SMALL_STRINGS: Final = 1 << 10
_SMALL_RANKED: Final = 1 << 15
# Copied or encoded at once otherwise: about a millisecond.
_PIECE_BYTES: Final = 1 << 20
_PIECE_ELEMENTS: Final = 1 << 13
# Bytes of a class with the shortest value and index.
_SHORTEST_CLASS: Final = len("0.000000:0")

_LENGTH: Final = Struct("<I").pack


class Output:
    """A requested output.

    Args:
        name: The output's name.
        array: Numbers, or str or bytes.
        top_k: Number of best classes to return instead; 0 returns the output itself.
        labels: Names of the classes, if they have names.
        batched: Each row is classified on its own.
        place: Where in shared memory its content goes; None for the answer.

    Attributes:
        shape: Shape in the answer.
        datatype: Datatype in the answer.
        strings: Number of strings in the answer; 0 for numbers.
        least_bytes: Minimum size of its content; exact for numbers.
    """

    def __init__(
        self,
        name: str,
        array: Array,
        top_k: int = 0,
        labels: Sequence[str] = (),
        batched: bool = True,
        place: Place | None = None,
    ) -> None:
        self.name, self.array, self.top_k, self.labels, self.batched = name, array, top_k, labels, batched
        self.place = place
        self.shape = ranked_shape(array.shape, top_k, batched=batched) if top_k else array.shape
        is_text = bool(top_k) or array.dtype.hasobject
        self.datatype = "BYTES" if is_text else describe.DATATYPES[array.dtype]
        self.strings = math.prod(self.shape) if is_text else 0
        least_string = 4 + (_SHORTEST_CLASS if top_k else 0)
        self.least_bytes = self.strings * least_string if is_text else array.nbytes


def requested_outputs(
    model: Model, outputs: Tensors, wanted: Sequence[str], top_k: Mapping[str, int], places: Mapping[str, Place]
) -> list[Output]:
    """Return the requested ones of a model's outputs; arguments are those of serving.Inferred."""
    batched = model.max_batch_size > 0
    labels = {
        name: class_names(model, name, math.prod(outputs[name].shape[int(batched) :]))
        for name in wanted
        if name in top_k
    }
    return [
        Output(
            name,
            shown(outputs[name], batched),
            top_k.get(name, 0),
            labels.get(name, ()),
            batched,
            places.get(name),
        )
        for name in wanted
    ]


def check_place(place: Place, size: int) -> None:
    """Raise InvalidInput if an output's content of `size` bytes does not fit its place."""
    if size > place.size:
        raise InvalidInput(
            place.field, f"{SIZE} is {place.size}, but the output has {size} bytes: name a larger part of the region"
        )


def write(output: Output, place: Place) -> Work[None]:
    """Write an output's content to its place."""
    at = 0
    for part in raw_parts(output):
        place.write(part, at)
        at += len(part)
        yield


def are_small(outputs: Sequence[Output]) -> bool:
    """Whether the content of outputs takes so little time that it is made on the event loop."""
    return (
        sum(output.least_bytes for output in outputs) <= SMALL_BYTES
        and sum(output.strings for output in outputs) <= _SMALL_STRINGS
        and sum(output.array.size for output in outputs if output.top_k) <= _SMALL_RANKED
    )


def shown(array: Array, batched: bool) -> Array:
    """Return an output in the shape that describe.shape announces."""
    return array[..., np.newaxis] if array.ndim == int(batched) else array


def measured(output: Output) -> Work[int]:
    """Return the size of an output's content; of classes, the minimum."""
    if not output.array.dtype.hasobject or output.top_k:
        return output.least_bytes
    size, flat = output.least_bytes, output.array.ravel()
    for start in range(0, len(flat), _PIECE_ELEMENTS):
        size += sum(map(len, _encoded(flat[start : start + _PIECE_ELEMENTS])))
        yield
    return size


def raw_parts(output: Output) -> Iterator[bytes]:
    """Yield an output's raw content; empty pieces while classes are ranked."""
    for piece in element_pieces(output):
        yield _with_lengths(piece) if isinstance(piece, list) else piece.tobytes()


def element_pieces(output: Output) -> Iterator[list[bytes] | Array]:
    """Yield an output's elements, strings or numbers; empty pieces while classes are ranked."""
    array = output.array
    if output.top_k:
        for classes in best_classes(array, output.top_k, output.labels, batched=output.batched):
            yield classes or []
        return
    flat, is_text = array.reshape(-1), array.dtype.hasobject
    step = _PIECE_ELEMENTS if is_text else max(1, _PIECE_BYTES // array.itemsize)
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        yield _encoded(piece) if is_text else piece


def _encoded(strings: Array) -> list[bytes]:
    return [value if isinstance(value, bytes) else str(value).encode() for value in strings.tolist()]


def _with_lengths(elements: Sequence[bytes]) -> bytes:
    return b"".join([part for element in elements for part in (_LENGTH(len(element)), element)])
