"""Serialized answers of the tensor protocol, checked against the message limit before they are built, in pieces.

Outputs' contents are appended in protobuf's wire format: protobuf itself would copy them three times while it holds the
GIL. They are always raw: Triton's clients read nothing else.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Final

import numpy as np
from grpc import StatusCode
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import MessageTooLarge, ServerError
from resonnx_server.inference.registry import Model
from resonnx_server.inference.tensors import Tensors
from resonnx_server.protocol.oip import describe
from resonnx_server.protocol.oip.contents import cleared
from resonnx_server.protocol.oip.ranking import best_classes, check_classes, ranked_shape
from resonnx_server.protocol.pieces import Pieces, Work, at_once
from resonnx_server.rpc.boundary import pushback_ms
from resonnx_server.runtime.session import Array
from resonnx_server.runtime.wire import opening

# Limits of content that is made on the event loop, in a fraction of a millisecond.
_SMALL_BYTES: Final = 1 << 18
_SMALL_STRINGS: Final = 1 << 10
_SMALL_RANKED: Final = 1 << 15
# Copied or encoded at once otherwise: about a millisecond.
_PIECE_BYTES: Final = 1 << 20
_PIECE_ELEMENTS: Final = 1 << 13
# Bytes of a class with the shortest value and index.
_SHORTEST_CLASS: Final = len("0.000000:0")

_LENGTH: Final = Struct("<I").pack
# Numbers of the fields that are written here.
_RAW_CONTENTS: Final = pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_INFER_RESPONSE: Final = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER


class Output:
    """A requested output.

    Args:
        name: The output's name.
        array: Numbers, or str or bytes.
        top_k: Number of best classes to return instead; 0 returns the output itself.
        labels: Names of the classes, if they have names.
        batched: Each row is classified on its own.

    Attributes:
        shape: Shape in the answer.
        datatype: Datatype in the answer.
        strings: Number of strings in the answer; 0 for numbers.
        least_bytes: Minimum size of its content; exact for numbers.
    """

    def __init__(
        self, name: str, array: Array, top_k: int = 0, labels: Sequence[str] = (), batched: bool = True
    ) -> None:
        self.name, self.array, self.top_k, self.labels, self.batched = name, array, top_k, labels, batched
        self.shape = ranked_shape(array.shape, top_k, batched=batched) if top_k else array.shape
        is_text = bool(top_k) or array.dtype.hasobject
        self.datatype = "BYTES" if is_text else describe.DATATYPES[array.dtype]
        self.strings = math.prod(self.shape) if is_text else 0
        least_string = 4 + (_SHORTEST_CLASS if top_k else 0)
        self.least_bytes = self.strings * least_string if is_text else array.nbytes


class AnswerEncoder:
    """Makes messages of outputs.

    Args:
        max_message_bytes: The largest answer.
        pieces: The thread that encodes large answers.
    """

    def __init__(self, max_message_bytes: int, pieces: Pieces) -> None:
        self._limit = max_message_bytes
        self._pieces = pieces

    async def answer(
        self,
        request: pb.ModelInferRequest,
        model: Model,
        outputs: Tensors,
        wanted: Sequence[str],
        top_k: Mapping[str, int],
        *,
        streamed: bool,
    ) -> bytes:
        """Return the final answer to a request; raises as `encode`.

        Args:
            request: The request's message.
            model: The model that it is for.
            outputs: The model's outputs by name.
            wanted: Names of the requested outputs.
            top_k: Number of classes to return in place of an output, by output name.
            streamed: The answer is one of ModelStreamInfer.
        """
        labels = model.manifest.classifier.labels if model.manifest is not None else ()
        batched = model.max_batch_size > 0
        head = _head(request, model, is_final=True if streamed else None)
        return await self.encode(
            head,
            [Output(name, _shown(outputs[name], batched), top_k.get(name, 0), labels, batched) for name in wanted],
            streamed=streamed,
        )

    def part(self, request: pb.ModelInferRequest, model: Model, outputs: Tensors, wanted: Sequence[str]) -> bytes:
        """Return an answer of ModelStreamInfer before the final one, made of a few numbers and strings."""
        requested = [Output(name, _shown(outputs[name], True)) for name in wanted]
        return at_once(self._encode(_head(request, model, is_final=False), requested, streamed=True))

    async def encode(self, head: pb.ModelInferResponse, outputs: Sequence[Output], *, streamed: bool = False) -> bytes:
        """Return a ModelInferResponse, or the ModelStreamInferResponse that holds it, serialized.

        Args:
            head: The answer without its outputs, which are added to it.
            outputs: Large string arrays among them are cleared, as freeing many objects at once takes long.
            streamed: The answer is one of ModelStreamInfer.

        Raises:
            MessageTooLarge: It would be over `max_message_bytes`.
            InvalidInput: More than ranking.MAX_CLASSES are requested.
        """
        classes = sum(output.strings for output in outputs if output.top_k)
        if classes:
            check_classes(classes)
        work = self._encode(head, outputs, streamed=streamed)
        if (
            sum(output.least_bytes for output in outputs) <= _SMALL_BYTES
            and sum(output.strings for output in outputs) <= _SMALL_STRINGS
            and sum(output.array.size for output in outputs if output.top_k) <= _SMALL_RANKED
        ):
            return at_once(work)
        try:
            return await self._pieces.run(work)
        finally:
            if any(output.array.dtype.hasobject for output in outputs):
                await self._pieces.run(cleared(output.array for output in outputs))

    def _encode(self, head: pb.ModelInferResponse, outputs: Sequence[Output], *, streamed: bool) -> Work[bytes]:
        sizes = []
        for output in outputs:
            head.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            sizes.append((yield from _measured(output)))
        parts = [head.SerializeToString()]
        size = len(parts[0]) + sum(sizes)
        self._check(size)
        for output, measured in zip(outputs, sizes, strict=True):
            # Replaced when the content's length is known.
            before, content = len(parts), 0
            parts.append(b"")
            for part in _parts(output):
                if part:
                    parts.append(part)
                    content += len(part)
                    # The size of classes is not known before.
                    if content > measured:
                        self._check(size + content - measured)
                yield
            parts[before] = opening(_RAW_CONTENTS, content)
            size += len(parts[before]) + content - measured
        if streamed:
            parts.insert(0, opening(_INFER_RESPONSE, size))
            size += len(parts[0])
        self._check(size)
        # Bytes are joined without the GIL if they are large.
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise MessageTooLarge("the answer", size, self._limit)


def failed(request: pb.ModelInferRequest, _: StatusCode, error: ServerError) -> bytes:
    """Return the final answer to a failed request of a stream, serialized."""
    response = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
    response.parameters["triton_final_response"].bool_param = True
    response.parameters["reason"].string_param = error.reason
    if (pushback := pushback_ms(error)) is not None:
        response.parameters["retry_after_ms"].int64_param = pushback
    return pb.ModelStreamInferResponse(error_message=error.message, infer_response=response).SerializeToString()


def _head(request: pb.ModelInferRequest, model: Model, *, is_final: bool | None) -> pb.ModelInferResponse:
    """Return an answer without its outputs; `is_final` is None where it is no stream's."""
    head = pb.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    if is_final is not None:
        head.parameters["triton_final_response"].bool_param = is_final
    return head


def _shown(array: Array, batched: bool) -> Array:
    """Return an output in the shape that describe.shape announces."""
    return array[..., np.newaxis] if array.ndim == int(batched) else array


def _measured(output: Output) -> Work[int]:
    """Return the size of an output's content; of classes, the minimum."""
    if not output.array.dtype.hasobject or output.top_k:
        return output.least_bytes
    size, flat = output.least_bytes, output.array.ravel()
    for start in range(0, len(flat), _PIECE_ELEMENTS):
        size += sum(map(len, _encoded(flat[start : start + _PIECE_ELEMENTS])))
        yield
    return size


def _parts(output: Output) -> Iterator[bytes]:
    """Yield an output's content; empty pieces while classes are ranked."""
    array = output.array
    if output.top_k:
        for classes in best_classes(array, output.top_k, output.labels, batched=output.batched):
            yield _with_lengths(classes or ())
        return
    flat, is_text = array.reshape(-1), array.dtype.hasobject
    step = _PIECE_ELEMENTS if is_text else max(1, _PIECE_BYTES // array.itemsize)
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        yield _with_lengths(_encoded(piece)) if is_text else piece.tobytes()


def _encoded(strings: Array) -> list[bytes]:
    return [value if isinstance(value, bytes) else str(value).encode() for value in strings.tolist()]


def _with_lengths(elements: Sequence[bytes]) -> bytes:
    return b"".join([part for element in elements for part in (_LENGTH(len(element)), element)])
