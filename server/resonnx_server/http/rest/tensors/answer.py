"""Answers of the Open Inference Protocol in JSON, with the contents of outputs in it or after it, in pieces.

Numbers are written so that they read back as the same bits, as 64-bit numbers: JSON has no others.
"""

import base64
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from resonnx_server.errors import MessageTooLarge
from resonnx_server.http.rest.json_text import to_json
from resonnx_server.http.rest.tensors.request import BASE64, CONTENT_TYPE, Asked
from resonnx_server.inference.registry import Model
from resonnx_server.memory.budget import Charge
from resonnx_server.protocol.oip.outputs import Output, element_pieces, raw_parts
from resonnx_server.protocol.pieces import Work
from resonnx_server.runtime.bfloat16 import comparable
from resonnx_server.runtime.session import Array

# Written at once: about a millisecond.
_PIECE_ELEMENTS: Final = 1 << 11


class Answer(NamedTuple):
    """An answer's body.

    Attributes:
        body: JSON, and binary data after it.
        head_bytes: Bytes of the JSON if binary data follows it; None if all is JSON.
    """

    body: bytes
    head_bytes: int | None


def write_answer(
    identifier: str, model: Model, outputs: Sequence[Output], asked: Asked, charge: Charge, most: int
) -> Work[Answer]:
    """Return the answer to a request.

    Args:
        identifier: The request's id; "" for none.
        model: Has answered.
        outputs: The requested outputs.
        asked: Which of them are asked for as binary data.
        charge: Holds the answer.
        most: Limit of its size, in bytes.

    Raises:
        MessageTooLarge: It is over the limit.
        MemorySpent: The memory budget is spent.
    """
    writer = _Writer(charge, most)
    head: dict[str, Any] = {"model_name": model.name, "model_version": str(model.version)}
    if identifier:
        head["id"] = identifier
    writer.add(_open(head), b',"outputs":[')
    binary: list[bytes] = []
    for i, output in enumerate(outputs):
        if i:
            writer.add(b",")
        shown = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if asked.is_binary(output.name):
            before = writer.size
            for part in raw_parts(output):
                binary.append(part)
                writer.count(part)
                yield
            writer.add(to_json({**shown, "parameters": {"binary_data_size": writer.size - before}}))
        else:
            writer.add(_open(shown), b',"data":[')
            yield from _write_data(output, writer)
            writer.add(b"}")
    writer.add(b"]}")
    text = b"".join(writer.parts)
    if not any(asked.is_binary(output.name) for output in outputs):
        return Answer(text, None)
    return Answer(b"".join((text, *binary)), len(text))


class _Writer:
    """Parts of an answer, whose size is limited and charged."""

    def __init__(self, charge: Charge, most: int) -> None:
        self._charge = charge
        self._most = most
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, *parts: bytes) -> None:
        """Append parts of the JSON."""
        for part in parts:
            self.count(part)
        self.parts += parts

    def count(self, part: bytes) -> None:
        """Count a part's bytes."""
        self.size += len(part)
        if self.size > self._most:
            raise MessageTooLarge("the answer", self.size, self._most)
        # Held twice while the parts are joined.
        self._charge.resize(2 * self.size, answer=True)

    def drop(self, count: int) -> None:
        """Drop all parts after the first `count`."""
        self.size -= sum(map(len, self.parts[count:]))
        del self.parts[count:]


def _write_data(output: Output, writer: _Writer) -> Work[None]:
    """Write an output's elements and the bracket after them."""
    count = len(writer.parts)
    try:
        yield from _write(_written(output, is_base64=False), writer)
    except UnicodeDecodeError:
        # JSON cannot hold other bytes than text.
        writer.drop(count)
        yield from _write(_written(output, is_base64=True), writer)
        writer.add(b'],"parameters":', to_json({CONTENT_TYPE: BASE64}))
    else:
        writer.add(b"]")


def _write(pieces: Iterator[bytes], writer: _Writer) -> Work[None]:
    is_first = True
    for piece in pieces:
        if piece:
            writer.add(piece if is_first else b"," + piece)
            is_first = False
        yield


def _written(output: Output, *, is_base64: bool) -> Iterator[bytes]:
    """Yield elements as JSON, without brackets; empty pieces after other work."""
    for piece in element_pieces(output):
        for start in range(0, len(piece), _PIECE_ELEMENTS):
            part = piece[start : start + _PIECE_ELEMENTS]
            if not isinstance(part, list):
                yield to_json(_numbers(part))[1:-1]
            elif is_base64:
                yield to_json([base64.b64encode(element).decode() for element in part])[1:-1]
            else:
                yield to_json([element.decode() for element in part])[1:-1]
        if not len(piece):
            yield b""


def _numbers(array: Array) -> list[Any]:
    array = comparable(array)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return list(array.tolist())
    return [value if np.isfinite(value) else _special(value) for value in array.tolist()]


def _special(value: float) -> str:
    """Return what JSON has no number for, as protobuf's JSON writes it."""
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _open(head: dict[str, Any]) -> bytes:
    """Return an object as JSON without its closing bracket."""
    return to_json(head)[:-1]
