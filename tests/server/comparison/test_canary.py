"""A new version as a canary, with a real server: who is answered by it, by gRPC and over HTTP, and its latency."""

import json
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc, vision_pb2, vision_pb2_grpc
from resonnx_server.access.keys import digest_of

from ...conftest import RunningServer
from .. import answering
from ..http.rest.asking_http import ask
from .calling import calling, until

_SHAPE = [1, answering.SIDE, answering.SIDE, 3]
_PIXELS = np.random.default_rng(0).integers(0, 256, _SHAPE, np.uint8)
_RAW = vision_pb2.Image.Raw(rgb=_PIXELS.tobytes(), width=answering.SIDE, height=answering.SIDE)
_KEYS = tuple(f"tenant{number}" for number in range(16))

# Asks with an id and, if there is one, a key; returns the version that has answered.
Way = Callable[[str, str], int]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose model has version 1, which answers with class 1."""
    answering.write(tmp_path / "models/m/1", 1)
    return tmp_path / "models"


def ways(server: RunningServer, channel: grpc.Channel) -> list[Way]:
    """Return all ways to ask: tensors and pictures, by gRPC and over HTTP."""
    vision, tensors = vision_pb2_grpc.VisionStub(channel), grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def metadata(key: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {key}"),) if key else ()

    def classify(identifier: str, key: str) -> int:
        request = vision_pb2.ClassifyRequest(model="m", image={"raw": _RAW}, id=identifier)
        answer: vision_pb2.ClassifyResponse = vision.Classify(request, metadata=metadata(key), timeout=20)
        return answer.version

    def infer(identifier: str, key: str) -> int:
        given = {"name": "image", "datatype": "UINT8", "shape": _SHAPE}
        request = oip.ModelInferRequest(model_name="m", id=identifier, inputs=[given])
        request.raw_input_contents.append(_PIXELS.tobytes())
        return int(tensors.ModelInfer(request, metadata=metadata(key), timeout=20).model_version)

    def posted(path: str, body: bytes, key: str, **headers: str) -> str:
        more = {"Authorization": f"Bearer {key}"} if key else {}
        answer = ask(server.http, path, body, **headers, **more)
        assert answer.status == 200, answer.body
        return str(answer.json.get("version", answer.json.get("model_version")))

    file = server.log.parent / "picture.png"
    Image.fromarray(_PIXELS[0]).save(file)

    def post_picture(identifier: str, key: str) -> int:
        return int(posted("/v1/classify/m", file.read_bytes(), key, X_Request_Id=identifier))

    def post_tensor(identifier: str, key: str) -> int:
        given = {"name": "image", "datatype": "UINT8", "shape": _SHAPE, "data": _PIXELS.ravel().tolist()}
        return int(posted("/v2/models/m/infer", json.dumps({"id": identifier, "inputs": [given]}).encode(), key))

    return [classify, infer, post_picture, post_tensor]


def test_callers_without_a_key_are_chosen_by_the_id_of_their_requests(start_server, repository: Path) -> None:
    with calling(start_server, repository) as caller:
        answering.write(repository / "m/2", 2)
        caller.start(2, pb.COMPARISON_MODE_CANARY, share=0.25)
        first, *others = ways(caller.server, caller.channel)
        chosen = {identifier: first(identifier, "") for identifier in (f"user {number}" for number in range(200))}
        # Of 200, a quarter, to within four deviations.
        assert 26 <= sum(version == 2 for version in chosen.values()) <= 74
        for identifier in [*chosen][:24]:
            assert {way(identifier, "") for way in (first, *others)} == {chosen[identifier]}
        # Those who name a version get it.
        assert {caller.classify(identifier, version=1) for identifier in [*chosen][:24]} == {(1, 1)}
        status = until(caller.status, lambda it: it.answers >= 4, lambda: [caller.classify(each) for each in chosen])
        assert status.equal == 0
        assert status.calls > 0 < status.serving_calls
        ended = caller.admin.Rollback(pb.RollbackRequest(model="m"), timeout=20).comparison
        assert (ended.state, ended.reason[:10]) == (pb.COMPARISON_STATE_ROLLED_BACK, "by request")
        assert {way(identifier, "") for identifier in [*chosen][:24] for way in (first, *others)} == {1}


@pytest.mark.parametrize("front", ["core", "aio"])
def test_callers_with_a_key_are_chosen_by_it_on_each_front(start_server, repository: Path, front: str) -> None:
    roles = {"boss": ["admin", "read", "infer"], **{key: ["infer"] for key in _KEYS}}
    keys = repository.parent / "keys.toml"
    keys.write_text("".join(f"[keys.{it}]\nsha256='{digest_of(it).hex()}'\nroles={roles[it]}\n" for it in roles))
    flags = ("--admin-on-main", "--keys-file", str(keys), "--grpc-front", front)
    with start_server(repository, *flags) as server, grpc.insecure_channel(server.grpc) as channel:
        admin, boss = repository_pb2_grpc.RepositoryStub(channel), (("authorization", "Bearer boss"),)

        def start(mode: int, **more: object) -> None:
            request = pb.StartComparisonRequest(model="m", version=2, mode=mode, **more)
            admin.StartComparison(request, metadata=boss, timeout=60)

        def status() -> pb.Comparison:
            (found,) = admin.Status(pb.StatusRequest(model="m"), metadata=boss, timeout=20).comparisons
            return found

        answering.write(repository / "m/2", 1)
        start(pb.COMPARISON_MODE_CANARY, share=0.5)
        chosen: dict[str, set[int]] = {key: set() for key in _KEYS}
        for number, way in enumerate(ways(server, channel)):
            for key in _KEYS:
                chosen[key] |= {way(f"{number} of {key}", key), way("", key)}
        assert all(len(versions) == 1 for versions in chosen.values()), chosen
        assert 3 <= sum(versions == {2} for versions in chosen.values()) <= 13
        ask_all = ways(server, channel)[0]
        compared = until(status, lambda it: it.answers >= 20, lambda: [ask_all("", key) for key in _KEYS])
        assert compared.equal == compared.answers
        admin.Rollback(pb.RollbackRequest(model="m"), metadata=boss, timeout=20)
        # In shadow, each way's requests are compared.
        start(pb.COMPARISON_MODE_SHADOW, share=1)
        for count, way in enumerate(ways(server, channel), 1):
            assert way("", _KEYS[0]) == 1
            until(status, lambda it, count=count: it.answers == count, lambda: None)
        assert status().max_probability_difference < 1e-6


def test_the_latency_of_a_canary_decides(start_server, repository: Path) -> None:
    with calling(start_server, repository) as caller:
        ids = map("user {}".format, range(1_000_000))
        cases = ((2, "p99<=0.001x", pb.COMPARISON_STATE_ROLLED_BACK), (3, "p99<=50000ms", pb.COMPARISON_STATE_PROMOTED))
        for version, term, state in cases:
            answering.write(repository / f"m/{version}", 1)
            caller.start(version, pb.COMPARISON_MODE_CANARY, share=0.5, promote_if=f"{term} and n>=20")
            told = until(
                caller.status,
                lambda it: it.state != pb.COMPARISON_STATE_RUNNING,
                lambda: caller.classify(next(ids)),
            )
            assert told.state == state, told.reason
            assert told.reason.startswith("the 99th percentile of its latency") == (version == 2)
            # 200 calls of each are needed.
            assert min(told.calls, told.serving_calls) >= 200
            assert min(told.p99_ms, told.serving_p99_ms) > 0
            assert caller.classify() == (1 if version == 2 else 3, 1)
