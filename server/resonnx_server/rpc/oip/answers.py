"""Serialized answers of the tensor protocol, checked against the message limit before they are built, in pieces.

Outputs' contents are appended in protobuf's wire format: protobuf itself would copy them three times while it holds the
GIL. They are always raw: Triton's clients read nothing else.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from grpc import StatusCode
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import MessageTooLarge, ServerError
from resonnx_server.inference.registry import Model
from resonnx_server.memory.regions import Place
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.protocol.oip.contents import cleared
from resonnx_server.protocol.oip.describe import DATATYPES
from resonnx_server.protocol.oip.outputs import (
    SMALL_BYTES,
    Output,
    are_small,
    check_place,
    measured,
    raw_parts,
    requested_outputs,
    shown,
    write,
)
from resonnx_server.protocol.oip.ranking import check_classes
from resonnx_server.protocol.oip.serving import Inferred
from resonnx_server.protocol.oip.shared_memory import OFFSET, REGION, SIZE
from resonnx_server.protocol.pieces import Pieces, Work, at_once
from resonnx_server.rpc.boundary import pushback_ms
from resonnx_server.runtime.wire import opening

# Numbers of the fields that are written here.
_RAW_CONTENTS: Final = pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_INFER_RESPONSE: Final = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
# The parameter that says whether an answer of a stream is its request's last.
_FINAL: Final = "triton_final_response"
_ID: Final = pb.ModelInferResponse.ID_FIELD_NUMBER
# Answers whose descriptions are kept: models, times the shapes of their outputs.
_KEPT_DESCRIPTIONS: Final = 256

# An output's name, datatype and shape.
_Description = tuple[str, str, tuple[int, ...]]


class AnswerEncoder:
    """Makes messages of outputs.

    Args:
        max_message_bytes: The largest answer.
        pieces: The thread that encodes large answers.
    """

    def __init__(self, max_message_bytes: int, pieces: Pieces) -> None:
        self._limit = max_message_bytes
        self._pieces = pieces

    async def answer(self, request: pb.ModelInferRequest, inferred: Inferred, *, streamed: bool) -> bytes:
        """Return the final answer to a request; raises as `encode`.

        Args:
            request: The request's message.
            inferred: Its outputs.
            streamed: The answer is one of ModelStreamInfer.
        """
        if (answer := self._of_numbers(request.id, inferred, streamed=streamed)) is not None:
            return answer
        head = _head(request, inferred.model, is_final=True if streamed else None)
        return await self.encode(head, requested_outputs(*inferred), streamed=streamed)

    def part(self, request: pb.ModelInferRequest, inferred: Inferred) -> bytes:
        """Return an answer of ModelStreamInfer before the final one, made of a few numbers and strings."""
        head = _head(request, inferred.model, is_final=False)
        return at_once(self._encode(head, requested_outputs(*inferred), streamed=True))

    async def encode(self, head: pb.ModelInferResponse, outputs: Sequence[Output], *, streamed: bool = False) -> bytes:
        """Return a ModelInferResponse, or the ModelStreamInferResponse that holds it, serialized.

        Args:
            head: The answer without its outputs, which are added to it.
            outputs: Large string arrays among them are cleared, as freeing many objects at once takes long.
            streamed: The answer is one of ModelStreamInfer.

        Raises:
            MessageTooLarge: It would be over `max_message_bytes`.
            InvalidInput: An output does not fit its place in shared memory, or more than ranking.MAX_CLASSES are
                requested.
        """
        classes = sum(output.strings for output in outputs if output.top_k)
        if classes:
            check_classes(classes)
        work = self._encode(head, outputs, streamed=streamed)
        if are_small(outputs):
            return at_once(work)
        try:
            return await self._pieces.run(work)
        finally:
            if any(output.array.dtype.hasobject for output in outputs):
                await self._pieces.run(cleared(output.array for output in outputs))

    def _of_numbers(self, identifier: str, inferred: Inferred, *, streamed: bool) -> bytes | None:
        """Return the final answer if all of it is a few numbers, else None; raises as `encode`.

        Such answers differ in their ids and numbers alone, and what describes them is made once: the shortest way for
        the answers that callers wait for the least.
        """
        model, outputs, wanted, top_k, places = inferred
        if top_k or places:
            return None
        described: list[_Description] = []
        contents: list[bytes] = []
        size, is_batched = 0, model.max_batch_size > 0
        for name in wanted:
            array = shown(outputs[name], is_batched)
            size += array.nbytes
            if size > SMALL_BYTES or array.dtype.hasobject:
                return None
            described.append((name, DATATYPES[array.dtype], array.shape))
            contents += opening(_RAW_CONTENTS, array.nbytes), array.tobytes()
        before, after = _described(model.name, model.version, tuple(described), streamed=streamed)
        if identifier:
            written = identifier.encode()
            contents = [before, opening(_ID, len(written)), written, after, *contents]
        else:
            contents = [before, after, *contents]
        if streamed:
            contents.insert(0, opening(_INFER_RESPONSE, sum(map(len, contents))))
        answer = b"".join(contents)
        self._check(len(answer))
        return answer

    def _encode(self, head: pb.ModelInferResponse, outputs: Sequence[Output], *, streamed: bool) -> Work[bytes]:
        sizes = []
        for output in outputs:
            described = head.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            expected = yield from measured(output)
            if output.place is not None:
                check_place(output.place, expected)
                _describe_place(described, output.place, expected)
                expected = 0
            sizes.append(expected)
        parts = [head.SerializeToString()]
        size = len(parts[0]) + sum(sizes)
        self._check(size)
        for output, expected in zip(outputs, sizes, strict=True):
            # Replaced when the content's length is known.
            before, content = len(parts), 0
            parts.append(b"")
            if output.place is not None:
                yield from write(output, output.place)
                parts[before] = opening(_RAW_CONTENTS, 0)
                size += len(parts[before])
                continue
            for part in raw_parts(output):
                if part:
                    parts.append(part)
                    content += len(part)
                    # The size of classes is not known before.
                    if content > expected:
                        self._check(size + content - expected)
                yield
            parts[before] = opening(_RAW_CONTENTS, content)
            size += len(parts[before]) + content - expected
        if streamed:
            parts.insert(0, opening(_INFER_RESPONSE, size))
            size += len(parts[0])
        self._check(size)
        # Bytes are joined without the GIL if they are large.
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise MessageTooLarge("the answer", size, self._limit)


@lru_cache(_KEPT_DESCRIPTIONS)
def _described(name: str, version: int, outputs: tuple[_Description, ...], *, streamed: bool) -> tuple[bytes, bytes]:
    """Return what stands before the id of a final answer, and what stands behind it, without outputs' contents."""
    before = pb.ModelInferResponse(model_name=name, model_version=str(version))
    after = pb.ModelInferResponse()
    if streamed:
        after.parameters[_FINAL].bool_param = True
    for output, datatype, shape in outputs:
        after.outputs.add(name=output, datatype=datatype, shape=shape)
    return before.SerializeToString(), after.SerializeToString()


def _describe_place(described: pb.ModelInferResponse.InferOutputTensor, place: Place, size: int) -> None:
    """Say in an answer where an output's content of `size` bytes is."""
    described.parameters[REGION].string_param = place.region.name
    described.parameters[SIZE].int64_param = size
    if place.offset:
        described.parameters[OFFSET].int64_param = place.offset


def failed(request: pb.ModelInferRequest, _: StatusCode, error: ServerError) -> bytes:
    """Return the final answer to a failed request of a stream, serialized."""
    response = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
    response.parameters[_FINAL].bool_param = True
    response.parameters["reason"].string_param = error.reason
    if (identity := IDENTITY.get()) is not None:
        response.parameters["request_id"].string_param = identity.id
    if (pushback := pushback_ms(error)) is not None:
        response.parameters["retry_after_ms"].int64_param = pushback
    return pb.ModelStreamInferResponse(error_message=error.message, infer_response=response).SerializeToString()


def _head(request: pb.ModelInferRequest, model: Model, *, is_final: bool | None) -> pb.ModelInferResponse:
    """Return an answer without its outputs; `is_final` is None where it is no stream's."""
    head = pb.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    if is_final is not None:
        head.parameters[_FINAL].bool_param = is_final
    return head
