"""The description of a task, for the command line and the load generator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from resonnx_proto.v1 import manifest_pb2, vision_pb2

R = TypeVar("R")
"""The task's result."""


@dataclass(frozen=True, slots=True)
class StreamCall:
    """A method that takes a stream of requests and answers each by its id.

    Attributes:
        path: Path of the method, e.g. "/resonnx.v1.Vision/ClassifyStream".
        numbered: Takes an id and the seconds until the request's deadline (None: no deadline); returns bytes to append
            to a serialised request: protobuf merges messages whose bytes are joined.
        outcome: Takes a serialised response; returns its id, the name of its gRPC status code, and its error message.
    """

    path: str
    numbered: Callable[[str, float | None], bytes]
    outcome: Callable[[bytes], tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Task(Generic[R]):
    """A task of models.

    Attributes:
        name: The same in the server and the exporter.
        model: Value of `ModelSummary.task` for models of this task, e.g. "classifier".
        result_lines: Returns a result as lines of text.
        result_json: Returns a result's own fields as JSON values.
        manifest_rows: Returns (name, value) rows that describe the task's part of a manifest.
        path: Path of the method that takes one request, e.g. "/resonnx.v1.Vision/Classify".
        request: Makes a request from a model (NAME, NAME:VERSION or NAME:LABEL) and an image.
        stream: The method that takes a stream of requests, or None.
        input: What a request is about; results as JSON name it by this.
    """

    name: str
    model: str
    result_lines: Callable[[R], list[str]]
    result_json: Callable[[R], dict[str, Any]]
    manifest_rows: Callable[[manifest_pb2.Manifest], list[tuple[str, str]]]
    path: str
    request: Callable[[str, vision_pb2.Image], Message]
    stream: StreamCall | None = None
    input: str = "image"
