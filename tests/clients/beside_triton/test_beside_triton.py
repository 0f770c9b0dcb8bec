"""The same requests to Triton and to this server: the same outcomes, but for what docs/triton.md lists."""

import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from . import triton_server

pytestmark = pytest.mark.slow

Stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub
_DTYPES = {"FP32": "<f4", "INT64": "<i8", "FP16": "<f2", "BOOL": "?", "INT32": "<i4"}


def _request(
    model: str = "doubling",
    shape: tuple[int, ...] = (1, 3),
    datatype: str = "FP32",
    *,
    raw: bytes | None = None,
    classes: Any = None,
    version: str = "",
    name: str = "x",
    **parameters: Any,
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, model_version=version, id="seven")
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    count = math.prod(max(size, 0) for size in shape)
    if raw is None and datatype == "BYTES":
        raw = b"".join(struct.pack("<I", 1) + bytes([letter]) for letter in range(97, 97 + count))
    if raw is None:
        raw = np.arange(1, count + 1).astype(_DTYPES[datatype]).tobytes()
    request.raw_input_contents.append(raw)
    if classes is not None:
        _set(request.outputs.add(name="y").parameters["classification"], classes)
    for key, value in parameters.items():
        _set(request.parameters[key], value)
    return request


def _set(parameter: pb.InferParameter, value: Any) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    setattr(parameter, kinds[type(value)], value)


def _typed(field: str, values: list[Any], *, keeps_raw: bool = False) -> pb.ModelInferRequest:
    request = _request()
    getattr(request.inputs[0].contents, field).extend(values)
    if not keeps_raw:
        del request.raw_input_contents[:]
    return request


def _with(outputs: tuple[str, ...] = (), raw: tuple[bytes, ...] = ()) -> pb.ModelInferRequest:
    request = _request()
    for name in outputs:
        request.outputs.add(name=name)
    request.raw_input_contents.extend(raw)
    return request


def _in_region(region: str) -> pb.ModelInferRequest:
    request = _request()
    del request.raw_input_contents[:]
    _set(request.inputs[0].parameters["shared_memory_region"], region)
    _set(request.inputs[0].parameters["shared_memory_byte_size"], 12)
    return request


REQUESTS = {
    "one row": _request(),
    "eight rows": _request(shape=(8, 3)),
    "more rows than max_batch_size": _request(shape=(9, 3)),
    "no rows": _request(shape=(0, 3)),
    "typed": _typed("fp32_contents", [1, 2, 3]),
    "too few values": _typed("fp32_contents", [1, 2]),
    "too many values": _typed("fp32_contents", [1, 2, 3, 4]),
    "values of another field": _typed("int_contents", [1, 2, 3]),
    "values and raw": _typed("fp32_contents", [1, 2, 3], keeps_raw=True),
    "too few bytes": _request(raw=bytes(8)),
    "too many bytes": _request(raw=bytes(16)),
    "more raw contents than inputs": _with(raw=(bytes(12),)),
    "another datatype": _request(datatype="INT32"),
    "an unknown datatype": _request(datatype="FLOAT", raw=bytes(12)),
    "another size": _request(shape=(1, 4)),
    "no batch axis": _request(shape=(3,)),
    "one axis more": _request(shape=(1, 1, 3)),
    "a negative size": _request(shape=(-1, 3), raw=bytes(12)),
    "another input": _request(name="z"),
    "no inputs": pb.ModelInferRequest(model_name="doubling"),
    "an output": _with(("y",)),
    "another output": _with(("z",)),
    "an output twice": _with(("y", "y")),
    "an unknown model": _request("nobody"),
    "no model": _request(""),
    "an unknown version": _request(version="7"),
    "a version of the policy": _request("versions", (1, 2), version="1"),
    "a version beside the policy": _request("versions", (1, 2), version="2"),
    "the default version": _request("versions", (1, 2)),
    "the latest version": _request("latest", (1, 2)),
    "an earlier version": _request("latest", (1, 2), version="1"),
    "a version that is no number": _request(version="abc"),
    "version 0": _request(version="0"),
    **{f"priority {priority}": _request("levels", priority=priority) for priority in (0, 1, 4, 5, -1)},
    "a priority of text": _request(priority="1"),
    "a timeout": _request("levels", timeout=10**7),
    "a negative timeout": _request(timeout=-1),
    "a sequence": _request(sequence_id=5, sequence_start=True, sequence_end=True),
    "a number that is no bool": _request(triton_enable_empty_final_response=1),
    "a reserved parameter": _request(triton_x=1),
    "other parameters": _request(anything="x", more=1, headers="y", binary_data_output=True),
    "the best class": _request("labelled", (2, 4), classes=1),
    "more classes than there are": _request("labelled", (1, 4), classes=9),
    "no classes": _request("labelled", (1, 4), classes=0),
    "a negative number of classes": _request("labelled", (1, 4), classes=-1),
    "a text for the number of classes": _request("labelled", (1, 4), classes="1"),
    "classes without a batch axis": _request("fixed", (2, 3), "INT64", classes=2),
    "classes of FP16": _request("halves", (1, 2), "FP16", classes=1),
    "classes of BOOL": _request("flags", (1, 2), "BOOL", classes=1),
    "reshaped": _request("reshaped", (3, 1)),
    "not reshaped": _request("reshaped", (3,)),
    "a fixed shape": _request("fixed", (2, 3), "INT64"),
    "a batch axis too many": _request("fixed", (1, 2, 3), "INT64"),
    "too few strings": _request("strings", (1, 2), "BYTES", raw=b"\1\0\0\0a"),
    "a string that breaks off": _request("strings", (1, 2), "BYTES", raw=b"\x09\0\0\0a"),
    "no bytes of strings": _request("strings", (1, 2), "BYTES", raw=b""),
    "FP16": _request("halves", (2, 2), "FP16"),
    "BOOL": _request("flags", (2, 2), "BOOL"),
    "an unknown region": _in_region("nobody"),
}
_ACCEPTED = "accepted"
# What docs/triton.md lists: Triton's outcome and this server's.
DIFFERENCES = {
    "more rows than max_batch_size": ("INVALID_ARGUMENT", _ACCEPTED),
    "more raw contents than inputs": (_ACCEPTED, "INVALID_ARGUMENT"),
    "an output twice": (_ACCEPTED, "INVALID_ARGUMENT"),
    "a version that is no number": ("INVALID_ARGUMENT", "NOT_FOUND"),
    "version 0": ("NOT_FOUND", _ACCEPTED),
    "a negative timeout": (_ACCEPTED, "INVALID_ARGUMENT"),
    "a number that is no bool": ("INVALID_ARGUMENT", _ACCEPTED),
    "no classes": ("INVALID_ARGUMENT", _ACCEPTED),
    "classes of FP16": ("INVALID_ARGUMENT", _ACCEPTED),
    "classes of BOOL": ("INVALID_ARGUMENT", _ACCEPTED),
}
# Of a configuration: what tells how a model is served.
_SERVED = ("platform", "backend", "default_model_filename", "parameters", "instance_group", "model_transaction_policy")


@pytest.fixture(scope="module")
def stubs(start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stub, Stub]]:
    """Triton and this server."""
    folder = tmp_path_factory.mktemp("beside")
    triton_server.write(folder / "python", is_onnx=False)
    triton_server.write(folder / "onnx", is_onnx=True)
    flags = ("--admin-port", "0", "--system-shared-memory-bytes", "1000")
    with (
        triton_server.running(folder, folder / "python") as address,
        start_server(folder / "onnx", *flags) as server,
        grpc.insecure_channel(address) as triton,
        grpc.insecure_channel(server.admin) as own,
    ):
        yield Stub(triton), Stub(own)


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except grpc.RpcError as error:
        return error.code().name  # type: ignore[attr-defined]


def _answer(stub: Stub, request: pb.ModelInferRequest) -> Any:
    """Return the status of a refused request; of others all but the contents, which Triton's backend makes."""

    def ask() -> Any:
        answer = stub.ModelInfer(request, timeout=30)
        assert len(answer.raw_output_contents) == len(answer.outputs)
        outputs = [(output.name, output.datatype, list(output.shape)) for output in answer.outputs]
        return answer.model_name, answer.model_version, answer.id, outputs

    return _outcome(ask)


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_have_the_same_outcomes(stubs: tuple[Stub, Stub], name: str) -> None:
    triton, own = (_answer(stub, REQUESTS[name]) for stub in stubs)
    if name in DIFFERENCES:
        shown = tuple(each if isinstance(each, str) else _ACCEPTED for each in (triton, own))
        assert shown == DIFFERENCES[name]
    else:
        assert own == triton


def _fields(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


@pytest.mark.parametrize("model", triton_server.MODELS)
def test_metadata_and_configuration_are_the_same(stubs: tuple[Stub, Stub], model: str) -> None:
    for version in ("", "1") if model != "latest" else ("", "2"):
        metadata = [_fields(stub.ModelMetadata(pb.ModelMetadataRequest(name=model, version=version))) for stub in stubs]
        for each in metadata:
            del each["platform"]
        assert metadata[1] == metadata[0]
    configurations = [_fields(stub.ModelConfig(pb.ModelConfigRequest(name=model)))["config"] for stub in stubs]
    for each in configurations:
        for field in _SERVED:
            each.pop(field, None)
        each.get("dynamic_batching", {}).pop("preferred_batch_size", None)
    if "dynamic_batching" not in configurations[0]:
        # Requests share batches all the same, and the queue has a limit.
        configurations[1].pop("dynamic_batching", None)
    assert configurations[1] == configurations[0]


def test_the_index_readiness_and_unknown_models(stubs: tuple[Stub, Stub]) -> None:
    def index(stub: Stub, **asked: Any) -> Any:
        found = stub.RepositoryIndex(pb.RepositoryIndexRequest(**asked)).models
        return sorted((each.name, each.version, each.state) for each in found)

    triton, own = stubs
    assert index(own, ready=True) == index(triton, ready=True)
    for name, version in (("nobody", ""), ("versions", "2"), ("versions", "3")):
        request = pb.ModelReadyRequest(name=name, version=version)
        assert own.ModelReady(request) == triton.ModelReady(request)
    for outcomes in (
        [_outcome(lambda stub=stub: index(stub, repository_name="other")) for stub in stubs],
        [_outcome(lambda stub=stub: stub.ModelMetadata(pb.ModelMetadataRequest(name="nobody"))) for stub in stubs],
        [
            _outcome(lambda stub=stub: stub.ModelConfig(pb.ModelConfigRequest(name="versions", version="2")))
            for stub in stubs
        ],
    ):
        assert outcomes[0] == outcomes[1]
        assert isinstance(outcomes[0], str)


def test_statistics_have_the_same_counts(stubs: tuple[Stub, Stub]) -> None:
    def counts(stub: Stub) -> Any:
        (found,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="latest")).model_stats
        stats = found.inference_stats
        phases = (stats.success, stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
        return found.inference_count, found.execution_count, [phase.count for phase in phases]

    gained = []
    for stub in stubs:
        before = counts(stub)
        for rows in (1, 2, 2):
            stub.ModelInfer(_request("latest", (rows, 2)), timeout=30)
        _answer(stub, _request("latest", (1, 5)))
        after = counts(stub)
        phases = [b - a for a, b in zip(before[2], after[2], strict=True)]
        gained.append((after[0] - before[0], after[1] - before[1], phases))
    assert gained[1] == gained[0] == (5, 3, [3] * 5)


def test_errors_on_a_stream_do_not_end_it(stubs: tuple[Stub, Stub]) -> None:
    requests = [_request(), _request(shape=(1, 4)), _request("nobody"), _request()]
    ends = [
        [
            (bool(answer.error_message), answer.infer_response.id, len(answer.infer_response.outputs))
            for answer in stub.ModelStreamInfer(iter(requests), timeout=30)
        ]
        for stub in stubs
    ]
    assert ends[1] == ends[0] == [(False, "seven", 1), (True, "seven", 0), (True, "seven", 0), (False, "seven", 1)]
