"""A request of the tensor protocol as it was received, its contents apart from the message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.protocol.pieces import Work
from resonnx_server.runtime.session import Array


class Written(Protocol):
    """An input's contents that are written otherwise than protobuf does."""

    @property
    def nbytes(self) -> int:
        """Bytes as they are written."""

    def read(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, are_files: bool) -> Work[Array]:
        """Return the input.

        Args:
            shape: The input's shape.
            dtype: Its dtype; BYTES are objects, each bytes.
            are_files: They are picture files.

        Raises:
            InvalidInput: The contents do not fit.
        """


@dataclass(slots=True)
class InferRequest:
    """A request of the tensor protocol.

    Attributes:
        message: The request without the contents below.
        raw: The raw_input_contents; None for an input that has others.
        typed: Typed contents that were cut out of `message`, serialized, by their input's index.
        size: Bytes of the whole.
        written: Contents in another form, by their input's index.
    """

    message: pb.ModelInferRequest
    raw: Sequence[bytes | memoryview | None]
    typed: Mapping[int, memoryview]
    size: int
    written: Mapping[int, Written] = field(default_factory=dict)
