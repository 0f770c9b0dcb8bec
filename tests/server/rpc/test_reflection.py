"""Reflection as grpcurl and the like ask it, by both names under which they look for it."""

from collections.abc import Iterable, Iterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2 as pb

V1ALPHA, V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICES = ["resonnx.v1.Vision", "resonnx.v1.Repository", "inference.GRPCInferenceService", "grpc.health.v1.Health"]


@pytest.fixture(scope="module")
def channel(demo_server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(demo_server.grpc) as channel:
        yield channel


class Reflection:
    """Asks one version of the service; both have the same messages but for their package."""

    def __init__(self, channel: grpc.Channel, package: str) -> None:
        self._call = channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )

    def ask(self, *requests: pb.ServerReflectionRequest) -> list[pb.ServerReflectionResponse]:
        return list(self._call(iter(requests), timeout=20))

    def services(self) -> list[str]:
        (answer,) = self.ask(pb.ServerReflectionRequest(list_services=""))
        return [service.name for service in answer.list_services_response.service]

    def pool(self, *symbols: str) -> DescriptorPool:
        """Return a pool of the files that have `symbols`, as a client puts it together."""
        pool, seen = DescriptorPool(), set()
        for answer in self.ask(*(pb.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols)):
            assert not answer.HasField("error_response"), answer
            files = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
            for file in _importable({file.name: file for file in files}):
                if file.name not in seen:
                    pool.Add(file)
                    seen.add(file.name)
        return pool


def _importable(files: dict[str, FileDescriptorProto]) -> Iterable[FileDescriptorProto]:
    """Put files behind what they import."""
    done: dict[str, FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in done:
            for dependency in files[name].dependency:
                add(dependency)
            done[name] = files[name]

    for name in files:
        add(name)
    return done.values()


@pytest.fixture(params=[V1ALPHA, V1])
def reflection(channel: grpc.Channel, request: pytest.FixtureRequest) -> Reflection:
    return Reflection(channel, request.param)


def test_all_services_are_listed(reflection: Reflection) -> None:
    ours = [f"{package}.ServerReflection" for package in (V1ALPHA, V1)]
    assert sorted(reflection.services()) == sorted([*SERVICES, *ours])


def test_every_listed_service_and_each_of_its_methods_is_described(reflection: Reflection) -> None:
    services = reflection.services()
    pool = reflection.pool(*services)
    methods = [method for name in services for method in pool.FindServiceByName(name).methods]
    assert "resonnx.v1.Vision.Classify" in {method.full_name for method in methods}
    described = reflection.pool(*(method.full_name for method in methods))
    for method in methods:
        # What `grpcurl describe` of a method shows.
        found = described.FindServiceByName(method.containing_service.full_name).methods_by_name[method.name]
        assert found.input_type.full_name == method.input_type.full_name


def test_each_version_describes_itself_by_its_own_messages(reflection: Reflection) -> None:
    for package in (V1ALPHA, V1):
        pool = reflection.pool(f"{package}.ServerReflection.ServerReflectionInfo")
        (method,) = pool.FindServiceByName(f"{package}.ServerReflection").methods
        assert method.input_type.full_name == f"{package}.ServerReflectionRequest"
        assert {field.message_type.file.package for field in method.output_type.fields if field.message_type} == {
            package
        }


@pytest.mark.parametrize(
    "symbol",
    [
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
        "google.rpc.BadRequest.FieldViolation",
        "google.rpc.Status",
        "resonnx.v1.Image.encoded",
        "resonnx.v1.Manifest",
        "inference.ModelConfig",
        "inference.ModelInput.Format",
    ],
)
def test_messages_of_statuses_too_are_described(reflection: Reflection, symbol: str) -> None:
    assert reflection.pool(symbol).FindFileContainingSymbol(symbol).name


def test_details_of_a_status_can_be_read_with_what_reflection_gives(reflection: Reflection, channel) -> None:
    call = channel.unary_unary("/resonnx.v1.Vision/Classify")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\x0a\x07unknown", timeout=20)
    (packed,) = [value for key, value in refused.value.trailing_metadata() if key == "grpc-status-details-bin"]
    pool = reflection.pool("google.rpc.Status")
    status = GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status")).FromString(packed)
    name = status.details[0].type_url.removeprefix("type.googleapis.com/")
    detail = GetMessageClass(reflection.pool(name).FindMessageTypeByName(name)).FromString(status.details[0].value)
    assert detail.reason == "MODEL_NOT_FOUND"


def test_files_are_found_by_name(reflection: Reflection) -> None:
    names = ["resonnx/v1/vision.proto", "inference/grpc_service.proto", "google/rpc/error_details.proto"]
    for name, answer in zip(
        names, reflection.ask(*(pb.ServerReflectionRequest(file_by_filename=name) for name in names)), strict=True
    ):
        files = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
        assert name in {file.name for file in files}


def test_what_is_not_there_is_said_so_and_the_stream_goes_on(reflection: Reflection) -> None:
    extension = pb.ExtensionRequest(containing_type="resonnx.v1.Image", extension_number=100)
    unknown = pb.ExtensionRequest(containing_type="resonnx.v1.Nothing", extension_number=100)
    requests = [
        pb.ServerReflectionRequest(file_containing_symbol="resonnx.v1.Vision.Nothing"),
        pb.ServerReflectionRequest(file_containing_symbol="resonnx.v1.Nothing.Classify"),
        pb.ServerReflectionRequest(file_containing_symbol=""),
        pb.ServerReflectionRequest(file_by_filename="nothing.proto"),
        pb.ServerReflectionRequest(file_containing_extension=extension),
        pb.ServerReflectionRequest(file_containing_extension=unknown),
        pb.ServerReflectionRequest(all_extension_numbers_of_type="resonnx.v1.Nothing"),
        pb.ServerReflectionRequest(),
        pb.ServerReflectionRequest(all_extension_numbers_of_type="resonnx.v1.Image"),
        pb.ServerReflectionRequest(list_services=""),
    ]
    *errors, none, extensions, services = reflection.ask(*requests)
    assert [answer.error_response.error_code for answer in errors] == [grpc.StatusCode.NOT_FOUND.value[0]] * 7
    assert none.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert extensions.all_extension_numbers_response.base_type_name == "resonnx.v1.Image"
    assert len(services.list_services_response.service) == 6
    assert errors[0].original_request == requests[0]
