"""Calls that are cancelled while they are unpacked, to use up the memory budget for good (SECURITY.md: gzip)."""

import gzip
from collections.abc import Iterator

import grpc
import pytest
from resonnx_proto.v1 import vision_pb2

from ..guarded import FRONTS, Guarded, eventually, guarded

MB = 1 << 20
BUDGET = "resonnx_memory_requests_bytes"


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(start_server, tmp_path_factory.mktemp("charges"), request.param, keys=False) as running:
        yield running


def test_calls_that_are_cancelled_while_they_are_unpacked(server: Guarded) -> None:
    request = vision_pb2.ClassifyRequest(model="doubling", id="x" * (60 * MB)).SerializeToString()
    packed = gzip.compress(request, 6)
    with grpc.insecure_channel(server.server.grpc) as channel:
        classify = channel.unary_unary("/resonnx.v1.Vision/Classify")
        for _ in range(2):
            call = classify.future(packed, timeout=20)
            # Some of it is unpacked.
            eventually(lambda call=call: call.done() or server.server.metric(BUDGET) > MB)
            call.cancel()
            eventually(lambda: not server.server.metric(BUDGET))
