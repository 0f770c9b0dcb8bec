"""Server reflection, v1alpha and v1, for grpcurl and similar tools.

grpcio-reflection has v1alpha only. Its messages serve both versions, which differ in their package only.
"""

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from resonnx_server.rpc.messages import BoundedMessages
from resonnx_server.rpc.roles import REFLECTION

_V1ALPHA, _V1 = (service.rpartition(".")[0] for service in REFLECTION)
# Messages in the details of a status.
_DETAILS: Final = (status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)


class _ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """Finds methods as well, which the descriptor pool cannot find by name."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        service, _, method = fully_qualified_name.rpartition(".")
        try:
            is_method = method in self._pool.FindServiceByName(service).methods_by_name
        except KeyError:
            is_method = False
        return super()._file_containing_symbol(request, service if is_method else fully_qualified_name)


def add_reflection(server: BoundedMessages, services: Iterable[str], files: Iterable[FileDescriptor]) -> None:
    """Serve reflection of `services`, which are described in `files`, and of itself."""
    pool = _merged_pool([*files, *_DETAILS, reflection_pb2.DESCRIPTOR])
    pool.Add(_as_v1())
    servicer = _ReflectionServicer([*services, *REFLECTION], pool=pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in REFLECTION:
        server.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})


def _merged_pool(files: Iterable[FileDescriptor]) -> DescriptorPool:
    """Return one pool with all of `files` and what they import.

    The private pool of `inference` does not know Vision; the default pool may hold another package's `inference`.
    """
    pool = DescriptorPool()

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        # Nothing happens where it is known.
        pool.Add(proto)

    for file in files:
        add(file)
    return pool


def _as_v1() -> FileDescriptorProto:
    """Return v1's description, as gRPC publishes it: v1alpha's with another package."""
    proto = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(proto)
    proto.name, proto.package = "grpc/reflection/v1/reflection.proto", _V1
    fields = [field for message in proto.message_type for field in message.field if field.type_name]
    for field in fields:
        field.type_name = field.type_name.replace(_V1ALPHA, _V1)
    for method in proto.service[0].method:
        method.input_type = method.input_type.replace(_V1ALPHA, _V1)
        method.output_type = method.output_type.replace(_V1ALPHA, _V1)
    return proto
