"""Models that change while the server runs, with a real server that watches its repository."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_proto.inference import grpc_service_pb2 as oip_pb
from resonnx_proto.inference import grpc_service_pb2_grpc as oip_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

from ...conftest import RunningServer
from .. import answering

_POLL = ("--control-mode", "poll", "--poll-interval-s", "0.1")
_RAW = vision_pb2.Image.Raw(rgb=bytes(answering.SIDE**2 * 3), width=answering.SIDE, height=answering.SIDE)


class Caller:
    """A client of the server."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.channel = grpc.insecure_channel(server.grpc)
        self.vision = vision_pb2_grpc.VisionStub(self.channel)
        self.oip = oip_grpc.GRPCInferenceServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def classify(self, model: str = "m", **version: int | str) -> tuple[int, int]:
        """Return the version that has answered, and the best class."""
        request = vision_pb2.ClassifyRequest(model=model, image={"raw": _RAW}, top_k=1, **version)
        answer = self.vision.Classify(request, timeout=20)
        return answer.version, answer.predictions[0].index

    def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Return states and reasons by name and version."""
        models = self.oip.RepositoryIndex(oip_pb.RepositoryIndexRequest(), timeout=20).models
        return {(each.name, each.version): (each.state, each.reason) for each in models}

    def status(self, service: str) -> int:
        """Return the health of a model or version."""
        request = health_pb2.HealthCheckRequest(service=f"resonnx.v1.Vision/{service}")
        return self.health.Check(request, timeout=20).status


def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds."""
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


@contextmanager
def calling(start_server, repository: Path, *flags: str) -> Iterator[Caller]:
    with start_server(repository, *flags) as server:
        caller = Caller(server)
        with caller.channel:
            yield caller


def test_changes_are_taken_while_requests_are_answered(start_server, tmp_path: Path) -> None:
    """New versions, worse ones, repaired ones, changed ones and vanished ones; no request fails."""
    answering.write(tmp_path / "m" / "1", 1)
    with calling(start_server, tmp_path, *_POLL) as caller:
        over, seen, failed = threading.Event(), set(), []

        def ask() -> None:
            while not over.is_set():
                try:
                    seen.add(caller.classify())
                except grpc.RpcError as error:
                    failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            answering.write(tmp_path / "m" / "2", 2)
            until(lambda: caller.classify() == (2, 2))
            until(lambda: ("m", "1") not in caller.index() or caller.index()["m", "1"][0] == "UNAVAILABLE")
            # It lies, so the old one serves on; and it is tried again when its files change.
            answering.write(tmp_path / "m" / "3", 3, lies=True)
            until(lambda: "disagree with the golden" in caller.index().get(("m", "3"), ("", ""))[1])
            assert caller.classify() == (2, 2)
            assert caller.status("m:3") == health_pb2.HealthCheckResponse.NOT_SERVING
            answering.write(tmp_path / "m" / "3", 33)
            until(lambda: caller.classify() == (3, 33))
            # The same version with other files, first damaged ones.
            answering.write(tmp_path / "m" / "3", 34, corrupt=True)
            until(lambda: "is damaged" in caller.index()["m", "3"][1])
            assert caller.index()["m", "3"][0] == "READY"
            answering.write(tmp_path / "m" / "3", 35)
            until(lambda: caller.classify() == (3, 35))
            # It vanishes: the next lower version takes its place.
            shutil.rmtree(tmp_path / "m" / "3")
            until(lambda: caller.classify() == (2, 2))
            assert caller.status("m") == caller.status("m:2") == health_pb2.HealthCheckResponse.SERVING
        finally:
            over.set()
            asking.join()
        assert not failed
        assert seen <= {(1, 1), (2, 2), (3, 33), (3, 35)}
        # Of every version, unloaded ones as well, what was answered was counted.
        counted = sum(caller.server.metric("nv_inference_request_success", model="m", version=v) for v in "123")
        assert counted > len(seen)


def test_settings_beside_a_model_change_it(start_server, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        answering.write(tmp_path / "m" / str(version), version)
    with calling(start_server, tmp_path, *_POLL) as caller:
        assert caller.classify() == (3, 3)
        with pytest.raises(grpc.RpcError, match="has no version 1"):
            caller.classify(version=1)
        settings = tmp_path / "m" / "config.toml"
        settings.write_text('version_policy = "all"\nlabels = {stable = 1, canary = 3}\n')
        until(lambda: caller.classify() == (1, 1))
        until(lambda: ("m", "2") in caller.index() and caller.index()["m", "2"][0] == "READY")
        assert caller.classify(version_label="canary") == (3, 3)
        assert caller.classify(version=2) == (2, 2)
        assert caller.status("m:canary") == health_pb2.HealthCheckResponse.SERVING
        request = oip_pb.ModelReadyRequest(name="m", version="canary")
        assert caller.oip.ModelReady(request, timeout=20).ready
        models = caller.vision.ListModels(vision_pb2.ListModelsRequest(), timeout=20).models
        assert [(each.version, [*each.labels], each.is_default) for each in models] == [
            (1, ["stable"], True),
            (2, [], False),
            (3, ["canary"], False),
        ]
        settings.write_text("max_batch_size = 4\n")
        until(lambda: caller.classify() == (3, 3))
        until(lambda: caller.vision.GetModel(vision_pb2.GetModelRequest(model="m"), timeout=20).max_batch_size == 4)


def test_a_model_that_comes_late_and_goes(start_server, tmp_path: Path) -> None:
    answering.write(tmp_path / "m" / "1", 1)
    with calling(start_server, tmp_path, *_POLL) as caller:
        answering.write(tmp_path / "late" / "1", 7)
        until(lambda: ("late", "1") in caller.index() and caller.index()["late", "1"][0] == "READY")
        assert caller.classify("late") == (1, 7)
        shutil.rmtree(tmp_path / "m")
        until(lambda: caller.index().get(("m", "1"), ("UNAVAILABLE", ""))[0] == "UNAVAILABLE")
        with pytest.raises(grpc.RpcError, match="not in the repository"):
            caller.classify()
        # All at once is what a volume looks like that is not mounted.
        shutil.rmtree(tmp_path / "late")
        until(lambda: "become empty" in caller.server.log.read_text())
        assert caller.classify("late") == (1, 7)


def test_nothing_changes_without_a_control_mode(start_server, tmp_path: Path) -> None:
    answering.write(tmp_path / "m" / "1", 1)
    with calling(start_server, tmp_path) as caller:
        answering.write(tmp_path / "m" / "2", 2)
        assert caller.classify() == (1, 1)
        assert [*caller.index()] == [("m", "1")]
