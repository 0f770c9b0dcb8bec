"""A request of the tensor protocol as it was received, its contents apart from the message."""

from collections.abc import Sequence
from dataclasses import dataclass

from resonnx_proto.inference import grpc_service_pb2 as pb


@dataclass(slots=True)
class InferRequest:
    """A request of the tensor protocol.

    Attributes:
        message: The request without the contents below.
        raw: The raw_input_contents.
        typed: Typed contents that were cut out of `message`, serialized, by their input's index.
        size: Bytes of the whole.
    """

    message: pb.ModelInferRequest
    raw: Sequence[bytes | memoryview]
    typed: dict[int, memoryview]
    size: int
